//! One lock per subject, made and forgotten as needed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// Who has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Alone,
    /// By so many.
    Together(usize),
}

/// Locks named by a key.
#[derive(Debug)]
pub(crate) struct Keyed<K> {
    taken: Mutex<HashMap<K, Taken>>,
    freed: Condvar,
}

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
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
        while taken.contains_key(key) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.insert(key.clone(), Taken::Alone);
        self.guard(key)
    }

    /// Waits until nobody has the key alone, and takes it together with others who do so.
    pub(crate) fn share(&self, key: &K) -> KeyGuard<'_, K> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.get(key) == Some(&Taken::Alone) {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        let others = match taken.get(key) {
            Some(Taken::Together(others)) => *others,
            _ => 0,
        };
        taken.insert(key.clone(), Taken::Together(others + 1));
        self.guard(key)
    }

    fn guard(&self, key: &K) -> KeyGuard<'_, K> {
        KeyGuard {
            locks: self,
            key: key.clone(),
        }
    }
}

impl<K: Eq + Hash> Drop for KeyGuard<'_, K> {
    fn drop(&mut self) {
        let mut taken = self.locks.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.key) {
            Some(Taken::Together(others)) if *others > 1 => *others -= 1,
            _ => {
                taken.remove(&self.key);
                self.locks.freed.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_share_a_key_and_one_waits_for_all_of_them() {
        let (locks, met, gone) = (Keyed::default(), Barrier::new(3), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let mine = locks.share(&"key");
            for _ in 0..2 {
                scope.spawn(|| {
                    let theirs = locks.share(&"key");
                    // Only if all three have it at once.
                    met.wait();
                    drop(theirs);
                });
            }
            met.wait();
            scope.spawn(|| {
                let _alone = locks.hold(&"key");
                assert!(gone.load(Ordering::SeqCst), "it was held by another still");
            });
            std::thread::sleep(Duration::from_millis(50));
            gone.store(true, Ordering::SeqCst);
            drop(mine);
        });
        assert!(locks.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn nobody_shares_what_one_has_alone() {
        let (locks, gone) = (Keyed::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let alone = locks.hold(&"key");
            scope.spawn(|| {
                let _shared = locks.share(&"key");
                assert!(gone.load(Ordering::SeqCst), "it was held alone still");
            });
            std::thread::sleep(Duration::from_millis(50));
            gone.store(true, Ordering::SeqCst);
            drop(alone);
        });
        let _other = locks.hold(&"other");
    }
}
