//! Volumes: named directories that outlive containers.
//!
//! # First volume
//! `create` by name and options, `mount` for a holder and use the path, `unmount` for the same holder,
//! `remove`. `docker cp` mounts and unmounts again with the id of a running container, and a killed
//! engine never unmounts, so holds are **counted per (volume, holder)**, and the first mount of a known
//! holder after [`VolumeDriver::engine_arrived`] sets its count to one instead of adding.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::fault::Fault;
use crate::id::{HolderId, VolumeName};
use crate::{Done, EnginePeer, Options};

/// Whether a thing belongs to one host or to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Known on one host.
    Local,
    /// Known on every host of the cluster.
    Global,
}

impl Scope {
    /// `local` or `global`, as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

/// What a driver tells of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its name.
    pub name: VolumeName,
    /// Where it is mounted; `None` while nobody holds it.
    pub mountpoint: Option<PathBuf>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// Rows for `docker volume inspect`.
    pub status: BTreeMap<String, String>,
}

/// A volume driver: `VolumeDriver.*` on the wire.
pub trait VolumeDriver: Send + Sync {
    /// Whether volumes are known on one host or on all.
    fn scope(&self) -> Scope;
    /// An engine process said hello. Podman says it at every command, Docker once per process.
    fn engine_arrived(&self, _peer: EnginePeer) {}
    /// Makes a volume. The same again is [`Done::AlreadySo`]; other options are `AlreadyExists` and
    /// named in the message; unknown options are `Invalid` and the known ones listed.
    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault>;
    /// Removes a volume and its data. Unknown is [`Done::AlreadySo`], held is `InUse`.
    fn remove(&self, name: &VolumeName) -> Result<Done, Fault>;
    /// Holds the volume once more for `holder`, as `peer` asked, and returns its absolute path, which
    /// exists. Several engines may share one socket; each has holders of its own.
    fn mount(&self, name: &VolumeName, holder: &HolderId, peer: EnginePeer) -> Result<PathBuf, Fault>;
    /// Drops one hold. Unknown volume or holder is [`Done::AlreadySo`].
    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault>;
    /// The volume, from local truth only: an engine forgets a volume whose `get` fails once.
    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault>;
    /// Every volume, sorted by name.
    fn list(&self) -> Result<Vec<VolumeInfo>, Fault>;
}
