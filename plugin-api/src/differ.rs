//! Archives of layers, as containerd asks for them: unpack a blob upon mounts, pack what turns one tree into
//! another. Whoever calls brings the bytes and takes them away.

use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::fault::Fault;
use crate::snapshot::SnapshotMount;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// RFC 1952; several members are one archive.
    Gzip,
    /// RFC 8878; several frames are one archive.
    Zstd,
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that were read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub bytes: u64,
}

/// What a diff has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// The archive before it was compressed.
    pub archive: Stream,
    /// What was written.
    pub blob: Stream,
}

/// A difference that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The older tree; without mounts, an empty one.
    pub left: Vec<SnapshotMount>,
    /// The newer tree.
    pub right: Vec<SnapshotMount>,
    /// How to compress it.
    pub packing: Packing,
    /// Seconds and nanoseconds since 1970: no time in the archive is later, and deletions have this one.
    pub latest: Option<(i64, u32)>,
}

/// Unpacks and packs layers. Blocking, called from many threads at once.
pub trait Differ: Send + Sync {
    /// Unpacks `blob` upon the tree that `mounts` describe, durably, and tells of the archive in it; `packing`
    /// is what the blob must be, or nothing where it tells itself. Mounts that are not understood are
    /// `Unsupported`, and so are theirs alone; a bad archive is `Invalid`.
    fn apply(
        &self,
        blob: &mut dyn Read,
        packing: Option<Packing>,
        mounts: &[SnapshotMount],
    ) -> Result<Stream, Fault>;
    /// Writes to `out` what turns one tree into the other.
    fn diff(&self, asked: &Difference, out: &mut dyn Write) -> Result<Packed, Fault>;
}

/// A differ behind a socket, with the socket on which containerd has its blobs.
#[derive(Clone)]
pub struct DifferOf {
    /// What does the work.
    pub differ: Arc<dyn Differ>,
    /// containerd's socket.
    pub containerd: PathBuf,
}
