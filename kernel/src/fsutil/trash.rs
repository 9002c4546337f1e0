//! What is deleted is moved aside at once and unlinked by a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::{Folder, make_dir, remove_tree, rename, rename_synced};
use crate::error::{Context, Result};

/// First and longest pause before the thread tries again what it could not unlink.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A folder of what is to be unlinked, and the thread that does it, again and again until it succeeds.
///
/// Ends its thread when dropped; what is left then goes at the next opening.
#[derive(Debug)]
pub struct Trash {
    folder: PathBuf,
    next: AtomicU64,
    shared: Arc<Shared>,
    wishes: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Paths outside the folder that could not be moved into it.
    strays: Mutex<Vec<PathBuf>>,
    stop: AtomicBool,
}

impl Trash {
    /// Takes over a folder, made with mode 0700 if it is missing, and begins with what lies in it.
    pub fn open(folder: &Path) -> Result<Self> {
        make_dir(folder, 0o700)?;
        Folder::open(folder)?.chmod_self(0o700)?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let shared = Arc::new(Shared::default());
        let (wishes, granted) = sync_channel(1);
        let (theirs, place) = (Arc::clone(&shared), folder.to_owned());
        let thread = std::thread::Builder::new().name("trash".to_owned());
        let thread = thread
            .spawn(move || run(&theirs, &place, &granted))
            .context("start sweeping", folder)?;
        let trash = Self {
            folder: folder.to_owned(),
            next: AtomicU64::new(since.map_or(0, |since| since.as_secs())),
            shared,
            wishes: Some(wishes),
            thread: Some(thread),
        };
        trash.sweep();
        Ok(trash)
    }

    /// Moves a tree aside, durably; it is gone from its place when this returns.
    pub fn take(&self, path: &Path) -> Result<()> {
        let moved = rename_synced(path, &self.free_place());
        self.sweep();
        moved
    }

    /// As [`Self::take`], for a path that no record speaks of and that nobody will use again: if it
    /// cannot be moved aside now, the thread goes on trying to remove it where it is. Nothing is flushed:
    /// what a power cut brings back is swept by whoever knows the records.
    pub fn take_at_leisure(&self, path: &Path) {
        let moved = rename(path, &self.free_place());
        let Err(error) = moved else {
            return self.sweep();
        };
        if path.symlink_metadata().is_ok() {
            tracing::warn!(error = chain(&error), "will be removed later");
            let mut strays = self.shared.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.push(path.to_owned());
        }
        self.sweep();
    }

    /// Waits until everything taken so far, and maybe more, is unlinked; `false`: not within `limit`.
    pub fn wait_empty(&self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        self.sweep();
        loop {
            let strays = self.shared.strays.lock().unwrap_or_else(PoisonError::into_inner);
            let none = strays.is_empty();
            drop(strays);
            if none && Folder::open(&self.folder)?.entries()?.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A number that no other call gets while this value lives.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn free_place(&self) -> PathBuf {
        loop {
            let place = self.folder.join(self.number().to_string());
            if place.symlink_metadata().is_err() {
                return place;
            }
        }
    }

    /// Tells the thread that there is something to do.
    fn sweep(&self) {
        if let Some(wishes) = &self.wishes {
            // One token is as good as many: whoever takes it empties the whole folder.
            let _ = wishes.try_send(());
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, folder: &Path, wishes: &Receiver<()>) {
    let mut pause = None;
    loop {
        let wish = match pause {
            None => wishes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => wishes.recv_timeout(pause),
        };
        if wish == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        pause = match empty(shared, folder) {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(error = chain(&error), "what was removed still takes space");
                Some(pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)))
            }
        };
    }
}

/// Unlinks everything; what cannot be unlinked does not keep the rest.
fn empty(shared: &Shared, folder: &Path) -> Result<()> {
    let mut all = Ok(());
    let strays = std::mem::take(&mut *shared.strays.lock().unwrap_or_else(PoisonError::into_inner));
    for stray in strays {
        if let Err(error) = remove_tree(&stray) {
            shared
                .strays
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stray);
            all = Err(error);
        }
    }
    let folder = Folder::open(folder)?;
    for entry in folder.entries()? {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        all = all.and(folder.remove_tree(&entry.name).map(drop));
    }
    all
}

fn chain(error: &crate::Error) -> String {
    format!("{error}: {}", error.source)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wait_for(what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_empty(folder: &Path) -> bool {
        std::fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn a_tree_is_gone_at_once_and_unlinked_soon() {
        let place = tempfile::tempdir().unwrap();
        let (tree, folder) = (place.path().join("tree"), place.path().join("trash"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        let trash = Trash::open(&folder).unwrap();
        trash.take(&tree).unwrap();
        assert!(!tree.exists());
        wait_for("the trash stays full", || is_empty(&folder));
    }

    #[test]
    fn what_lay_there_before_is_unlinked_and_what_is_missing_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("trash");
        std::fs::create_dir_all(folder.join("7/x")).unwrap();
        let trash = Trash::open(&folder).unwrap();
        assert!(
            trash
                .take(&place.path().join("missing"))
                .unwrap_err()
                .is_missing()
        );
        trash.take_at_leisure(&place.path().join("missing"));
        wait_for("the trash stays full", || is_empty(&folder));
    }
}
