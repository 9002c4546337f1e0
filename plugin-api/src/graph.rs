//! Layers: copy-on-write file trees, each a delta over one parent.
//!
//! Two traits. [`GraphDriver`] is what a back end (overlay, device-mapper) implements: it keeps layers
//! and says **how to mount** one, never where. [`GraphPlugin`] is Docker's door, `GraphDriver.*` on the
//! wire: it mounts, counts holds and streams archives, and is built once over any back end.
//!
//! # First layer
//! `create` an image layer without a parent, `apply` an archive to it. Next layer: `create` with the
//! first as parent, `apply`. Run a container: `create_read_write` over the image, `get` its directory,
//! `put` it when the container stops, `remove` it when the container goes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use crate::fault::Fault;
use crate::id::LayerId;
use crate::{Done, Options};

/// What a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Filled once by an archive, then only read.
    Image,
    /// Written by a container.
    Container,
}

/// A layer to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    /// Its id, chosen by the engine.
    pub id: LayerId,
    /// The layer below it.
    pub parent: Option<LayerId>,
    /// What it is for.
    pub kind: LayerKind,
    /// Largest size in bytes of what is written into it.
    pub quota: Option<u64>,
    /// SELinux label its mounts carry.
    pub label: Option<String>,
}

/// How to mount a layer; the caller chooses where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSpec {
    /// A single directory, no mount needed.
    Directory {
        /// The layer's own tree.
        path: PathBuf,
    },
    /// An overlay.
    Overlay {
        /// Lower directories, top first.
        lowers: Vec<PathBuf>,
        /// Upper and work directory; `None` mounts read-only.
        upper: Option<(PathBuf, PathBuf)>,
        /// SELinux label.
        label: Option<String>,
    },
}

/// What the store knows of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its id.
    pub id: LayerId,
    /// The layer below it.
    pub parent: Option<LayerId>,
    /// What it is for.
    pub kind: LayerKind,
}

/// What a layer holds itself, without its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sum of apparent file sizes in bytes, hard links once.
    pub bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// How a path differs between a layer and its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// In both, different. 0 on the wire.
    Modified,
    /// Only in the layer. 1 on the wire.
    Added,
    /// Only in the parent. 2 on the wire.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute within the layer: `/etc/passwd`.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
}

/// What a back end can do on this host: rows for people, with reasons.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// `("Backing Filesystem", "extfs")`, `("New Mount API", "yes")`…
    pub rows: Vec<(String, String)>,
}

/// A back end that keeps layers. Blocking on purpose: mounts, ioctls and tar all block, and the server
/// runs every verb on its blocking pool.
pub trait GraphDriver: Send + Sync {
    /// The driver's name in messages: `overlay`.
    fn name(&self) -> &'static str;
    /// What this host can do.
    fn probe(&self) -> Result<Probe, Fault>;
    /// Makes an empty layer. The same layer again is [`Done::AlreadySo`]; another one of that id is
    /// `AlreadyExists`, a missing parent `NotFound`.
    fn create(&self, spec: &LayerSpec) -> Result<Done, Fault>;
    /// How to mount the layer. Repeatable.
    fn mounts(&self, id: &LayerId) -> Result<Vec<MountSpec>, Fault>;
    /// Removes the layer; an unknown one is [`Done::AlreadySo`], one with children `InUse`.
    fn remove(&self, id: &LayerId) -> Result<Done, Fault>;
    /// The layer, or `NotFound`.
    fn stat(&self, id: &LayerId) -> Result<LayerInfo, Fault>;
    /// Every layer.
    fn list(&self) -> Result<Vec<LayerInfo>, Fault>;
    /// What the layer holds itself.
    fn usage(&self, id: &LayerId) -> Result<Usage, Fault>;
    /// Directories of the layer, under the keys that tools read (`UpperDir`, `LowerDir`…).
    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault>;
    /// Returns when what was removed takes no more space.
    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
    /// The way in and out of archives that needs no mount, if the back end has one for this pair.
    fn native_diff(&self) -> Option<&dyn NativeDiff> {
        None
    }
}

/// Archives straight from and to a back end's own directories.
pub trait NativeDiff: Send + Sync {
    /// Writes the layer as an uncompressed tar with AUFS-style whiteouts.
    fn diff(&self, id: &LayerId, out: &mut dyn Write) -> Result<(), Fault>;
    /// Changed paths against the direct parent, sorted.
    fn changes(&self, id: &LayerId) -> Result<Vec<Change>, Fault>;
    /// Unpacks an uncompressed tar into an image layer and returns the bytes it holds.
    fn apply(&self, id: &LayerId, archive: &mut dyn Read) -> Result<u64, Fault>;
}

// === Docker's door ===

/// `GraphDriver.Init`: sent once at every start of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GraphInit {
    /// Where the engine would like the data: `<data-root>/NAME`.
    pub home: PathBuf,
    /// Every `--storage-opt` as typed.
    pub options: Vec<String>,
    /// `(container id, host id, size)` rows; empty without user namespaces.
    pub uid_maps: Vec<(u32, u32, u32)>,
    /// As `uid_maps`, for groups.
    pub gid_maps: Vec<(u32, u32, u32)>,
}

/// `GraphDriver.Create` and `CreateReadWrite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The layer's id.
    pub id: LayerId,
    /// The layer below it.
    pub parent: Option<LayerId>,
    /// SELinux label, or empty.
    pub mount_label: String,
    /// `--storage-opt` of one container, such as `size=2G`.
    pub options: Options,
}

/// Docker's graph plugin interface, verb by verb. Removed from Docker 28.
pub trait GraphPlugin: Send + Sync {
    /// A new engine process begins: counts of holds of the one before are void.
    fn init(&self, init: &GraphInit) -> Result<Done, Fault>;
    /// Whether `diff` gives back the very bytes that were applied.
    fn reproduces_exact_diffs(&self) -> bool {
        false
    }
    /// Rows for `docker info`.
    fn status(&self) -> Result<Vec<(String, String)>, Fault>;
    /// An empty read-only layer. The same again is [`Done::AlreadySo`].
    fn create(&self, layer: &NewLayer) -> Result<Done, Fault>;
    /// A container's layer.
    fn create_read_write(&self, layer: &NewLayer) -> Result<Done, Fault>;
    /// Mounts the layer, or holds it once more, and returns its directory.
    fn get(&self, id: &LayerId, mount_label: &str) -> Result<PathBuf, Fault>;
    /// Drops one hold; the last one unmounts. Nothing held is [`Done::AlreadySo`].
    fn put(&self, id: &LayerId) -> Result<Done, Fault>;
    /// Whether the layer is there.
    fn exists(&self, id: &LayerId) -> Result<bool, Fault>;
    /// Removes the layer: unknown is [`Done::AlreadySo`], held or with children `InUse`.
    fn remove(&self, id: &LayerId) -> Result<Done, Fault>;
    /// Shown by `docker inspect`.
    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault>;
    /// Changed paths against `parent`, sorted.
    fn changes(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<Change>, Fault>;
    /// Writes the difference as an uncompressed tar. Before the first byte an error is told; after it
    /// the only way is to break the stream.
    fn diff(&self, id: &LayerId, parent: Option<&LayerId>, out: &mut dyn Write) -> Result<(), Fault>;
    /// Bytes of the difference.
    fn diff_size(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<u64, Fault>;
    /// Unpacks an uncompressed tar and returns the bytes it holds; equals `diff_size` afterwards.
    fn apply_diff(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        archive: &mut dyn Read,
    ) -> Result<u64, Fault>;
    /// The engine shuts down: the last call.
    fn cleanup(&self) -> Result<Done, Fault>;
}
