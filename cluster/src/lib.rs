//! Agreement between hosts: one small trait over key-value stores.
//!
//! [`Store`] is all that drivers know of a store: rows with revisions, writes that hold only while
//! nobody else wrote, leases that take their rows with them, and watches that never skip silently.
//! [`embedded`] is the store of one machine, [`consul`], [`etcd`] and [`zookeeper`] are those of many; [`contract`]
//! (feature `contract`) says what every store must keep.
//!
//! **Invariant:** nothing here knows what a key means. Retries of what a caller asked for, and
//! reconciliation, are the caller's.
//!
//! ```
//! use cluster::{Expect, Store, embedded::Embedded};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! let store = Embedded::open(folder.path())?;
//! let first = store.put_if("nets/blue", b"{}", Expect::Absent, None)?;
//! store.put_if("nets/blue", b"{\"id\":1}", Expect::Revision(first), None)?;
//! let snapshot = store.list("nets/")?;
//! let mut changes = store.watch("nets/", snapshot.revision)?;
//! assert!(changes.next(std::time::Duration::ZERO)?.is_none());
//! # Ok::<(), cluster::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

pub mod consul;
#[cfg(feature = "contract")]
pub mod contract;
pub mod embedded;
mod error;
pub mod etcd;
mod key;
mod lease;
mod secret;
mod watch;
mod worker;
pub mod zookeeper;

pub use error::{Error, Result};
pub use lease::{Lease, Renewal};
pub use secret::Secret;
pub use watch::{Change, Event, Feed, Watch};

/// Guards and changes of one [`Store::txn`] together.
pub const MAX_OPS: usize = 64;

/// The state of a row, or of the store: grows with every change, unless a store says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease, as its store names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub String);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Segments joined by `/`: `nets/blue`.
    pub key: String,
    /// Any bytes.
    pub value: Vec<u8>,
    /// Of the last write.
    pub revision: Revision,
    /// The lease that takes the row with it when it ends.
    pub lease: Option<LeaseId>,
}

/// Rows as they were together at one moment, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Every row under the prefix.
    pub rows: Vec<Row>,
    /// To watch from.
    pub revision: Revision,
}

/// What must hold of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no row.
    Absent,
    /// The row's last write had this revision.
    Revision(Revision),
}

impl Expect {
    /// Whether it holds of what is there.
    pub fn holds(self, found: Option<&Row>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Revision(revision) => found.is_some_and(|row| row.revision == revision),
        }
    }
}

/// A condition of a [`Store::txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The row it looks at.
    pub key: String,
    /// What must hold of it.
    pub expect: Expect,
}

/// A change of a [`Store::txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a row.
    Put {
        /// Which.
        key: String,
        /// What it holds from now on.
        value: Vec<u8>,
        /// What it is bound to from now on.
        lease: Option<LeaseId>,
    },
    /// Removes a row; one that is not there is removed already.
    Delete {
        /// Which.
        key: String,
    },
}

impl Op {
    /// The row that it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Revisions of different keys compare: the greater one was written later.
    pub ordered_revisions: bool,
    /// A watch tells every single change since a revision that is not too old. Otherwise it begins
    /// with [`Event::Resync`], and of quick changes to one key tells the last only.
    pub history: bool,
    /// Shorter leases are made this long.
    pub ttl_min: Duration,
    /// The rows of a lease that nobody renews are gone at most this many times its length later.
    pub ttl_slack: u32,
    /// Bytes of a value.
    pub max_value: usize,
}

/// A store of rows that several hosts, or several processes, share.
///
/// Keys are non-empty segments joined by `/`, without control characters, none of them `.` or `..`;
/// at most 512 bytes. A prefix is any beginning of a key: `a` covers `a`, `a/b` and `ab`, and `a/`
/// covers `a/b` alone.
///
/// Every method blocks. After [`Error::Unavailable`] a write may have happened or not: look before you
/// write again. A write is durable when it returns. A write that changes nothing may keep the revision.
pub trait Store: Send + Sync {
    /// What the store can do.
    fn capabilities(&self) -> Capabilities;

    /// The row, as of the last write that returned anywhere.
    fn get(&self, key: &str) -> Result<Option<Row>>;

    /// Every row whose key begins with `prefix`.
    fn list(&self, prefix: &str) -> Result<Snapshot>;

    /// Writes the row if `expect` holds of it, and binds it to `lease`, or to none. Answers the row's
    /// new revision; [`Error::Conflict`] says what is there instead.
    fn put_if(&self, key: &str, value: &[u8], expect: Expect, lease: Option<&LeaseId>) -> Result<Revision>;

    /// Removes the row if `expect` holds of it. Answers whether there was one.
    fn delete_if(&self, key: &str, expect: Expect) -> Result<bool>;

    /// Every change if every guard holds, otherwise none. At most [`MAX_OPS`] guards and changes
    /// together, one change per key. Answers the revision of the rows written.
    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision>;

    /// A lease that is renewed in the background until it is dropped. Dropping does not end it: its
    /// rows go when `ttl` has passed; [`Store::revoke`] ends it at once.
    fn lease(&self, ttl: Duration) -> Result<Lease>;

    /// Ends a lease and removes its rows; one that is unknown has ended already.
    fn revoke(&self, lease: &LeaseId) -> Result<()>;

    /// What happens under `prefix` after `from`, which a [`Snapshot`] or an [`Event`] told.
    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch>;
}
