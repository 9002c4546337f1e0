//! Consul, 1.8 or later, by its HTTP interface.
//!
//! * A revision is Consul's `ModifyIndex`, a lease one of its sessions, and a row that is bound to a
//!   lease is locked by the session; when the session ends, Consul deletes what it had locked.
//! * Every write reads first, pins what it read, and writes in one transaction; where somebody came in
//!   between it looks again. So what is expected of a row, and whether it is bound, is decided on what
//!   is there, and is still true when it is written.
//! * Consul has no history: a watch begins with a resync, and tells the difference whenever Consul says
//!   that something happened.
//!
//! **Invariant:** the token leaves by its header only. There is no TLS here: speak to an agent on the
//! same machine, as Consul intends.

mod http;
mod pair;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    Capabilities, Error, Expect, Guard, Lease, LeaseId, MAX_OPS, Op, Renewal, Result, Revision, Row, Secret,
    Snapshot, Store, Watch, key,
};
use http::{Agent, Answer};

/// A transaction's body may be 512 KiB, and values in it are longer by a third.
const MAX_VALUE: usize = 256 * 1024;
/// The limits of a session.
const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));
/// The longest that a request may take that does not wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a write looks again.
const ATTEMPTS: u32 = 64;

/// A client of an agent.
#[derive(Debug, Clone)]
pub struct Consul(Agent);

/// Why a transaction was not done.
enum Refusal {
    /// Somebody came in between.
    Raced,
    /// The session of an operation has ended.
    Lease(LeaseId),
    Other(Error),
}

type Rows = BTreeMap<String, Row>;

impl Consul {
    /// A client of the agent at `address`, `HOST:PORT`. Nothing is asked yet.
    pub fn new(address: impl Into<String>, token: Option<Secret>) -> Self {
        Self(Agent {
            address: address.into(),
            token,
        })
    }

    fn call(
        &self,
        operation: &'static str,
        key: &str,
        (method, target): (&str, &str),
        body: &Value,
    ) -> Result<Answer> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self
            .0
            .call(method, target, body.as_bytes(), PATIENCE)
            .map_err(|error| Error::unavailable(operation, key, error))?;
        judged(operation, key, answer)
    }

    fn read(&self, operation: &'static str, key: &str) -> Result<Option<Row>> {
        let target = format!("/v1/kv/{}?consistent", http::escape(key));
        let answer = self.call(operation, key, ("GET", &target), &Value::Null)?;
        Ok(pair::rows(operation, key, &answer)?.into_iter().next())
    }

    /// Guards, then changes, or nothing. Looks again until nobody comes in between.
    fn change(&self, operation: &'static str, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        let first = ops[0].key();
        for attempt in 0..ATTEMPTS {
            let found = self.found(operation, guards, ops)?;
            for guard in guards {
                let row = found.get(&guard.key);
                if !guard.expect.holds(row) {
                    return Err(Error::conflict(operation, &guard.key, row.cloned()));
                }
            }
            let verbs = verbs(guards, ops, &found);
            if verbs.len() > MAX_OPS {
                return Err(Error::TooLarge {
                    operation,
                    key: first.to_owned(),
                    size: verbs.len(),
                    limit: MAX_OPS,
                    unit: "operations",
                });
            }
            match self.transact(operation, first, &verbs) {
                Ok(revision) => return Ok(revision),
                Err(Refusal::Raced) => std::thread::sleep(pause(attempt)),
                Err(Refusal::Lease(lease)) => {
                    return Err(Error::LeaseLost {
                        operation,
                        key: first.to_owned(),
                        lease,
                    });
                }
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        let why = format!("somebody else wrote between {ATTEMPTS} attempts to read and write");
        Err(Error::unavailable(operation, first, io::Error::other(why)))
    }

    fn found(&self, operation: &'static str, guards: &[Guard], ops: &[Op]) -> Result<Rows> {
        let mut found = Rows::new();
        let guarded = guards.iter().map(|guard| guard.key.as_str());
        let mut keys: Vec<&str> = guarded.chain(ops.iter().map(Op::key)).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            if let Some(row) = self.read(operation, key)? {
                found.insert(key.to_owned(), row);
            }
        }
        Ok(found)
    }

    fn transact(
        &self,
        operation: &'static str,
        key: &str,
        verbs: &[Value],
    ) -> std::result::Result<Revision, Refusal> {
        let body: Vec<Value> = verbs.iter().map(|verb| json!({ "KV": verb })).collect();
        let answer = self
            .call(operation, key, ("PUT", "/v1/txn"), &Value::Array(body))
            .map_err(Refusal::Other)?;
        let said: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| Refusal::Other(pair::corrupt(operation, key, error)))?;
        if answer.status == 409 {
            let errors = said["Errors"].as_array().map_or(&[][..], Vec::as_slice);
            let lost = errors.iter().find(|error| {
                let what = error["What"].as_str().unwrap_or_default();
                what.contains("invalid session")
            });
            let Some(lost) = lost else {
                return Err(Refusal::Raced);
            };
            let at = lost["OpIndex"].as_u64().and_then(|at| usize::try_from(at).ok());
            let session = at.and_then(|at| verbs.get(at)?["Session"].as_str());
            return Err(Refusal::Lease(LeaseId(session.unwrap_or_default().to_owned())));
        }
        let results = said["Results"].as_array().map_or(&[][..], Vec::as_slice);
        let written = results
            .iter()
            .filter_map(|result| result["KV"]["ModifyIndex"].as_u64());
        match written.max() {
            Some(index) => Ok(Revision(index)),
            // Deletes answer nothing.
            None => self.now(operation, key).map_err(Refusal::Other),
        }
    }

    fn now(&self, operation: &'static str, key: &str) -> Result<Revision> {
        let target = format!("/v1/kv/{}?consistent", http::escape(key));
        let answer = self.call(operation, key, ("GET", &target), &Value::Null)?;
        Ok(Revision(answer.index.unwrap_or_default()))
    }

    fn renew(&self, lease: &LeaseId) -> Renewal {
        let target = format!("/v1/session/renew/{}", http::escape(&lease.0));
        match self.call("lease", &lease.0, ("PUT", &target), &Value::Null) {
            Ok(answer) if answer.status == 404 => Renewal::Lost,
            Ok(_) => Renewal::Renewed,
            Err(_) => Renewal::Failed,
        }
    }
}

/// Answers that are neither success, nor nothing (404), nor a refused transaction (409) are errors.
fn judged(operation: &'static str, key: &str, answer: Answer) -> Result<Answer> {
    let why = || {
        String::from_utf8_lossy(&answer.body)
            .trim()
            .chars()
            .take(200)
            .collect::<String>()
    };
    match answer.status {
        200 | 404 | 409 => Ok(answer),
        401 | 403 => Err(Error::Denied {
            operation,
            key: key.to_owned(),
            why: why(),
        }),
        400 | 413 if why().contains("too large") => Err(Error::TooLarge {
            operation,
            key: key.to_owned(),
            size: answer.body.len().max(MAX_VALUE + 1),
            limit: MAX_VALUE,
            unit: "bytes",
        }),
        400 => Err(Error::invalid(operation, key, why())),
        status => {
            let text = format!("the agent answers {status}: {}", why());
            Err(Error::unavailable(operation, key, io::Error::other(text)))
        }
    }
}

/// Longer with every attempt, and not the same for everybody.
fn pause(attempt: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let jitter = now.unwrap_or_default().subsec_nanos() % 5000;
    Duration::from_millis(u64::from(attempt.min(20))) + Duration::from_micros(u64::from(jitter))
}

/// What Consul is asked to do, all pinned to what was found.
fn verbs(guards: &[Guard], ops: &[Op], found: &Rows) -> Vec<Value> {
    let pin = |key: &str| match found.get(key) {
        Some(row) => json!({ "Verb": "check-index", "Key": key, "Index": row.revision.0 }),
        None => json!({ "Verb": "check-not-exists", "Key": key }),
    };
    let only_guarded = guards
        .iter()
        .filter(|guard| guard.expect != Expect::Any && ops.iter().all(|op| op.key() != guard.key));
    let mut verbs: Vec<Value> = only_guarded.map(|guard| pin(&guard.key)).collect();
    for op in ops {
        match op {
            Op::Delete { key } => match found.get(key) {
                Some(row) => {
                    verbs.push(json!({ "Verb": "delete-cas", "Key": key, "Index": row.revision.0 }));
                }
                None => verbs.push(pin(key)),
            },
            Op::Put { key, value, lease } => {
                let row = found.get(key);
                let bound = row.and_then(|row| row.lease.as_ref());
                let value = pair::encode(value);
                if bound.is_none() && lease.is_none() {
                    let index = row.map_or(0, |row| row.revision.0);
                    verbs.push(json!({ "Verb": "cas", "Key": key, "Value": value, "Index": index }));
                    continue;
                }
                verbs.push(pin(key));
                if let Some(old) = bound.filter(|old| Some(*old) != lease.as_ref()) {
                    verbs.push(json!({ "Verb": "unlock", "Key": key, "Value": value, "Session": old.0 }));
                }
                if let Some(new) = lease {
                    verbs.push(json!({ "Verb": "lock", "Key": key, "Value": value, "Session": new.0 }));
                }
            }
        }
    }
    verbs
}

impl Store for Consul {
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
        self.read("get", key)
    }

    fn list(&self, prefix: &str) -> Result<Snapshot> {
        key::check_prefix("list", prefix)?;
        let target = format!("{}&consistent", watch::target(prefix));
        let answer = self.call("list", prefix, ("GET", &target), &Value::Null)?;
        watch::snapshot("list", prefix, &answer)
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
        self.change("put", &[guard], &[op])
    }

    fn delete_if(&self, key: &str, expect: Expect) -> Result<bool> {
        key::check("delete", key)?;
        for attempt in 0..ATTEMPTS {
            let row = self.read("delete", key)?;
            if !expect.holds(row.as_ref()) {
                return Err(Error::conflict("delete", key, row));
            }
            let Some(row) = row else { return Ok(false) };
            let verb = json!({ "Verb": "delete-cas", "Key": key, "Index": row.revision.0 });
            match self.transact("delete", key, &[verb]) {
                Ok(_) => return Ok(true),
                Err(Refusal::Other(error)) => return Err(error),
                Err(Refusal::Raced | Refusal::Lease(_)) => std::thread::sleep(pause(attempt)),
            }
        }
        let why = "somebody else wrote between every attempt to read and delete";
        Err(Error::unavailable("delete", key, io::Error::other(why)))
    }

    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        key::check_txn(guards, ops, MAX_VALUE)?;
        self.change("txn", guards, ops)
    }

    fn lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = ttl.clamp(TTL.0, TTL.1);
        let granted = Instant::now();
        // Without checks: whether the host lives is what the renewal says, and nothing else.
        let session = json!({
            "Name": "longshore", "Behavior": "delete", "LockDelay": "0s",
            "TTL": format!("{}ms", ttl.as_millis()), "Checks": [], "NodeChecks": [],
        });
        let answer = self.call("lease", "", ("PUT", "/v1/session/create"), &session)?;
        let said: Value =
            serde_json::from_slice(&answer.body).map_err(|error| pair::corrupt("lease", "", error))?;
        let id = said["ID"]
            .as_str()
            .ok_or_else(|| pair::corrupt("lease", "", "a session without an id"))?;
        let lease = LeaseId(id.to_owned());
        let (client, renewed) = (self.clone(), lease.clone());
        Lease::renewed_by(lease, ttl, granted, move || client.renew(&renewed))
    }

    fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let target = format!("/v1/session/destroy/{}", http::escape(&lease.0));
        self.call("revoke", &lease.0, ("PUT", &target), &Value::Null)?;
        Ok(())
    }

    fn watch(&self, prefix: &str, _from: Revision) -> Result<Watch> {
        key::check_prefix("watch", prefix)?;
        Ok(Watch::new(watch::Blocking::new(self.0.clone(), prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lease: Option<&str>) -> Rows {
        let row = Row {
            key: "a".to_owned(),
            value: Vec::new(),
            revision: Revision(7),
            lease: lease.map(|lease| LeaseId(lease.to_owned())),
        };
        Rows::from([("a".to_owned(), row)])
    }

    fn put(lease: Option<&str>, found: &Rows) -> Vec<String> {
        let op = Op::Put {
            key: "a".to_owned(),
            value: Vec::new(),
            lease: lease.map(|lease| LeaseId(lease.to_owned())),
        };
        let verbs = verbs(&[], &[op], found);
        let spoken = |verb: &Value| match verb["Session"].as_str() {
            Some(session) => format!("{} {session}", verb["Verb"].as_str().unwrap()),
            None => verb["Verb"].as_str().unwrap().to_owned(),
        };
        verbs.iter().map(spoken).collect()
    }

    #[test]
    fn a_row_is_bound_freed_and_moved_between_leases() {
        let none = Rows::new();
        assert_eq!(put(None, &none), ["cas"]);
        assert_eq!(put(None, &row(None)), ["cas"]);
        assert_eq!(put(Some("s"), &none), ["check-not-exists", "lock s"]);
        assert_eq!(put(Some("s"), &row(None)), ["check-index", "lock s"]);
        assert_eq!(put(Some("s"), &row(Some("s"))), ["check-index", "lock s"]);
        assert_eq!(put(None, &row(Some("s"))), ["check-index", "unlock s"]);
        assert_eq!(
            put(Some("t"), &row(Some("s"))),
            ["check-index", "unlock s", "lock t"]
        );
    }

    #[test]
    fn a_delete_is_pinned_even_where_nothing_is() {
        let op = Op::Delete { key: "a".to_owned() };
        let verb = |found: &Rows| verbs(&[], std::slice::from_ref(&op), found)[0]["Verb"].clone();
        assert_eq!(verb(&Rows::new()), "check-not-exists");
        assert_eq!(verb(&row(None)), "delete-cas");
    }
}
