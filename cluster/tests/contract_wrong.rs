//! Every case of the contract catches a store with a defect, and says so.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests as well")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::contract::{Subject, judge, suite};
use cluster::embedded::Embedded;
use cluster::{
    Capabilities, Error, Event, Expect, Feed, Guard, Lease, LeaseId, Op, Renewal, Result, Revision, Row,
    Snapshot, Store, Watch,
};

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    EmptyValues,
    AbsentIsAny,
    RevisionIsAny,
    SilentConflicts,
    FirstRevisionAgain,
    DeletesWhatIsNotThere,
    DeletesAnything,
    ValuesAreText,
    UnescapesKeys,
    TrimsKeys,
    PrefixIsFolder,
    ListsBackwards,
    ListsRowByRow,
    CutsValues,
    NoGuards,
    TxnWithoutDeletes,
    SmallTxns,
    CutsTxns,
    RemembersReads,
    MuteDeletes,
    WatchesEverything,
    NeverWaits,
    Mute,
    BelievesTheFuture,
    WatchesFromNow,
    NoResync,
    NeverRenews,
    BindsNothing,
    NeverRevokes,
    AlwaysRenews,
    ForgivesLostLeases,
    KeepsLeases,
    TxnBindsNothing,
    RevokesOnce,
}
use Defect::*;

/// Which defect each case catches.
const CAUGHT: &[(&str, Defect)] = &[
    ("a_row_reads_back", EmptyValues),
    ("absent_creates_once", AbsentIsAny),
    ("of_eight_creators_one_wins", AbsentIsAny),
    ("a_stale_revision_conflicts", RevisionIsAny),
    ("of_eight_counters_none_is_lost", RevisionIsAny),
    ("a_conflict_says_what_is_there", SilentConflicts),
    ("a_row_made_again_has_another_revision", FirstRevisionAgain),
    ("delete_of_nothing_is_done_already", DeletesWhatIsNotThere),
    ("a_stale_delete_conflicts", DeletesAnything),
    ("values_hold_any_bytes", ValuesAreText),
    ("keys_hold_what_the_rules_allow", UnescapesKeys),
    ("bad_keys_are_refused", TrimsKeys),
    ("a_prefix_is_a_beginning", PrefixIsFolder),
    ("a_list_is_sorted_and_has_a_revision", ListsBackwards),
    ("a_list_is_one_moment", ListsRowByRow),
    ("a_large_value_is_refused_clearly", CutsValues),
    ("a_txn_is_all_or_nothing", NoGuards),
    ("a_txn_that_deletes_and_puts", TxnWithoutDeletes),
    ("a_txn_of_64_is_taken", SmallTxns),
    ("a_txn_of_65_is_refused", CutsTxns),
    ("two_clients_see_one_another", RemembersReads),
    ("a_watch_converges", MuteDeletes),
    ("a_watch_tells_every_change_in_order", MuteDeletes),
    ("a_watch_of_a_prefix_tells_of_nothing_else", WatchesEverything),
    ("a_quiet_watch_waits", NeverWaits),
    ("a_watch_sees_what_another_client_does", Mute),
    ("a_watch_from_the_future_resyncs", BelievesTheFuture),
    ("a_watch_has_no_gap_behind_its_list", WatchesFromNow),
    ("a_watch_from_before_the_history_resyncs", NoResync),
    ("a_lease_that_is_renewed_lives", NeverRenews),
    ("a_lease_that_nobody_renews_takes_its_rows", BindsNothing),
    ("a_revoked_lease_takes_its_rows_at_once", NeverRevokes),
    ("a_lost_lease_is_told", AlwaysRenews),
    ("a_lost_lease_binds_nothing", ForgivesLostLeases),
    ("a_row_is_bound_by_its_last_write", KeepsLeases),
    ("a_lease_is_bound_in_a_txn", TxnBindsNothing),
    ("revoke_twice_is_already_so", RevokesOnce),
];

/// The store of one machine, with a defect.
struct Wrong {
    inner: Embedded,
    defect: Defect,
    read: Mutex<HashMap<String, Option<Row>>>,
    revoked: Mutex<HashSet<LeaseId>>,
}

impl Wrong {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn key(&self, key: &str) -> String {
        match self.defect {
            UnescapesKeys => key.replace("%2F", "-"),
            TrimsKeys => key.trim_matches('/').to_owned(),
            _ => key.to_owned(),
        }
    }

    fn value(&self, value: &[u8]) -> Vec<u8> {
        match self.defect {
            EmptyValues => Vec::new(),
            ValuesAreText => String::from_utf8_lossy(value).into_owned().into_bytes(),
            CutsValues => value[..value.len().min(self.inner.capabilities().max_value)].to_vec(),
            _ => value.to_vec(),
        }
    }

    fn expect(&self, expect: Expect) -> Expect {
        match (self.defect, expect) {
            (AbsentIsAny, Expect::Absent) | (RevisionIsAny | FirstRevisionAgain, Expect::Revision(_)) => {
                // Others get a chance to come in between.
                std::thread::sleep(Duration::from_millis(2));
                Expect::Any
            }
            _ => expect,
        }
    }

    fn lease_of(&self, key: &str, lease: Option<&LeaseId>) -> Option<LeaseId> {
        match self.defect {
            BindsNothing => None,
            KeepsLeases if lease.is_none() => self.inner.get(key).ok().flatten()?.lease,
            _ => lease.cloned(),
        }
    }

    fn heard<T>(&self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(Error::Conflict { operation, key, .. }) if self.has(SilentConflicts) => {
                Err(Error::conflict(operation, key, None))
            }
            outcome => outcome,
        }
    }
}

impl Store for Wrong {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn get(&self, key: &str) -> Result<Option<Row>> {
        let key = self.key(key);
        if self.has(RemembersReads)
            && let Some(known) = self.read.lock().unwrap().get(&key)
        {
            return Ok(known.clone());
        }
        let row = self.inner.get(&key)?;
        self.read.lock().unwrap().insert(key, row.clone());
        Ok(row)
    }

    fn list(&self, prefix: &str) -> Result<Snapshot> {
        let mut snapshot = self.inner.list(prefix)?;
        match self.defect {
            PrefixIsFolder => {
                let folder = format!("{}/", prefix.trim_end_matches('/'));
                snapshot
                    .rows
                    .retain(|row| row.key == prefix || row.key.starts_with(&folder));
            }
            ListsBackwards => snapshot.rows.reverse(),
            ListsRowByRow => {
                for row in &mut snapshot.rows {
                    std::thread::sleep(Duration::from_millis(1));
                    *row = self.inner.get(&row.key)?.unwrap_or_else(|| row.clone());
                }
            }
            _ => {}
        }
        Ok(snapshot)
    }

    fn put_if(&self, key: &str, value: &[u8], expect: Expect, lease: Option<&LeaseId>) -> Result<Revision> {
        let (key, value) = (self.key(key), self.value(value));
        let lease = self.lease_of(&key, lease);
        let expect = self.expect(expect);
        let put = self.inner.put_if(&key, &value, expect, lease.as_ref());
        match self.heard(put) {
            Err(Error::LeaseLost { .. }) if self.has(ForgivesLostLeases) => {
                self.inner.put_if(&key, &value, expect, None)
            }
            Ok(_) if self.has(FirstRevisionAgain) => Ok(Revision(1)),
            outcome => outcome,
        }
    }

    fn delete_if(&self, key: &str, expect: Expect) -> Result<bool> {
        let expect = match self.defect {
            DeletesAnything => Expect::Any,
            _ => self.expect(expect),
        };
        let there = self.inner.delete_if(&self.key(key), expect)?;
        Ok(there || self.has(DeletesWhatIsNotThere))
    }

    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        let mut ops = ops.to_vec();
        for op in &mut ops {
            if let Op::Put { value, lease, .. } = op {
                *value = self.value(value);
                if self.has(TxnBindsNothing) {
                    *lease = None;
                }
            }
        }
        match self.defect {
            NoGuards => self.inner.txn(&[], &ops),
            TxnWithoutDeletes => {
                ops.retain(|op| matches!(op, Op::Put { .. }));
                self.inner.txn(guards, &ops)
            }
            SmallTxns if ops.len() > 32 => Err(Error::invalid("txn", ops[0].key(), "it is too long")),
            CutsTxns => {
                let done = ops.chunks(32).map(|some| self.inner.txn(&[], some));
                Ok(done.collect::<Result<Vec<_>>>()?.pop().unwrap_or_default())
            }
            _ => self.heard(self.inner.txn(guards, &ops)),
        }
    }

    fn lease(&self, ttl: Duration) -> Result<Lease> {
        let lease = self.inner.lease(ttl)?;
        let (id, ttl) = (lease.id().clone(), lease.ttl());
        match self.defect {
            NeverRenews => Lease::renewed_by(id, ttl, Instant::now(), || Renewal::Failed),
            AlwaysRenews => Lease::renewed_by(id, ttl, Instant::now(), move || {
                let _kept = &lease;
                Renewal::Renewed
            }),
            _ => Ok(lease),
        }
    }

    fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let first = self.revoked.lock().unwrap().insert(lease.clone());
        match self.defect {
            NeverRevokes => Ok(()),
            RevokesOnce if !first => Err(Error::invalid("revoke", &lease.0, "it is not known")),
            _ => self.inner.revoke(lease),
        }
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch> {
        let now = self.inner.list(prefix)?.revision;
        let (prefix, from) = match self.defect {
            WatchesEverything => ("", from),
            WatchesFromNow => (prefix, now),
            BelievesTheFuture => (prefix, from.min(now)),
            _ => (prefix, from),
        };
        Ok(Watch::new(WrongFeed {
            inner: self.inner.watch(prefix, from)?,
            defect: self.defect,
        }))
    }
}

struct WrongFeed {
    inner: Watch,
    defect: Defect,
}

impl Feed for WrongFeed {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        if self.defect == NeverWaits {
            return self.inner.next(Duration::ZERO);
        }
        let event = self.inner.next(timeout)?;
        Ok(event.filter(|event| match (self.defect, event) {
            (Mute, _) | (NoResync, Event::Resync(_)) => false,
            (MuteDeletes, Event::Change(change)) => change.row.is_some(),
            _ => true,
        }))
    }
}

#[test]
fn every_case_catches_its_defect() {
    let missed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = suite()
            .map(|case| {
                scope.spawn(move || {
                    let Some((_, defect)) = CAUGHT.iter().find(|(name, _)| *name == case.name) else {
                        return Some(format!("{} has no defect", case.name));
                    };
                    let folder = tempfile::tempdir().unwrap();
                    let open = || {
                        let wrong = Wrong {
                            inner: Embedded::open(folder.path())?,
                            defect: *defect,
                            read: Mutex::default(),
                            revoked: Mutex::default(),
                        };
                        Ok(Arc::new(wrong) as _)
                    };
                    let subject = Subject::new(open).on_compact(|| Embedded::open(folder.path())?.compact());
                    let verdict = judge(&subject, case);
                    verdict
                        .is_ok()
                        .then(|| format!("{} passes with {defect:?}", case.name))
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|case| case.join().unwrap())
            .collect()
    });
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(CAUGHT.len(), suite().count());
}
