//! What the log says, replayed: pure, the same in every process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::{Change, LeaseId, Revision, Row, Snapshot};

/// How many changes are kept in memory for watches.
const HISTORY: usize = 8192;

/// One step of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Put {
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    Delete {
        key: String,
    },
    Grant {
        lease: LeaseId,
    },
    /// The lease is over, and so are its rows.
    End {
        lease: LeaseId,
    },
}

/// What one record of the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Everything; the first record of a log.
    Whole {
        revision: u64,
        rows: Vec<Row>,
        leases: Vec<LeaseId>,
    },
    /// All of these or none.
    Commit { revision: u64, entries: Vec<Entry> },
}

/// The store as of `revision`.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) revision: u64,
    rows: BTreeMap<String, Arc<Row>>,
    pub(super) leases: Vec<LeaseId>,
    /// Every change after it is in `history`.
    pub(super) floor: u64,
    history: VecDeque<(u64, String, Option<Arc<Row>>)>,
}

impl State {
    /// Replays a record; a sentence where it does not follow from what was before.
    pub(super) fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Whole {
                revision,
                rows,
                leases,
            } => {
                // Somebody else made the log shorter; what we know already we need not forget.
                if revision != self.revision {
                    self.history.clear();
                    self.floor = revision;
                }
                self.revision = revision;
                self.leases = leases;
                self.rows = rows
                    .into_iter()
                    .map(|row| (row.key.clone(), Arc::new(row)))
                    .collect();
            }
            Record::Commit { revision, entries } => {
                if revision != self.revision + 1 {
                    return Err(format!("revision {revision} follows {}", self.revision));
                }
                self.revision = revision;
                for entry in entries {
                    self.step(entry);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, entry: Entry) {
        match entry {
            Entry::Put { key, value, lease } => {
                let row = Arc::new(Row {
                    key: key.clone(),
                    value,
                    revision: Revision(self.revision),
                    lease,
                });
                self.rows.insert(key.clone(), Arc::clone(&row));
                self.remember(key, Some(row));
            }
            Entry::Delete { key } => {
                if self.rows.remove(&key).is_some() {
                    self.remember(key, None);
                }
            }
            Entry::Grant { lease } => self.leases.push(lease),
            Entry::End { lease } => {
                self.leases.retain(|other| *other != lease);
                let bound = self
                    .rows
                    .values()
                    .filter(|row| row.lease.as_ref() == Some(&lease));
                let keys: Vec<String> = bound.map(|row| row.key.clone()).collect();
                for key in keys {
                    self.step(Entry::Delete { key });
                }
            }
        }
    }

    fn remember(&mut self, key: String, row: Option<Arc<Row>>) {
        self.history.push_back((self.revision, key, row));
        while self.history.len() > HISTORY {
            // A revision goes as a whole, or a watch would see half a transaction.
            self.floor = self.history.front().map_or(self.floor, |first| first.0);
            while self.history.front().is_some_and(|first| first.0 <= self.floor) {
                self.history.pop_front();
            }
        }
    }

    pub(super) fn row(&self, key: &str) -> Option<&Row> {
        self.rows.get(key).map(AsRef::as_ref)
    }

    pub(super) fn snapshot(&self, prefix: &str) -> Snapshot {
        let under = self.rows.range(prefix.to_owned()..);
        let rows = under
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, row)| row.as_ref().clone())
            .collect();
        Snapshot {
            rows,
            revision: Revision(self.revision),
        }
    }

    /// What happened under `prefix` after `from`; nothing where that is not known any more.
    pub(super) fn since(&self, prefix: &str, from: u64) -> Option<Vec<Change>> {
        if from < self.floor || from > self.revision {
            return None;
        }
        let first = self.history.partition_point(|change| change.0 <= from);
        let after = self.history.range(first..);
        let changes = after.filter(|change| change.1.starts_with(prefix));
        Some(
            changes
                .map(|(revision, key, row)| Change {
                    key: key.clone(),
                    revision: Revision(*revision),
                    row: row.as_ref().map(|row| row.as_ref().clone()),
                })
                .collect(),
        )
    }

    /// Everything, to begin a new log with.
    pub(super) fn whole(&self) -> Record {
        Record::Whole {
            revision: self.revision,
            rows: self.snapshot("").rows,
            leases: self.leases.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(n: u64) -> Record {
        Record::Commit {
            revision: n,
            entries: vec![Entry::Put {
                key: "a".to_owned(),
                value: Vec::new(),
                lease: None,
            }],
        }
    }

    #[test]
    fn history_that_was_dropped_is_not_taken_for_silence() {
        let mut state = State::default();
        for n in 1..=HISTORY as u64 + 10 {
            state.apply(put(n)).unwrap();
        }
        assert_eq!(state.floor, 10);
        assert_eq!(state.since("", 9), None);
        assert_eq!(state.since("", 10).unwrap().len(), HISTORY);
        assert_eq!(state.since("", state.revision + 1), None);
    }

    #[test]
    fn a_shorter_log_of_what_we_know_keeps_the_history() {
        let mut state = State::default();
        state.apply(put(1)).unwrap();
        state.apply(state.whole()).unwrap();
        assert_eq!(state.since("", 0).unwrap().len(), 1);
        let mut late = State::default();
        late.apply(state.whole()).unwrap();
        assert_eq!(late.since("", 0), None);
    }

    #[test]
    fn a_revision_that_is_left_out_is_refused() {
        assert!(State::default().apply(put(2)).is_err());
    }
}
