//! What nobody asks for: suspects are dropped in time, and what could not be detached is tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use plugin_api::id::{HolderId, VolumeName};

use crate::backend::Backend;
use crate::driver::Driver;
use crate::shelf::Hold;
use crate::usage::Sight;

/// How long a suspect must have been without a mount before it is dropped. An engine that comes back has
/// this long to start its container again, or to drop the hold itself.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);

/// Since when a suspect has been seen.
pub(crate) type Suspicions = BTreeMap<(VolumeName, HolderId), Instant>;

/// A thread that looks after a driver until it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    stopped: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts to look after `driver`.
    pub(crate) fn of<B: Backend>(driver: Arc<Driver<B>>) -> std::io::Result<Self> {
        let stopped = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Arc::clone(&stopped);
        let thread = thread::Builder::new().name("volumes".into()).spawn(move || {
            let mut suspicions = Suspicions::new();
            while !wait(&told) {
                driver.look_after(&mut suspicions, Instant::now(), GRACE);
            }
        })?;
        Ok(Self {
            stopped,
            thread: Some(thread),
        })
    }
}

/// Waits for the next look; whether it was the last.
fn wait(stopped: &(Mutex<bool>, Condvar)) -> bool {
    let (stopped, changed) = stopped;
    let guard = stopped.lock().expect("nobody panics with the flag in hand");
    let (guard, _) = changed
        .wait_timeout_while(guard, LOOK, |stopped| !*stopped)
        .expect("nobody panics with the flag in hand");
    *guard
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let (stopped, changed) = &*self.stopped;
        *stopped.lock().expect("nobody panics with the flag in hand") = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<B: Backend> Driver<B> {
    /// One look at `now`: drops what has been a suspect without a mount for `grace`, and detaches what
    /// nobody holds.
    pub(crate) fn look_after(&self, suspicions: &mut Suspicions, now: Instant, grace: Duration) {
        let suspects = self.suspects();
        suspicions.retain(|suspect, _| suspects.contains(suspect));
        for suspect in suspects {
            let since = *suspicions.entry(suspect.clone()).or_insert(now);
            if now.duration_since(since) >= grace {
                self.judge(&suspect.0, &suspect.1);
            }
        }
        let lingering = self.known().lingering.clone();
        for name in lingering {
            let _turn = self.turns.take(&name);
            if let Err(fault) = self.release(&name) {
                tracing::warn!(volume = %name, "{}", fault.sentence());
            }
        }
    }

    fn judge(&self, name: &VolumeName, holder: &HolderId) {
        let _turn = self.turns.take(name);
        // An engine may have come for it while we waited for our turn.
        if !self.suspects().contains(&(name.clone(), holder.clone())) {
            return;
        }
        let Some(spec) = self.known().ready(name).map(|volume| volume.entry.spec.clone()) else {
            return;
        };
        match self.backend.users(name, &spec) {
            Ok(Sight { users, hidden: 0 }) if users.is_empty() => {}
            // Somebody has it, or might.
            Ok(_) => return,
            Err(fault) => {
                tracing::warn!(volume = %name, "{}", fault.sentence());
                return;
            }
        }
        tracing::info!(volume = %name, %holder, "drop the hold of an engine that is gone");
        if let Err(fault) = self.drop_suspect(name, holder) {
            tracing::warn!(volume = %name, "{}", fault.sentence());
        }
    }

    fn suspects(&self) -> Vec<(VolumeName, HolderId)> {
        let (holds, engines) = {
            let known = self.known();
            let mut holds = Vec::new();
            for (name, volume) in &known.volumes {
                let named = |(holder, hold): (&HolderId, &Hold)| (name.clone(), holder.clone(), hold.epoch);
                holds.extend(volume.holds.iter().map(named));
            }
            (holds, known.engines.clone())
        };
        let living = engines.living();
        let is_suspect = |epoch| !engines.is_brief(epoch) && !living.contains(&epoch);
        let suspects = holds.into_iter().filter(|(_, _, epoch)| is_suspect(*epoch));
        suspects.map(|(name, holder, _)| (name, holder)).collect()
    }
}
