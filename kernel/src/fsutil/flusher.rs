//! One flush of a file system for all who wait for one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{self as sys, Mode, OFlags};

use crate::error::{Context, Error, Result};
use crate::fault;

/// Flushes the file system of one folder. Callers that come while a flush is under way share the next.
#[derive(Debug)]
pub struct Flusher {
    folder: OwnedFd,
    path: PathBuf,
    line: Mutex<Line>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    /// Flushes that were begun, and those of them that ended.
    begun: u64,
    ended: u64,
    /// The last flush that failed, and why. The kernel tells a failed write once only.
    failed: Option<(u64, Option<i32>)>,
}

impl Flusher {
    /// A flusher for the file system on which `path`, a folder, lies.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            folder: sys::open(path, flags, Mode::empty()).context("open folder", path)?,
            path: path.to_owned(),
            line: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    /// When this returns, what was written before the call survives a power cut.
    pub fn flush(&self) -> Result<()> {
        fault::point("flush file system of", &self.path.to_string_lossy())?;
        self.flush_by(|| {
            sys::syncfs(&self.folder).map_err(|errno| io::Error::from_raw_os_error(errno.raw_os_error()))
        })
    }

    fn flush_by(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<()> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is under way may have passed what this caller wrote.
        let mine = line.begun + 1;
        while line.begun > line.ended && line.ended < mine {
            line = self.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        if line.ended < mine {
            line.begun = mine;
            drop(line);
            let outcome = sync();
            line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.ended = mine;
            if let Err(error) = outcome {
                line.failed = Some((mine, error.raw_os_error()));
            }
            self.moved.notify_all();
        }
        match line.failed {
            Some((number, errno)) if number >= mine => {
                let why = errno.map_or_else(|| io::Error::other("it failed"), io::Error::from_raw_os_error);
                Err(Error::new(
                    "flush file system of",
                    self.path.to_string_lossy(),
                    why,
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn who_comes_during_a_flush_shares_the_next_and_its_failure() {
        let folder = tempfile::tempdir().unwrap();
        let flusher = Flusher::open(folder.path()).unwrap();
        let (begun, go_on) = (Barrier::new(2), Barrier::new(2));
        let syncs = AtomicUsize::new(0);
        let entered = Barrier::new(5);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                flusher.flush_by(|| {
                    begun.wait();
                    go_on.wait();
                    Ok(())
                })
            });
            begun.wait();
            let late: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        entered.wait();
                        flusher.flush_by(|| {
                            syncs.fetch_add(1, Ordering::SeqCst);
                            Err(io::Error::from_raw_os_error(libc::EIO))
                        })
                    })
                })
                .collect();
            entered.wait();
            std::thread::sleep(std::time::Duration::from_millis(100));
            go_on.wait();
            first.join().unwrap().unwrap();
            for caller in late {
                let told = caller.join().unwrap().unwrap_err();
                assert_eq!(told.errno(), Some(libc::EIO));
            }
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
        flusher.flush().unwrap();
    }
}
