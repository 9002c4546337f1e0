//! Words that are never printed.

use std::fmt;
use std::io;
use std::path::Path;

/// A token or a password that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A token; an error where it could not stand in a header.
    pub fn new(text: impl Into<String>) -> io::Result<Self> {
        let text = text.into();
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a token is one word of plain characters",
            ));
        }
        Ok(Self(text))
    }

    /// The token that a file holds, without the white space around it.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        Self::new(std::fs::read_to_string(path)?.trim())
    }

    /// For the store alone.
    pub(crate) fn word(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
