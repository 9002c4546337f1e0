//! Leases: renewed in the background, and told when they are lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, LeaseId, Result};

/// How one attempt to renew ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for its length from the attempt's beginning on.
    Renewed,
    /// The store does not know the lease any more.
    Lost,
    /// The store did not answer; the lease may live on for the rest of its length.
    Failed,
}

/// A lease that is being renewed. Dropping it stops that; the lease itself ends when its time is up.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    ttl: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    dropped: bool,
    lost: bool,
    /// When the last attempt that succeeded began.
    renewed: Instant,
}

impl State {
    fn is_lost(&self, ttl: Duration) -> bool {
        self.lost || self.renewed.elapsed() >= ttl
    }
}

impl Lease {
    /// A lease that was granted at `granted` for `ttl`, and is renewed by calling `renew` every third
    /// of that on a thread of its own.
    pub fn renewed_by(
        id: LeaseId,
        ttl: Duration,
        granted: Instant,
        renew: impl FnMut() -> Renewal + Send + 'static,
    ) -> Result<Self> {
        let state = State {
            dropped: false,
            lost: false,
            renewed: granted,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let renewer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || renewer.renew(ttl, renew))
            .map_err(|error| Error::unavailable("lease", &id.0, error))?;
        Ok(Self { id, ttl, shared })
    }

    /// Its name in the store, to bind rows to.
    pub fn id(&self) -> &LeaseId {
        &self.id
    }

    /// How long it lives without renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When the last attempt to renew it that succeeded began: it lives for its length from then on, if
    /// the store has not ended it.
    pub fn renewed(&self) -> Instant {
        self.shared.lock().renewed
    }

    /// Whether the store has ended it, or must be taken to: nothing was renewed for its length.
    pub fn is_lost(&self) -> bool {
        self.shared.lock().is_lost(self.ttl)
    }

    /// Waits until the lease is lost, at most `timeout`; answers whether it is.
    pub fn wait_lost(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.is_lost(self.ttl) || left.is_zero() {
                return state.is_lost(self.ttl);
            }
            let left_of_lease = self.ttl.saturating_sub(state.renewed.elapsed());
            state = self.shared.wait(state, left.min(left_of_lease));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.lock().dropped = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn renew(&self, ttl: Duration, mut renew: impl FnMut() -> Renewal) {
        let mut pause = ttl / 3;
        loop {
            let end = Instant::now() + pause;
            let mut state = self.lock();
            while !state.dropped && Instant::now() < end {
                let left = end.saturating_duration_since(Instant::now());
                state = self.wait(state, left);
            }
            if state.dropped {
                return;
            }
            drop(state);
            let began = Instant::now();
            let outcome = renew();
            let mut state = self.lock();
            match outcome {
                Renewal::Renewed => state.renewed = began,
                Renewal::Lost => state.lost = true,
                // The store may know the lease still: what is lost is lost only by its own word or by time.
                Renewal::Failed => state.lost |= state.renewed.elapsed() >= ttl,
            }
            pause = if outcome == Renewal::Failed {
                ttl / 10
            } else {
                ttl / 3
            };
            if state.lost {
                drop(state);
                self.changed.notify_all();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl: Duration, renew: impl FnMut() -> Renewal + Send + 'static) -> Lease {
        Lease::renewed_by(LeaseId("x".to_owned()), ttl, Instant::now(), renew).unwrap()
    }

    #[test]
    fn a_lease_that_the_store_forgot_is_lost_at_the_next_renewal() {
        let lease = lease(Duration::from_secs(3), || Renewal::Lost);
        assert!(!lease.is_lost());
        assert!(lease.wait_lost(Duration::from_secs(2)));
    }

    #[test]
    fn a_store_that_does_not_answer_costs_the_lease_after_its_length_only() {
        let begin = Instant::now();
        let lease = lease(Duration::from_millis(600), || Renewal::Failed);
        assert!(!lease.wait_lost(Duration::from_millis(300)));
        assert!(lease.wait_lost(Duration::from_secs(5)));
        assert!(begin.elapsed() >= Duration::from_millis(600));
    }

    #[test]
    fn a_renewal_that_hangs_does_not_hide_that_the_lease_is_over() {
        let lease = lease(Duration::from_millis(300), || {
            std::thread::sleep(Duration::from_secs(5));
            Renewal::Renewed
        });
        assert!(lease.wait_lost(Duration::from_secs(2)));
    }

    #[test]
    fn a_renewed_lease_outlives_its_length() {
        let lease = lease(Duration::from_millis(300), || Renewal::Renewed);
        assert!(!lease.wait_lost(Duration::from_secs(1)));
    }
}
