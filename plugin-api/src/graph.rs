//! Layers: copy-on-write file trees, each a delta over one parent.
//!
//! [`GraphPlugin`] is Docker's door, `GraphDriver.*` on the wire: it mounts, counts holds and streams archives.
//! How layers are kept is the drivers' own affair.
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
