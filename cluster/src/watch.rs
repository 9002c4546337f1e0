//! What happened under a prefix.

use std::fmt;
use std::time::Duration;

use crate::{Result, Revision, Row, Snapshot};

/// One row written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which row.
    pub key: String,
    /// Of the change.
    pub revision: Revision,
    /// What the row is now; nothing when it was removed.
    pub row: Option<Row>,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One change, in order.
    Change(Change),
    /// Changes may have been missed: these are all rows as they are now. What the consumer knows of
    /// others is over.
    Resync(Snapshot),
}

/// Where a store's events come from.
pub trait Feed: Send {
    /// The next event; nothing when none came within `timeout`. After an error the feed goes on where
    /// it was, so that nothing is skipped.
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>>;
}

/// Events in order: pulled, so that nothing runs and nothing piles up while nobody asks.
///
/// As an iterator it blocks until there is an event, and never ends.
pub struct Watch(Box<dyn Feed>);

impl Watch {
    /// A watch over a store's feed.
    pub fn new(feed: impl Feed + 'static) -> Self {
        Self(Box::new(feed))
    }

    /// The next event; nothing when none came within `timeout`. After an error, ask again: nothing is
    /// skipped.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.0.next(timeout)
    }
}

impl Iterator for Watch {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.0.next(Duration::from_secs(30)).transpose() {
                return Some(event);
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
