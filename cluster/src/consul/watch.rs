//! Watches by blocking queries, whose answers are compared with what was known.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::http::{Agent, Answer, escape};
use super::{PATIENCE, judged, pair};
use crate::{Change, Error, Event, Feed, Result, Revision, Snapshot};

/// The longest that one query waits.
const LONGEST: Duration = Duration::from_secs(60);

/// The path of a list. Consul's server tidies paths that end in dots, so such a prefix is asked for
/// without them; see [`snapshot`].
pub(super) fn target(prefix: &str) -> String {
    let asked = match prefix.rsplit_once('/') {
        Some((folder, "." | "..")) => &prefix[..=folder.len()],
        None if prefix == "." || prefix == ".." => "",
        _ => prefix,
    };
    format!("/v1/kv/{}?recurse", escape(asked))
}

/// The answer of a list.
pub(super) fn snapshot(operation: &'static str, prefix: &str, answer: &Answer) -> Result<Snapshot> {
    let mut rows = pair::rows(operation, prefix, answer)?;
    rows.retain(|row| row.key.starts_with(prefix));
    rows.sort_by(|one, other| one.key.cmp(&other.key));
    let index = answer
        .index
        .ok_or_else(|| pair::corrupt(operation, prefix, "a list without an index"))?;
    Ok(Snapshot {
        rows,
        revision: Revision(index),
    })
}

pub(super) struct Blocking {
    agent: Agent,
    prefix: String,
    /// To wait behind; 0 does not wait.
    index: u64,
    /// The revision of every row that was told; nothing before the first answer.
    known: Option<BTreeMap<String, Revision>>,
    queue: VecDeque<Event>,
}

impl Blocking {
    pub(super) fn new(agent: Agent, prefix: &str) -> Self {
        Self {
            agent,
            prefix: prefix.to_owned(),
            index: 0,
            known: None,
            queue: VecDeque::new(),
        }
    }

    fn ask(&mut self, wait: Duration) -> Result<()> {
        let mut target = format!("{}&consistent", target(&self.prefix));
        if self.index > 0 && !wait.is_zero() {
            // A wait of nothing is taken as the default, which is minutes.
            let wait = wait.as_millis().max(1);
            target = format!("{target}&index={}&wait={wait}ms", self.index);
        }
        let answer = self
            .agent
            .call("GET", &target, b"", wait * 2 + PATIENCE)
            .map_err(|error| Error::unavailable("watch", &self.prefix, error))?;
        let answer = judged("watch", &self.prefix, answer)?;
        let snapshot = snapshot("watch", &self.prefix, &answer)?;
        // An index that goes backwards is of a server that was restored, or has forgotten deletions:
        // do not wait behind the old one, or nothing may come for long.
        self.index = if snapshot.revision.0 < self.index {
            0
        } else {
            snapshot.revision.0
        };
        self.tell(snapshot);
        Ok(())
    }

    fn tell(&mut self, snapshot: Snapshot) {
        let now: BTreeMap<String, Revision> = snapshot
            .rows
            .iter()
            .map(|row| (row.key.clone(), row.revision))
            .collect();
        match self.known.replace(now.clone()) {
            None => self.queue.push_back(Event::Resync(snapshot)),
            Some(before) => {
                let changes = difference(&before, &now, snapshot);
                self.queue.extend(changes.into_iter().map(Event::Change));
            }
        }
    }
}

/// What happened between two answers, by revision; removed rows have that of the later answer.
fn difference(
    before: &BTreeMap<String, Revision>,
    now: &BTreeMap<String, Revision>,
    snapshot: Snapshot,
) -> Vec<Change> {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let mut changes: Vec<Change> = gone
        .map(|key| Change {
            key: key.clone(),
            revision: snapshot.revision,
            row: None,
        })
        .collect();
    let written = snapshot
        .rows
        .into_iter()
        .filter(|row| before.get(&row.key) != Some(&row.revision));
    changes.extend(written.map(|row| Change {
        key: row.key.clone(),
        revision: row.revision,
        row: Some(row),
    }));
    changes.sort_by_key(|change| change.revision);
    changes
}

impl Feed for Blocking {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let left = timeout.saturating_sub(begin.elapsed());
            let told = self.known.is_some();
            self.ask(left.min(LONGEST))?;
            if self.queue.is_empty() && told && begin.elapsed() >= timeout {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    fn snapshot(index: u64, rows: &[(&str, u64)]) -> Snapshot {
        let rows = rows.iter().map(|(key, revision)| Row {
            key: (*key).to_owned(),
            value: Vec::new(),
            revision: Revision(*revision),
            lease: None,
        });
        Snapshot {
            rows: rows.collect(),
            revision: Revision(index),
        }
    }

    fn told(watch: &mut Blocking, snapshot: Snapshot) -> Vec<(String, u64, bool)> {
        watch.tell(snapshot);
        let events = watch.queue.drain(..).map(|event| match event {
            Event::Change(change) => (change.key, change.revision.0, change.row.is_some()),
            Event::Resync(snapshot) => ("resync".to_owned(), snapshot.revision.0, true),
        });
        events.collect()
    }

    #[test]
    fn a_watch_begins_with_a_resync_and_goes_on_with_differences() {
        let agent = Agent {
            address: String::new(),
            token: None,
        };
        let mut watch = Blocking::new(agent, "");
        let put = |key: &str, revision| (key.to_owned(), revision, true);
        let gone = |key: &str, revision| (key.to_owned(), revision, false);
        assert_eq!(
            told(&mut watch, snapshot(5, &[("a", 3), ("b", 5)])),
            [put("resync", 5)]
        );
        assert_eq!(told(&mut watch, snapshot(5, &[("a", 3), ("b", 5)])), []);
        assert_eq!(
            told(&mut watch, snapshot(9, &[("a", 8), ("c", 7)])),
            [put("c", 7), put("a", 8), gone("b", 9)]
        );
        // A server that was restored: its indexes began anew.
        assert_eq!(
            told(&mut watch, snapshot(2, &[("a", 2)])),
            [gone("c", 2), put("a", 2)]
        );
    }

    #[test]
    fn a_prefix_that_ends_in_dots_is_asked_for_without_them() {
        assert_eq!(target("a/.."), "/v1/kv/a/?recurse");
        assert_eq!(target("."), "/v1/kv/?recurse");
        assert_eq!(target("a/.b"), "/v1/kv/a/.b?recurse");
    }
}
