//! What every [`Store`] must keep, as cases that run against any of them.
//!
//! # From a store's test
//! ```
//! use std::sync::Arc;
//! use cluster::contract::{Subject, check};
//! use cluster::embedded::Embedded;
//!
//! let folder = tempfile::tempdir().unwrap();
//! // A new client of the same store with every call.
//! let open = || Embedded::open(folder.path()).map(|store| Arc::new(store) as _);
//! let subject = Subject::new(open).on_compact(|| Embedded::open(folder.path())?.compact());
//! check(&subject); // panics with every failed case, and why it matters
//! ```
//! Cases run at the same time, each below a prefix of its own, since leases take their time to expire;
//! the one that makes the store forget its history runs last and alone.
//!
//! **Invariant:** a case touches nothing that it did not make.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Event, Result, Row, Snapshot, Store, Watch};

mod leases;
mod rows;
mod watches;

/// Why a case did not pass.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Self(format!("unexpected error: {}", chain(&error)))
    }
}

/// What a case answers.
pub type Verdict = std::result::Result<(), Failure>;

/// Fails the case with a formatted text unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::contract::Failure(format!($($text)+)));
        }
    };
}
use ensure;

/// One rule, as a procedure that tries it.
#[derive(Debug)]
pub struct Case {
    /// The behaviour: `a_stale_revision_conflicts`.
    pub name: &'static str,
    /// What goes wrong in a cluster whose store does not keep it.
    pub why: &'static str,
    /// Tries it.
    pub run: fn(&Context<'_>) -> Verdict,
}

/// Writes a suite: `name: "why"; …`, each name a procedure in scope.
macro_rules! cases {
    ($($name:ident: $why:literal;)+) => {
        pub(super) const SUITE: &[$crate::contract::Case] = &[$(
            $crate::contract::Case { name: stringify!($name), why: $why, run: $name },
        )+];
    };
}
use cases;

type Open<'a> = Box<dyn Fn() -> Result<Arc<dyn Store>> + Send + Sync + 'a>;
type Compact<'a> = Box<dyn Fn() -> Result<()> + Send + Sync + 'a>;

/// A store under test.
pub struct Subject<'a> {
    open: Open<'a>,
    compact: Option<Compact<'a>>,
}

impl<'a> Subject<'a> {
    /// `open` gives a new client of the same store with every call.
    pub fn new(open: impl Fn() -> Result<Arc<dyn Store>> + Send + Sync + 'a) -> Self {
        Self {
            open: Box::new(open),
            compact: None,
        }
    }

    /// How to make the store forget what happened before now. Stores without history need none.
    pub fn on_compact(mut self, compact: impl Fn() -> Result<()> + Send + Sync + 'a) -> Self {
        self.compact = Some(Box::new(compact));
        self
    }
}

/// What a case works with: clients, and a prefix of its own.
pub struct Context<'a> {
    subject: &'a Subject<'a>,
    prefix: String,
    store: Arc<dyn Store>,
}

impl<'a> Context<'a> {
    fn open(subject: &'a Subject<'a>, name: &str) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        Ok(Self {
            subject,
            prefix: format!("contract/{now:x}/{name}"),
            store: (subject.open)()?,
        })
    }

    /// The case's client.
    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Another client of the same store.
    fn other(&self) -> Result<Arc<dyn Store>> {
        (self.subject.open)()
    }

    /// A key of the case's own.
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// The prefix of every key of the case.
    fn all(&self) -> String {
        self.key("")
    }

    fn clean_up(&self) {
        if let Ok(snapshot) = self.store.list(&self.all()) {
            for row in snapshot.rows {
                // What stays behind is below this run's own prefix.
                let _ = self.store.delete_if(&row.key, crate::Expect::Any);
            }
        }
    }
}

/// Every case, simple ones first; the last runs alone.
pub fn suite() -> impl Iterator<Item = &'static Case> {
    [rows::SUITE, watches::SUITE, leases::SUITE, watches::ALONE]
        .into_iter()
        .flatten()
}

/// Runs every case. Panics with those that failed, or answers how many ran.
pub fn check(subject: &Subject<'_>) -> usize {
    let reports: Vec<(&Case, Verdict)> = std::thread::scope(|scope| {
        let together = [rows::SUITE, watches::SUITE, leases::SUITE].into_iter().flatten();
        let running: Vec<_> = together
            .map(|case| (case, scope.spawn(|| judge(subject, case))))
            .collect();
        running
            .into_iter()
            .map(|(case, thread)| (case, thread.join().expect("a case's panic is caught")))
            .collect()
    });
    let alone = watches::ALONE.iter().map(|case| (case, judge(subject, case)));
    let reports: Vec<_> = reports.into_iter().chain(alone).collect();
    let failed: Vec<String> = reports
        .iter()
        .filter_map(|(case, verdict)| {
            let failure = verdict.as_ref().err()?;
            Some(format!(
                "{}: {}\n    why it matters: {}",
                case.name, failure.0, case.why
            ))
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        reports.len(),
        failed.join("\n")
    );
    reports.len()
}

/// Runs one case.
pub fn judge(subject: &Subject<'_>, case: &Case) -> Verdict {
    let context = Context::open(subject, case.name)?;
    let verdict = catch_unwind(AssertUnwindSafe(|| (case.run)(&context)));
    context.clean_up();
    verdict.unwrap_or_else(|_| Err(Failure("it panicked".to_owned())))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

// === what a consumer does with a watch ===

/// What a consumer knows, from a snapshot and the events after it.
#[derive(Default)]
struct Known {
    rows: BTreeMap<String, Row>,
    /// The keys of changes, in order.
    seen: Vec<(String, bool)>,
    resyncs: usize,
}

impl Known {
    fn from(snapshot: &Snapshot) -> Self {
        let mut known = Self::default();
        known.replace(snapshot);
        known
    }

    fn replace(&mut self, snapshot: &Snapshot) {
        let rows = snapshot.rows.iter();
        self.rows = rows.map(|row| (row.key.clone(), row.clone())).collect();
    }

    fn take(&mut self, event: Event) -> Verdict {
        match event {
            Event::Resync(snapshot) => {
                self.resyncs += 1;
                self.replace(&snapshot);
            }
            Event::Change(change) => {
                self.seen.push((change.key.clone(), change.row.is_some()));
                match change.row {
                    Some(row) => {
                        ensure!(
                            row.key == change.key,
                            "a change of {} tells of {}",
                            change.key,
                            row.key
                        );
                        self.rows.insert(change.key, row)
                    }
                    None => self.rows.remove(&change.key),
                };
            }
        }
        Ok(())
    }

    /// Follows `watch` until `done` holds.
    fn follow(&mut self, watch: &mut Watch, limit: Duration, done: impl Fn(&Self) -> bool) -> Verdict {
        let begin = Instant::now();
        while !done(self) {
            ensure!(
                begin.elapsed() < limit,
                "after {limit:?} the watch has told {:?}, {} resyncs, and {:?} is there",
                self.seen,
                self.resyncs,
                self.rows.keys()
            );
            if let Some(event) = watch.next(Duration::from_millis(200))? {
                self.take(event)?;
            }
        }
        Ok(())
    }
}
