//! Drivers that keep every rule with the plainest means: the suites' own proof that they can be passed,
//! and stand-ins for real drivers in the tests of others.
//!
//! A twin of volumes or layers keeps plain directories below a given folder. `restarted` gives what a
//! new process would find: the durable state, and nothing else.

pub use self::graph::Graph;
pub use self::ipam::Ipam;
pub use self::network::Network;
pub use self::volume::Volume;

mod graph;
mod ipam;
mod network;
mod volume;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a twin's only lock. A panic under it leaves whole state: every change is the verb's last step.
pub(super) fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
