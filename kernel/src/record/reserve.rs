//! Room kept for what gives room back: a file beside the records, removed where a disk is full.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes kept: some dozens of the store's pages.
const KEPT: u64 = 256 << 10;

/// The file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    is_there: AtomicBool,
}

impl Reserve {
    /// Beside the store at `path`.
    pub(super) fn beside(path: &Path) -> Self {
        let reserve = Self {
            path: path.with_extension("reserve"),
            is_there: AtomicBool::new(false),
        };
        reserve.keep();
        reserve
    }

    /// Makes it, unless it is there or there is no room for it.
    pub(super) fn keep(&self) {
        if self.is_there.load(Ordering::Relaxed) {
            return;
        }
        let is_whole = |file: &File| file.metadata().is_ok_and(|data| data.len() >= KEPT);
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let Ok(file) = options.open(&self.path) else {
            return;
        };
        // A file system that cannot allocate keeps nothing: there the reserve is none.
        if is_whole(&file) || fallocate(&file, FallocateFlags::empty(), 0, KEPT).is_ok() {
            self.is_there.store(true, Ordering::Relaxed);
        } else {
            self.give_up();
        }
    }

    /// Gives its room back; `false` if it was not there.
    pub(super) fn give_up(&self) -> bool {
        self.is_there.store(false, Ordering::Relaxed);
        std::fs::remove_file(&self.path).is_ok()
    }
}
