//! ZooKeeper, 3.6 or later.
//!
//! * A row is a leaf node whose bytes name its lease, a lease a session with one ephemeral node. So a
//!   row moves between leases by a plain write; and since the name of a lease is never given again, a
//!   row whose lease has ended is as good as removed, for everybody and at once.
//! * A revision is ZooKeeper's transaction number. Every write reads first, pins what it read, and
//!   writes in one request that also touches one node that all writes touch; a list that finds this
//!   node changed reads again, so it shows one moment.
//! * ZooKeeper has no history and its watches may miss what happens while a connection is made anew: a
//!   watch begins with a resync and resyncs whenever its session has spoken.
//!
//! **Invariant:** the password leaves through the connection alone, which is not encrypted: speak to
//! ZooKeeper over networks that you trust.

mod node;
mod plan;
mod session;
mod watch;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zookeeper_client::{Client, Error as Refusal, MultiWriteError};

use crate::{
    Capabilities, Error, Expect, Guard, Lease, LeaseId, Op, Renewal, Result, Revision, Row, Secret, Snapshot,
    Store, Watch, key,
};
use plan::Found;
use session::Sessions;

/// ZooKeeper takes requests of a megabyte, unless told otherwise.
const MAX_VALUE: usize = 512 * 1024;
/// Of all values of one transaction together.
const MAX_REQUEST: usize = 900 * 1024;
/// What a cluster with default ticks makes of shorter and longer sessions.
const TTL: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(40));
/// How often a write or a list looks again.
const ATTEMPTS: u32 = 64;
/// Dead rows that one list removes.
const SWEEP: usize = 8;

/// Where a cluster is, and who we are to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// The node below which everything lies: words joined by `/`.
    pub root: String,
    /// Name and password (`digest`). With them, nobody else can read or write what we make.
    pub user: Option<(String, Secret)>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Settings {
    /// Members without a password, the root `longshore`, and a patience of 6 s.
    pub fn new<T: Into<String>>(endpoints: impl IntoIterator<Item = T>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            root: "longshore".to_owned(),
            user: None,
            patience: Duration::from_secs(6),
        }
    }
}

/// A client of a cluster.
#[derive(Clone)]
pub struct ZooKeeper(Arc<Sessions>);

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZooKeeper")
    }
}

/// How one attempt to write ended, when not well.
enum Failure {
    Raced,
    Other(Error),
}

impl ZooKeeper {
    /// A client of the cluster. Nothing is asked yet; an error where the root is no path.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Sessions::new(settings).map(Self)
    }

    fn found(&self, operation: &'static str, key: &str, keys: Vec<String>) -> Result<Found> {
        let ask = move |sessions: Arc<Sessions>, client: Client| async move {
            Ok(sessions.found(&client, &keys).await?.1)
        };
        self.0.call((operation, key), ask)
    }

    /// Guards, then changes, or nothing; with what was there before. Looks again until nobody comes
    /// in between.
    fn change(&self, operation: &'static str, guards: &[Guard], ops: &[Op]) -> Result<(Revision, Found)> {
        let first = ops.first().map_or("", Op::key);
        let mut keys: Vec<String> = guards.iter().map(|guard| guard.key.clone()).collect();
        keys.extend(ops.iter().map(|op| op.key().to_owned()));
        keys.sort_unstable();
        keys.dedup();
        for attempt in 0..ATTEMPTS {
            let found = self.found(operation, first, keys.clone())?;
            for guard in guards {
                let row = found.row(&guard.key);
                if !guard.expect.holds(row) {
                    return Err(Error::conflict(operation, &guard.key, row.cloned()));
                }
            }
            match self.attempt(operation, guards, ops, &found) {
                Ok(revision) => return Ok((revision, found)),
                Err(Failure::Raced) => std::thread::sleep(pause(attempt)),
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Err(raced(operation, first))
    }

    fn attempt(
        &self,
        operation: &'static str,
        guards: &[Guard],
        ops: &[Op],
        found: &Found,
    ) -> std::result::Result<Revision, Failure> {
        let key = ops.first().map_or("", Op::key);
        let steps = plan::steps(guards, ops, found);
        let ask = move |sessions: Arc<Sessions>, client: Client| async move {
            match sessions.commit(&client, &steps).await {
                // A row that was to be written is gone, or a folder was never there.
                Err(MultiWriteError::OperationFailed {
                    source: Refusal::NoNode,
                    index,
                }) => {
                    sessions.make_folders(&client, &steps).await?;
                    Ok(Err((index, Refusal::NoNode)))
                }
                Err(MultiWriteError::OperationFailed { source, index }) => Ok(Err((index, source))),
                Err(MultiWriteError::RequestFailed { source }) => Err(source),
                Ok(revision) => Ok(Ok(revision)),
            }
        };
        let refused = match self.0.call((operation, key), ask) {
            Err(error) => return Err(Failure::Other(error)),
            Ok(Ok(revision)) => return Ok(revision),
            Ok(Err(refused)) => refused,
        };
        Err(match refused {
            (index, Refusal::NoNode) => match plan::leases(ops).get(index) {
                Some(lease) => Failure::Other(Error::LeaseLost {
                    operation,
                    key: key.to_owned(),
                    lease: (*lease).clone(),
                }),
                None => Failure::Raced,
            },
            (_, Refusal::BadVersion | Refusal::NodeExists) => Failure::Raced,
            (_, other) => Failure::Other(session::judged(operation, key, &other)),
        })
    }

    /// Removes rows whose lease has ended. What cannot be removed now is so later; nobody sees it.
    fn sweep(&self, dead: Vec<String>) {
        for key in dead.into_iter().take(SWEEP) {
            let Ok(found) = self.found("list", &key, vec![key.clone()]) else {
                return;
            };
            if found.nodes.contains_key(&key) && found.row(&key).is_none() {
                let _ = self.attempt("list", &[], &[Op::Delete { key }], &found);
            }
        }
    }

    fn listed(&self, operation: &'static str, prefix: &str) -> Result<Snapshot> {
        for attempt in 0..ATTEMPTS {
            let below = prefix.to_owned();
            let ask = move |sessions: Arc<Sessions>, client: Client| async move {
                sessions.list(&client, &below).await
            };
            if let Some((snapshot, dead)) = self.0.call((operation, prefix), ask)? {
                if !dead.is_empty() {
                    self.sweep(dead);
                }
                return Ok(snapshot);
            }
            std::thread::sleep(pause(attempt.min(3)));
        }
        Err(raced(operation, prefix))
    }
}

fn raced(operation: &'static str, key: &str) -> Error {
    let why = format!("somebody else wrote during each of {ATTEMPTS} attempts");
    Error::unavailable(operation, key, io::Error::other(why))
}

/// Longer with every attempt, and not the same for everybody.
fn pause(attempt: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let jitter = now.unwrap_or_default().subsec_nanos() % 5000;
    Duration::from_millis(u64::from(attempt.min(20))) + Duration::from_micros(u64::from(jitter))
}

/// A session's name as a lease.
fn lease_of(client: &Client) -> LeaseId {
    LeaseId(format!("{:x}", client.session_id().0))
}

fn renew(sessions: &Sessions, client: &Client, path: &str) -> Renewal {
    if client.state().is_terminated() {
        return Renewal::Lost;
    }
    let (asked, at) = (client.clone(), path.to_owned());
    // The client itself keeps the session alive; this asks whether it has succeeded.
    let stat = sessions.within(client.session_timeout() / 3, async move {
        asked.sync(&at).await?;
        asked.check_stat(&at).await
    });
    match stat {
        Some(Ok(Some(_))) => Renewal::Renewed,
        Some(Ok(None) | Err(Refusal::SessionExpired | Refusal::NoNode)) => Renewal::Lost,
        _ => Renewal::Failed,
    }
}

impl Store for ZooKeeper {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ordered_revisions: true,
            history: false,
            ttl_min: TTL.0,
            ttl_slack: 2,
            max_value: MAX_VALUE,
        }
    }

    fn get(&self, key: &str) -> Result<Option<Row>> {
        key::check("get", key)?;
        let found = self.found("get", key, vec![key.to_owned()])?;
        Ok(found.row(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Snapshot> {
        key::check_prefix("list", prefix)?;
        self.listed("list", prefix)
    }

    fn put_if(&self, key: &str, value: &[u8], expect: Expect, lease: Option<&LeaseId>) -> Result<Revision> {
        key::check("put", key)?;
        key::check_value("put", key, value, MAX_VALUE)?;
        let guard = Guard {
            key: key.to_owned(),
            expect,
        };
        let op = Op::Put {
            key: key.to_owned(),
            value: value.to_vec(),
            lease: lease.cloned(),
        };
        Ok(self.change("put", &[guard], &[op])?.0)
    }

    fn delete_if(&self, key: &str, expect: Expect) -> Result<bool> {
        key::check("delete", key)?;
        let found = self.found("delete", key, vec![key.to_owned()])?;
        if !found.nodes.contains_key(key) {
            return if expect.holds(None) {
                Ok(false)
            } else {
                Err(Error::conflict("delete", key, None))
            };
        }
        let guard = Guard {
            key: key.to_owned(),
            expect,
        };
        let (_, found) = self.change("delete", &[guard], &[Op::Delete { key: key.to_owned() }])?;
        Ok(found.row(key).is_some())
    }

    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        key::check_txn(guards, ops, MAX_VALUE)?;
        let size = |op: &Op| match op {
            Op::Put { value, .. } => value.len(),
            Op::Delete { .. } => 0,
        };
        let size: usize = ops.iter().map(size).sum();
        if size > MAX_REQUEST {
            return Err(Error::TooLarge {
                operation: "txn",
                key: ops.first().map_or("", Op::key).to_owned(),
                size,
                limit: MAX_REQUEST,
                unit: "bytes",
            });
        }
        Ok(self.change("txn", guards, ops)?.0)
    }

    fn lease(&self, ttl: Duration) -> Result<Lease> {
        let granted = Instant::now();
        // The first call of a client also makes what every client needs.
        let ask = move |sessions: Arc<Sessions>, _: Client| async move { sessions.lease(ttl).await };
        let client = self.0.call(("lease", ""), ask)?;
        let (lease, ttl) = (lease_of(&client), client.session_timeout());
        let path = self.0.path(&plan::lease_path(&lease));
        let sessions = Arc::clone(&self.0);
        Lease::renewed_by(lease, ttl, granted, move || renew(&sessions, &client, &path))
    }

    fn revoke(&self, lease: &LeaseId) -> Result<()> {
        // A name that is no node's has never been a lease.
        if lease.0.is_empty() || !lease.0.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        let path = self.0.path(&plan::lease_path(lease));
        let ask = move |_, client: Client| async move {
            match client.delete(&path, None).await {
                Err(Refusal::NoNode) => Ok(()),
                outcome => outcome,
            }
        };
        self.0.call(("revoke", &lease.0), ask)
    }

    fn watch(&self, prefix: &str, _from: Revision) -> Result<Watch> {
        key::check_prefix("watch", prefix)?;
        Ok(Watch::new(watch::Watcher::new(self.clone(), prefix)))
    }
}
