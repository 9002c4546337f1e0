//! Snapshots: containerd's words for layers.
//!
//! containerd keeps one space of keys. It *prepares* an active snapshot upon a committed one (or upon
//! nothing), mounts it itself by the description it gets, writes, and *commits* it under a name; upon
//! names stand further snapshots. *Views* are read and never committed. Here a retry is an error and so
//! is removing what is not there: containerd keeps books of its own and compares.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crate::fault::Fault;
use crate::graph::Usage;
use crate::id::quoted;

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// Most bytes of one label, key and value together.
pub const LONGEST_LABEL: usize = 4096;

/// A snapshot's key or name: any text of up to 4096 bytes (`moby/1/extract-5 sha256:54d2…`). Never a file's
/// name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotKey(String);

impl SnapshotKey {
    /// Checks and wraps a key; empty ones and ones of more than 4096 bytes are `Invalid`.
    pub fn new(text: impl Into<String>) -> Result<Self, Fault> {
        let text = text.into();
        if text.is_empty() || text.len() > 4096 {
            let why = "holds not between 1 and 4096 bytes";
            return Err(Fault::invalid(format!("snapshot key {} {why}", quoted(&text))));
        }
        Ok(Self(text))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are short, but nobody promised it.
        f.write_str(&quoted(&self.0))
    }
}

impl fmt::Debug for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// To be read.
    View,
    /// To be written, and committed or removed then.
    Active,
    /// Unchangeable; others stand upon it.
    Committed,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key, or its name once it is committed.
    pub key: SnapshotKey,
    /// The committed snapshot below it.
    pub parent: Option<SnapshotKey>,
    /// What it is for.
    pub kind: SnapshotKind,
    /// When it was prepared or, later, committed.
    pub created: SystemTime,
    /// When it was last changed.
    pub updated: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

/// A mount as mount(8) would take it; containerd executes it, where it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMount {
    /// `overlay` or `bind`.
    pub kind: String,
    /// `overlay`, or the folder that is bound.
    pub source: String,
    /// `ro`, `lowerdir=…`, …
    pub options: Vec<String>,
}

/// How labels are to change. An empty value removes a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// These and no others.
    All(Labels),
    /// These, and the others as they are.
    Some(Labels),
}

/// A store of snapshots. Blocking, called from many threads at once.
pub trait Snapshotter: Send + Sync {
    /// An active snapshot upon `parent`, or upon an empty folder of mode 0755. A key in use is
    /// `AlreadyExists`, a missing parent `NotFound`, one that is not committed `Invalid`.
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault>;
    /// As [`Self::prepare`], to be read only.
    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault>;
    /// The mounts of an active snapshot or a view, always the same; `WrongState` for a committed one.
    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>, Fault>;
    /// Makes `key` unchangeable under `name`, durably, in a time that does not depend on its size. Views and
    /// committed ones are `WrongState`, a name in use is `AlreadyExists`; `key` is free afterwards.
    fn commit(&self, name: &SnapshotKey, key: &SnapshotKey, labels: &Labels) -> Result<(), Fault>;
    /// As [`Self::commit`], upon a parent that is given now: `key` was prepared upon nothing, or upon that one
    /// (containerd's capability `rebase`). Another parent is `Invalid`.
    fn commit_upon(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: &SnapshotKey,
        labels: &Labels,
    ) -> Result<(), Fault> {
        let _ = (name, parent, labels);
        let message = format!("commit snapshot {key}: a new parent cannot be given to it here");
        Err(Fault::unsupported(message))
    }
    /// Removes it; `NotFound`, or `InUse` while another stands upon it. Space may come free later.
    fn remove(&self, key: &SnapshotKey) -> Result<(), Fault>;
    /// The snapshot, or `NotFound`.
    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo, Fault>;
    /// Changes labels, and nothing else.
    fn update(&self, key: &SnapshotKey, change: &LabelChange) -> Result<SnapshotInfo, Fault>;
    /// Every snapshot, sorted by key.
    fn list(&self) -> Result<Vec<SnapshotInfo>, Fault>;
    /// What it holds itself, without what is below.
    fn usage(&self, key: &SnapshotKey) -> Result<Usage, Fault>;
    /// Returns when what was removed takes no more space.
    fn cleanup(&self) -> Result<(), Fault>;
}
