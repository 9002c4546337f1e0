//! One at a time for one name, all at once for different ones.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use plugin_api::id::VolumeName;

/// The names that somebody works on.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    busy: Mutex<BTreeSet<VolumeName>>,
    freed: Condvar,
}

/// The right to work on one name, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    name: &'a VolumeName,
}

impl Turns {
    /// Waits until nobody works on `name`.
    pub(crate) fn take<'a>(&'a self, name: &'a VolumeName) -> Turn<'a> {
        let busy = self.busy();
        let mut busy = self
            .freed
            .wait_while(busy, |busy| busy.contains(name))
            .expect("nobody panics with the names in hand");
        busy.insert(name.clone());
        Turn { turns: self, name }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<VolumeName>> {
        self.busy.lock().expect("nobody panics with the names in hand")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.busy().remove(self.name);
        self.turns.freed.notify_all();
    }
}
