//! Watches: ZooKeeper says where something happened, and we look what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use zookeeper_client::{AddWatchMode, Client, EventType, PersistentWatcher, WatchedEvent};

use super::plan::{LEASES, ROWS};
use super::session::Sessions;
use super::{ZooKeeper, node};
use crate::{Change, Event, Feed, Result, Row};

/// What one look takes at most.
const BATCH: usize = 500;

/// Watches of the rows and of the leases.
struct Pair {
    rows: PersistentWatcher,
    leases: PersistentWatcher,
}

pub(super) struct Watcher {
    store: ZooKeeper,
    prefix: String,
    /// What was told.
    known: BTreeMap<String, Row>,
    /// Nothing while the session has to be looked at.
    pair: Option<Pair>,
    queue: VecDeque<Event>,
}

impl Watcher {
    pub(super) fn new(store: ZooKeeper, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            known: BTreeMap::new(),
            pair: None,
            queue: VecDeque::new(),
        }
    }

    /// Listens, then reads: what happens in between is heard.
    fn begin(&mut self) -> Result<()> {
        let sessions = Arc::clone(&self.store.0);
        let paths = [ROWS, LEASES].map(|below| sessions.path(below));
        let ask = move |_: Arc<Sessions>, client: Client| async move {
            let mode = AddWatchMode::PersistentRecursive;
            Ok(Pair {
                rows: client.watch(&paths[0], mode).await?,
                leases: client.watch(&paths[1], mode).await?,
            })
        };
        let pair = sessions.call(("watch", &self.prefix), ask)?;
        let snapshot = self.store.listed("watch", &self.prefix)?;
        let rows = snapshot.rows.iter();
        self.known = rows.map(|row| (row.key.clone(), row.clone())).collect();
        self.pair = Some(pair);
        self.queue.push_back(Event::Resync(snapshot));
        Ok(())
    }

    /// What happened within `limit`.
    fn hear(&mut self, limit: Duration) -> Vec<WatchedEvent> {
        let Some(mut pair) = self.pair.take() else {
            return Vec::new();
        };
        let heard = self.store.0.within(limit + Duration::from_secs(1), async move {
            let mut events = Vec::new();
            let mut wait = limit;
            while let Ok(event) = timeout(wait, pair.next()).await {
                let ended = event.event_type == EventType::Session;
                events.push(event);
                if ended || events.len() >= BATCH {
                    break;
                }
                wait = Duration::ZERO;
            }
            (pair, events)
        });
        let Some((pair, events)) = heard else {
            return Vec::new();
        };
        // After a word of the session nothing is sure, and after its last one nobody may listen.
        let sure = events.iter().all(|event| event.event_type != EventType::Session);
        self.pair = sure.then_some(pair);
        events
    }

    /// The rows that events are about.
    fn dirty(&self, events: &[WatchedEvent]) -> BTreeSet<String> {
        let rows = self.store.0.path(ROWS);
        let leases = self.store.0.path(LEASES);
        let mut dirty = BTreeSet::new();
        for event in events {
            if let Some(lease) = below(&event.path, &leases) {
                let bound = |row: &Row| row.lease.as_ref().is_some_and(|bound| bound.0 == lease);
                let bound = self.known.values().filter(|row| bound(row));
                dirty.extend(bound.map(|row| row.key.clone()));
            }
            let names = below(&event.path, &rows).and_then(|path| path.split_once('/'));
            let key = names.and_then(|(folder, name)| node::key(folder, name));
            dirty.extend(key.filter(|key| key.starts_with(&self.prefix)));
        }
        dirty
    }

    /// Looks at rows, and tells of those that are not as they were told.
    fn look(&mut self, dirty: BTreeSet<String>) -> Result<()> {
        let keys: Vec<String> = dirty.into_iter().collect();
        let asked = keys.clone();
        let ask = move |sessions: Arc<Sessions>, client: Client| async move {
            sessions.found(&client, &asked).await
        };
        let (revision, found) = self.store.0.call(("watch", &self.prefix), ask)?;
        let mut changes = Vec::new();
        for key in keys {
            let row = found.row(&key).cloned();
            if self.known.get(&key) == row.as_ref() {
                continue;
            }
            match &row {
                Some(row) => self.known.insert(key.clone(), row.clone()),
                None => self.known.remove(&key),
            };
            let revision = row.as_ref().map_or(revision, |row| row.revision);
            changes.push(Change { key, revision, row });
        }
        changes.sort_by_key(|change| change.revision);
        self.queue.extend(changes.into_iter().map(Event::Change));
        Ok(())
    }
}

impl Pair {
    async fn next(&mut self) -> WatchedEvent {
        tokio::select! {
            event = self.rows.changed() => event,
            event = self.leases.changed() => event,
        }
    }
}

/// The part of `path` below `folder`.
fn below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    path.strip_prefix(folder)?.strip_prefix('/')
}

impl Feed for Watcher {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            if self.pair.is_none() {
                self.begin()?;
                continue;
            }
            let left = timeout.saturating_sub(begin.elapsed());
            let events = self.hear(left);
            let dirty = self.dirty(&events);
            if self.pair.is_some() && !dirty.is_empty() {
                // What cannot be looked at is heard of no more: then everything is read again.
                let pair = self.pair.take();
                self.look(dirty)?;
                self.pair = pair;
            }
            if self.pair.is_some() && self.queue.is_empty() && begin.elapsed() >= timeout {
                return Ok(None);
            }
        }
    }
}
