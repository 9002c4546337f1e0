//! What failed on what.

use std::io;

/// A kernel call that failed. Shown as `operation subject`, with the errno as its source.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}")]
pub struct Error {
    /// What was tried: `create bridge`, `rename`.
    pub operation: &'static str,
    /// On what: a path, a link's name.
    pub subject: String,
    /// Why it failed.
    pub source: io::Error,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error from an `io::Error` or a rustix errno.
    pub fn new(operation: &'static str, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            operation,
            subject: subject.into(),
            source: source.into(),
        }
    }

    /// An error with a sentence of our own instead of an errno.
    pub fn other(operation: &'static str, subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(operation, subject, io::Error::other(why.into()))
    }

    /// The same error for another who waits for the same thing.
    pub(crate) fn again(&self) -> Self {
        let source = self.errno().map_or_else(
            || io::Error::other(self.source.to_string()),
            io::Error::from_raw_os_error,
        );
        Self::new(self.operation, self.subject.clone(), source)
    }

    /// The errno, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the subject was there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the subject was not there.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::ENXIO)
        )
    }

    /// Whether somebody uses the subject.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }
}

/// Adds operation and subject to a result.
pub trait Context<T> {
    /// `file.sync_all().context("sync", path)`.
    fn context(self, operation: &'static str, subject: impl AsRef<std::ffi::OsStr>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, subject: impl AsRef<std::ffi::OsStr>) -> Result<T> {
        self.map_err(|error| Error::new(operation, subject.as_ref().to_string_lossy(), error))
    }
}
