//! etcd, 3.4 or later, by its gRPC interface.
//!
//! * A revision is etcd's own `mod_revision`, a lease one of its leases, and every write one of its
//!   transactions, whose other branch reads what is there instead.
//! * Members are asked in turn. A read goes to the next one when one does not answer; a write only
//!   while it was not sent, since who got no answer cannot know whether it was done.
//! * A watch goes on after the last revision it has told, on whichever member answers; where the
//!   cluster has compacted that, or is another one, it resyncs.
//!
//! **Invariant:** passwords leave through the connection alone, and nothing of a frame of ours is
//! written to a log.

mod client;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
mod etcd;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_stream::once;

use crate::{
    Capabilities, Error, Expect, Guard, Lease, LeaseId, Op, Renewal, Result, Revision, Row, Secret, Snapshot,
    Store, Watch, key,
};
use client::{Client, Kind};
use etcd::compare::{CompareTarget, TargetUnion};
use etcd::lease_client::LeaseClient;
use etcd::request_op::Request;
use etcd::response_op::Response;
use etcd::{
    CompactionRequest, Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};

/// etcd takes requests of 1.5 MiB unless told otherwise.
const MAX_VALUE: usize = 1024 * 1024;
/// The shortest lease that a cluster with default timing grants, and the longest we ask for.
const TTL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(86_400));
/// Rows of one page of a list.
const PAGE: i64 = 2000;

/// Where a cluster is, and who we are to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HOST:PORT` of its members, also with `http://` or `https://` before them.
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, Secret)>,
    /// Certificates; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// How long all members together may take to answer.
    pub patience: Duration,
}

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Who vouches for the members.
    pub authority: PathBuf,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    /// Members without password or encryption, and a patience of 6 s.
    pub fn new<T: Into<String>>(endpoints: impl IntoIterator<Item = T>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            tls: None,
            patience: Duration::from_secs(6),
        }
    }
}

/// A client of a cluster.
#[derive(Clone)]
pub struct Etcd(Arc<Client>);

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Etcd")
    }
}

impl Etcd {
    /// A client of the cluster. Nothing is asked yet; an error where an address or a file is not what
    /// it should be.
    pub fn new(settings: Settings) -> io::Result<Self> {
        Client::new(settings).map(Self)
    }

    /// Makes the cluster forget what happened before `revision`.
    pub fn compact(&self, revision: Revision) -> Result<()> {
        let request = CompactionRequest {
            revision: signed(revision.0),
            physical: true,
        };
        let ask = move |voice: client::Voice| async move {
            voice.rows().compact(voice.say(request)).await.map(drop)
        };
        self.0.call(("compact", ""), Kind::Once, ask)
    }

    fn transact(&self, operation: &'static str, key: &str, request: TxnRequest) -> Result<TxnResponse> {
        let ask = move |voice: client::Voice| {
            let request = request.clone();
            async move { Ok(voice.rows().txn(voice.say(request)).await?.into_inner()) }
        };
        self.0.call((operation, key), Kind::Once, ask)
    }

    /// Guards, then changes, or nothing; `Ok` with what the changes answered.
    fn change(
        &self,
        operation: &'static str,
        guards: &[Guard],
        ops: &[Op],
    ) -> Result<(Revision, Vec<ResponseOp>)> {
        let first = ops.first().map_or("", Op::key);
        let success = ops.iter().map(change).collect::<Option<Vec<_>>>();
        let lost = || lost(operation, first, ops);
        // What is no lease of etcd's has never been one.
        let success = success.ok_or_else(lost)?;
        let request = TxnRequest {
            compare: guards.iter().filter_map(condition).collect(),
            success,
            failure: guards.iter().map(|guard| read(&guard.key)).collect(),
        };
        let answer = self.transact(operation, first, request);
        let answer = answer.map_err(|error| match error {
            Error::LeaseLost { .. } => lost(),
            other => other,
        })?;
        if answer.succeeded {
            return Ok((revision_of(answer.header.as_ref()), answer.responses));
        }
        for (guard, response) in guards.iter().zip(answer.responses) {
            let found = found(response);
            if !guard.expect.holds(found.as_ref()) {
                return Err(Error::conflict(operation, &guard.key, found));
            }
        }
        let why = "a condition does not hold, but every row is as expected";
        Err(Error::Corrupt {
            operation,
            key: first.to_owned(),
            why: why.to_owned(),
        })
    }

    fn renew(&self, lease: &LeaseId, id: i64) -> Renewal {
        let ask = move |voice: client::Voice| async move {
            let request = voice.say(once(LeaseKeepAliveRequest { id }));
            let stream = LeaseClient::new(voice.channel()).lease_keep_alive(request).await;
            stream?.into_inner().message().await
        };
        match self.0.call(("lease", &lease.0), Kind::Again, ask) {
            Ok(Some(answer)) if answer.ttl > 0 => Renewal::Renewed,
            Ok(Some(_)) | Err(Error::LeaseLost { .. }) => Renewal::Lost,
            Ok(None) | Err(_) => Renewal::Failed,
        }
    }
}

impl Store for Etcd {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ordered_revisions: true,
            history: true,
            ttl_min: TTL.0,
            // A new leader gives every lease its whole length again.
            ttl_slack: 2,
            max_value: MAX_VALUE,
        }
    }

    fn get(&self, key: &str) -> Result<Option<Row>> {
        key::check("get", key)?;
        let name = key.as_bytes().to_vec();
        let ask = move |voice: client::Voice| {
            let request = RangeRequest {
                key: name.clone(),
                ..RangeRequest::default()
            };
            async move { Ok(voice.rows().range(voice.say(request)).await?.into_inner()) }
        };
        let answer = self.0.call(("get", key), Kind::Again, ask)?;
        Ok(answer.kvs.into_iter().next().map(row))
    }

    fn list(&self, prefix: &str) -> Result<Snapshot> {
        key::check_prefix("list", prefix)?;
        listed(&self.0, "list", prefix)
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
        let guard = Guard {
            key: key.to_owned(),
            expect,
        };
        let op = Op::Delete { key: key.to_owned() };
        let (_, responses) = self.change("delete", &[guard], &[op])?;
        let removed = |response: &ResponseOp| matches!(&response.response, Some(Response::ResponseDeleteRange(answer)) if answer.deleted > 0);
        Ok(responses.iter().any(removed))
    }

    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        key::check_txn(guards, ops, MAX_VALUE)?;
        Ok(self.change("txn", guards, ops)?.0)
    }

    fn lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = ttl.clamp(TTL.0, TTL.1);
        let granted = Instant::now();
        let asked = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ask = move |voice: client::Voice| async move {
            let request = voice.say(LeaseGrantRequest {
                ttl: signed(asked),
                id: 0,
            });
            Ok(LeaseClient::new(voice.channel())
                .lease_grant(request)
                .await?
                .into_inner())
        };
        let answer = self.0.call(("lease", ""), Kind::Once, ask)?;
        if !answer.error.is_empty() {
            return Err(Error::invalid("lease", "", answer.error));
        }
        let lease = named(answer.id);
        let ttl = Duration::from_secs(answer.ttl.try_into().unwrap_or(asked));
        let (client, renewed) = (self.clone(), lease.clone());
        Lease::renewed_by(lease, ttl, granted, move || client.renew(&renewed, answer.id))
    }

    fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let Some(id) = number(lease) else {
            return Ok(());
        };
        let ask = move |voice: client::Voice| async move {
            let request = voice.say(LeaseRevokeRequest { id });
            LeaseClient::new(voice.channel())
                .lease_revoke(request)
                .await
                .map(drop)
        };
        match self.0.call(("revoke", &lease.0), Kind::Again, ask) {
            Err(Error::LeaseLost { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch> {
        key::check_prefix("watch", prefix)?;
        Ok(Watch::new(watch::Stream::new(Arc::clone(&self.0), prefix, from)))
    }
}

/// Every row under a prefix, page by page, as of the first page.
fn listed(client: &Arc<Client>, operation: &'static str, prefix: &str) -> Result<Snapshot> {
    let (begin, end) = range(prefix);
    let mut snapshot = Snapshot::default();
    let mut from = begin;
    loop {
        let request = RangeRequest {
            key: from.clone(),
            range_end: end.clone(),
            limit: PAGE,
            revision: signed(snapshot.revision.0),
            keys_only: false,
        };
        let ask = move |voice: client::Voice| {
            let request = request.clone();
            async move { Ok(voice.rows().range(voice.say(request)).await?.into_inner()) }
        };
        let page = client.call((operation, prefix), Kind::Again, ask)?;
        if snapshot.revision == Revision(0) {
            snapshot.revision = revision_of(page.header.as_ref());
        }
        if let Some(last) = page.kvs.last() {
            // The smallest key after the last one.
            from = [&last.key[..], &[0]].concat();
        }
        snapshot.rows.extend(page.kvs.into_iter().map(row));
        if !page.more {
            return Ok(snapshot);
        }
    }
}

/// The keys that begin with `prefix`, as etcd's half-open range; the end 0 is the end of all.
fn range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (vec![0], vec![0]);
    }
    let mut end = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix.as_bytes().to_vec(), end)
}

/// What etcd compares for a guard; nothing where anything may be.
fn condition(guard: &Guard) -> Option<Compare> {
    let (target, union) = match guard.expect {
        Expect::Any => return None,
        Expect::Absent => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Expect::Revision(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(signed(revision.0))),
    };
    Some(Compare {
        target: target.into(),
        key: guard.key.as_bytes().to_vec(),
        target_union: Some(union),
        // Equal.
        result: 0,
    })
}

/// What etcd does for a change; nothing where the lease's name is none of etcd's.
fn change(op: &Op) -> Option<RequestOp> {
    let request = match op {
        Op::Delete { key } => Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.as_bytes().to_vec(),
            range_end: Vec::new(),
        }),
        Op::Put { key, value, lease } => Request::RequestPut(PutRequest {
            key: key.as_bytes().to_vec(),
            value: value.clone(),
            lease: match lease {
                Some(lease) => number(lease)?,
                None => 0,
            },
        }),
    };
    Some(RequestOp {
        request: Some(request),
    })
}

fn read(key: &str) -> RequestOp {
    let request = RangeRequest {
        key: key.as_bytes().to_vec(),
        ..RangeRequest::default()
    };
    RequestOp {
        request: Some(Request::RequestRange(request)),
    }
}

fn found(response: ResponseOp) -> Option<Row> {
    match response.response {
        Some(Response::ResponseRange(answer)) => answer.kvs.into_iter().next().map(row),
        _ => None,
    }
}

/// etcd does not say which lease it misses.
fn lost(operation: &'static str, key: &str, ops: &[Op]) -> Error {
    let lease = ops.iter().find_map(|op| match op {
        Op::Put { lease, .. } => lease.clone(),
        Op::Delete { .. } => None,
    });
    Error::LeaseLost {
        operation,
        key: key.to_owned(),
        lease: lease.unwrap_or_else(|| LeaseId(String::new())),
    }
}

fn row(pair: KeyValue) -> Row {
    Row {
        // Keys of others may be any bytes.
        key: String::from_utf8_lossy(&pair.key).into_owned(),
        value: pair.value,
        revision: unsigned(pair.mod_revision),
        lease: (pair.lease != 0).then(|| named(pair.lease)),
    }
}

/// A lease as etcd's own tools print it.
fn named(id: i64) -> LeaseId {
    LeaseId(format!("{id:x}"))
}

fn number(lease: &LeaseId) -> Option<i64> {
    i64::from_str_radix(&lease.0, 16).ok().filter(|id| *id > 0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or_default())
}

fn revision_of(header: Option<&etcd::ResponseHeader>) -> Revision {
    unsigned(header.map_or(0, |header| header.revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range() {
        assert_eq!(range("a/"), (b"a/".to_vec(), b"a0".to_vec()));
        assert_eq!(range(""), (vec![0], vec![0]));
    }

    #[test]
    fn a_lease_reads_back_and_other_names_are_none() {
        assert_eq!(number(&named(0x7587_0000_0001)), Some(0x7587_0000_0001));
        for other in ["", "-1", "0", "6a1c9e0e-0000-4000-8000-1d0c1d0c1d0c"] {
            assert_eq!(number(&LeaseId(other.to_owned())), None, "{other:?}");
        }
    }
}
