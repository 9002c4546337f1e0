//! Layer archives: tar in, tar out, and the lists of changes between two trees.
//!
//! An archive comes from outside. [`apply`] writes it below one folder and nowhere else, whatever its
//! names and links say; [`reader`] decides where one entry ends and the next begins, by the same rules as
//! the engines. [`diff`] reads an overlay's upper folder, [`walk`] compares any two trees, and both speak
//! through [`writer`], whose bytes depend on nothing but the tree.

pub mod apply;
pub mod diff;
mod flow;
mod pack;
pub mod reader;
pub mod walk;
pub mod writer;

use std::ffi::OsStr;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use plugin_api::differ::{Packed, Packing, Stream};
use plugin_api::{Fault, FaultKind};

/// Unpacks an archive that is not compressed, as [`apply::unpack`] does, while it is still being read.
pub fn unpack(root: &Path, into: apply::Into<'_>, archive: &mut dyn Read) -> Result<(), ArchiveError> {
    flow::read_ahead(archive, |archive| apply::unpack(root, into, archive))
}

/// Unpacks a compressed archive (nothing said: it tells itself), and tells of what was in it.
pub fn unpack_blob(
    root: &Path,
    into: apply::Into<'_>,
    blob: &mut dyn Read,
    packing: Option<Packing>,
) -> Result<Stream, ArchiveError> {
    let (done, stream) = read_blob(blob, packing, |archive| apply::unpack(root, into, archive))?;
    let () = done;
    Ok(stream)
}

/// Gives `work`, which gets a thread of its own, the archive in a blob.
pub(crate) fn read_blob<T: Send>(
    blob: &mut dyn Read,
    packing: Option<Packing>,
    work: impl FnOnce(&mut dyn BufRead) -> Result<T, ArchiveError> + Send,
) -> Result<(T, Stream), ArchiveError> {
    flow::unpack(blob, packing, work)
}

/// Compresses what `write`, which gets a thread of its own, writes.
pub fn pack_blob(
    out: &mut dyn Write,
    packing: Packing,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ArchiveError> + Send,
) -> Result<Packed, ArchiveError> {
    pack::pack(out, packing, write)
}

/// What names of deleted files begin with in an archive.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The name that says: nothing of this folder shines through from below.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlay file systems say the same.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream broke.
    #[error("read archive")]
    Stream(#[source] io::Error),
    /// The receiver went away.
    #[error("write archive")]
    Receiver(#[source] io::Error),
    /// This is no well-formed archive.
    #[error("read archive at entry {entry}: {why}")]
    Malformed {
        /// Number of the entry, from 1.
        entry: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry that is understood and not allowed.
    #[error("unpack {path:?}: {why}")]
    Refused {
        /// The entry.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// What was asked for cannot be.
    #[error("{}", .0.sentence())]
    Told(Fault),
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        let kind = match &error {
            ArchiveError::Stream(cause) | ArchiveError::Receiver(cause) => stream_kind(cause),
            ArchiveError::Malformed { .. } | ArchiveError::Refused { .. } => FaultKind::Invalid,
            ArchiveError::Kernel(error) => return crate::kernel_fault(clone(error)),
            ArchiveError::Told(_) => FaultKind::Internal,
        };
        match error {
            ArchiveError::Told(fault) => fault,
            error => Self::from_error(kind, error),
        }
    }
}

/// Whose fault a broken stream is: that of the bytes, or of whoever brings or takes them.
fn stream_kind(error: &io::Error) -> FaultKind {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    if let Some(fault) = error.get_ref().and_then(|cause| cause.downcast_ref::<Fault>()) {
        return fault.kind;
    }
    match error.kind() {
        InvalidData | InvalidInput | Other | UnexpectedEof => FaultKind::Invalid,
        _ => FaultKind::Unavailable,
    }
}

fn clone(error: &kernel::Error) -> kernel::Error {
    let source = match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.source.kind(), error.source.to_string()),
    };
    kernel::Error::new(error.operation, error.subject.clone(), source)
}

/// Which attributes travel in archives. Those of overlay file systems would change what the layer means,
/// and labels belong to the machine.
pub(crate) fn travels(key: &OsStr) -> bool {
    let key = key.as_bytes();
    key == b"security.capability"
        || key == b"system.posix_acl_access"
        || key == b"system.posix_acl_default"
        || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
