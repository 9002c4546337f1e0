//! Layer archives: tar in, tar out, and the lists of changes between two trees.
//!
//! An archive comes from outside. [`apply`] writes it below one folder and nowhere else, whatever its
//! names and links say; [`reader`] decides where one entry ends and the next begins, by the same rules as
//! the engines. [`diff`] reads an overlay's upper folder, [`walk`] compares any two trees, and both speak
//! through [`writer`], whose bytes depend on nothing but the tree.

pub mod apply;
pub mod diff;
pub mod reader;
pub mod walk;
pub mod writer;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use plugin_api::{Fault, FaultKind};

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
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        let kind = match &error {
            ArchiveError::Stream(_) | ArchiveError::Receiver(_) => FaultKind::Unavailable,
            ArchiveError::Malformed { .. } | ArchiveError::Refused { .. } => FaultKind::Invalid,
            ArchiveError::Kernel(error) => return crate::kernel_fault(clone(error)),
        };
        Fault::from_error(kind, error)
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
