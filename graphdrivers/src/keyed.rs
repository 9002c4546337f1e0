//! One lock per subject, made and forgotten as needed.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// Locks named by a key.
#[derive(Debug)]
pub(crate) struct Keyed<K> {
    taken: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::new(HashSet::new()),
            freed: Condvar::new(),
        }
    }
}

/// Held while it lives.
#[derive(Debug)]
pub(crate) struct KeyGuard<'a, K: Eq + Hash> {
    locks: &'a Keyed<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Keyed<K> {
    /// Waits for the key and takes it.
    pub(crate) fn hold(&self, key: &K) -> KeyGuard<'_, K> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(key.clone()) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        KeyGuard {
            locks: self,
            key: key.clone(),
        }
    }
}

impl<K: Eq + Hash> Drop for KeyGuard<'_, K> {
    fn drop(&mut self) {
        let mut taken = self.locks.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.key);
        self.locks.freed.notify_all();
    }
}
