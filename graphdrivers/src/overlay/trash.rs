//! What is deleted is moved aside at once and unlinked by a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use kernel::fsutil::{remove_tree, rename_synced};

use crate::kernel_fault;
use plugin_api::Fault;

/// The folder of what is to be unlinked. Ends its thread when dropped; what is left then goes at the
/// next opening.
#[derive(Debug)]
pub(super) struct Trash {
    folder: PathBuf,
    next: AtomicU64,
    work: Option<Sender<PathBuf>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Takes over a folder and begins with what lies in it.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let wrong = |error| {
            let subject = folder.to_string_lossy();
            kernel_fault(kernel::Error::new("open trash", subject, error))
        };
        let (work, todo) = channel::<PathBuf>();
        let mut next = 0;
        for entry in std::fs::read_dir(folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |number| number + 1));
            work.send(path).expect("the receiver lives in this procedure");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            for path in todo {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = remove_tree(&path) {
                    // It stays for the next opening.
                    tracing::warn!(error = plugin_api::fault::chain(&error), "trash is not emptied");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("trash".into())
            .spawn(run)
            .map_err(wrong)?;
        Ok(Self {
            folder: folder.to_owned(),
            next: AtomicU64::new(next),
            work: Some(work),
            stop,
            thread: Some(thread),
        })
    }

    /// Moves a tree aside; it is gone from its place when this returns.
    pub(super) fn take(&self, path: &Path) -> Result<(), kernel::Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let aside = self.folder.join(number.to_string());
        rename_synced(path, &aside)?;
        if let Some(work) = &self.work {
            // The thread lives as long as this value; without it the next opening does the work.
            let _ = work.send(aside);
        }
        Ok(())
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
