//! Room kept for what gives room back: a file beside the records, removed where a disk is full.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes kept: some dozens of the store's pages.
const KEPT: u64 = 256 << 10;

/// The file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Beside the store at `path`.
    pub(super) fn beside(path: &Path) -> Self {
        Self {
            path: path.with_extension("reserve"),
        }
    }

    /// Makes it, unless it is there; `false` where there is no room for it.
    pub(super) fn keep(&self) -> bool {
        let is_whole = |file: &File| file.metadata().is_ok_and(|data| data.len() >= KEPT);
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let Ok(file) = options.open(&self.path) else {
            return false;
        };
        // A file system that cannot allocate keeps nothing: there the reserve is none.
        if is_whole(&file) || fallocate(&file, FallocateFlags::empty(), 0, KEPT).is_ok() {
            return true;
        }
        self.give_up();
        false
    }

    /// Gives its room back; `false` if it was not there.
    pub(super) fn give_up(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }
}
