//! Many writers, one sync: what comes while a commit is under way goes together into the next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::Batch;
use crate::error::{Error, Result};

/// The line of batches that wait for the next commit.
#[derive(Debug, Default)]
pub(super) struct Group {
    line: Mutex<Line>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Waiting>,
    /// One of the writers is committing.
    is_led: bool,
}

#[derive(Debug, Clone)]
struct Waiting {
    batch: Batch,
    outcome: Arc<OnceLock<Result<()>>>,
}

/// A writer that commits for those it took along. Dropped, it tells them and lets another lead, also
/// where the commit panics.
struct Lead<'a> {
    group: &'a Group,
    taken: Vec<Waiting>,
    outcome: Result<()>,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches in the line.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Commits a batch, alone or together with others, by `write`; returns when it is done. Batches are
    /// written in the order in which they came. What fails fails for all that went together.
    pub(super) fn commit(&self, batch: &Batch, write: impl FnOnce(&[&Batch]) -> Result<()>) -> Result<()> {
        let outcome = Arc::new(OnceLock::new());
        let mut line = self.lock();
        line.waiting.push(Waiting {
            batch: batch.clone(),
            outcome: Arc::clone(&outcome),
        });
        while line.is_led && outcome.get().is_none() {
            line = self.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
        if outcome.get().is_none() {
            line.is_led = true;
            let taken = std::mem::take(&mut line.waiting);
            drop(line);
            let mut lead = Lead {
                group: self,
                taken,
                outcome: Err(Error::other(
                    "commit record",
                    &batch.changes[0].1,
                    "the writer died",
                )),
            };
            let batches: Vec<_> = lead.taken.iter().map(|waiting| &waiting.batch).collect();
            lead.outcome = write(&batches);
        }
        match outcome.get() {
            Some(Err(error)) => Err(error.again()),
            _ => Ok(()),
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut line = self.group.lock();
        for waiting in &self.taken {
            let outcome = self.outcome.as_ref().copied().map_err(Error::again);
            // Nobody else sets it.
            let _ = waiting.outcome.set(outcome);
        }
        line.is_led = false;
        self.group.moved.notify_all();
    }
}
