//! Contract suites: what engines rely on, as cases that run against any driver.
//!
//! A suite is a slice of [`Case`]s over one trait. It runs alike over a value in this process, over a
//! socket of any plugin in any language, over the in-memory [`twin`]s and over every real driver.
//! [`wrong`] holds twins with one broken rule each; the tests of this crate show that every case fails
//! for at least one of them, so that no case is decoration.
//!
//! # From a driver's test
//! ```no_run
//! use std::sync::Arc;
//! use plugin_api::contract::{VolumeSubject, twin, volume};
//!
//! let home = std::env::temp_dir().join("volumes");
//! // Here stands your driver instead: its `open`, over its durable state.
//! let open = || twin::Volume::open(&home).map(|driver| Arc::new(driver) as volume::Driver);
//! let subject = VolumeSubject::new(open)
//!     // The old value is the only handle: drop it first, it may lock its records.
//!     .on_restart(|old| { drop(old); open() })
//!     // Something that a first `create` without it contradicts.
//!     .other_option("size", "2");
//! volume::check(&subject); // panics with every failed case, and why it matters
//! ```
//! `open` is called once per case and may give the same value every time: cases use names of their own
//! and clean up behind themselves. Over a socket say [`Subject::over_a_socket`]: then only success,
//! refusal and state are looked at, since [`FaultKind`] and [`Done`] do not travel.
//!
//! **Invariant:** a case touches nothing that it did not make, except what its `why` says.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fault::{Fault, FaultKind};
use crate::{Done, Options};

pub mod graph;
mod http;
pub mod ipam;
pub mod network;
mod trees;
pub mod twin;
pub mod volume;
pub mod wire;
pub mod wrong;

/// A volume driver under test.
pub type VolumeSubject<'a> = Subject<'a, dyn crate::volume::VolumeDriver>;
/// A network driver under test.
pub type NetworkSubject<'a> = Subject<'a, dyn crate::network::NetworkDriver>;
/// An address driver under test.
pub type IpamSubject<'a> = Subject<'a, dyn crate::ipam::IpamDriver>;
/// A graph plugin under test.
pub type GraphSubject<'a> = Subject<'a, dyn crate::graph::GraphPlugin>;

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The driver broke the rule; the text says how.
    Broken(String),
    /// The driver lacks a power that is optional; the text says which.
    Absent(String),
}

impl Failure {
    /// A broken rule.
    pub fn new(text: impl Into<String>) -> Self {
        Self::Broken(text.into())
    }

    /// An absent optional power: the case is skipped.
    pub fn absent(text: impl Into<String>) -> Self {
        Self::Absent(text.into())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Broken(format!(
            "unexpected fault ({}): {}",
            fault.kind.label(),
            fault.sentence()
        ))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(format!("unexpected i/o error: {error}"))
    }
}

/// What a case answers.
pub type Verdict = Result<(), Failure>;

/// Fails the case with a formatted text unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::contract::Failure::new(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;

/// One rule, as a procedure that tries it.
pub struct Case<D: ?Sized> {
    /// `graph`, `network`, `ipam`, `volume` or `wire`.
    pub subsystem: &'static str,
    /// The behaviour: `mount_of_a_held_id_counts`.
    pub name: &'static str,
    /// What engines do that makes the rule necessary.
    pub why: &'static str,
    /// Tries it.
    pub run: fn(&Context<'_, D>) -> Verdict,
}

/// Writes a suite: `subsystem, trait object; name: "why"; …`, each name a procedure in scope.
macro_rules! suite {
    ($subsystem:literal, $driver:ty; $($name:ident: $why:literal;)+) => {
        /// Every case of the suite, simple ones first.
        pub const SUITE: &[$crate::contract::Case<$driver>] = &[$(
            $crate::contract::Case {
                subsystem: $subsystem, name: stringify!($name), why: $why, run: $name,
            },
        )+];
    };
}
pub(crate) use suite;

type Open<'a, D> = Box<dyn Fn() -> Result<Arc<D>, Fault> + Send + Sync + 'a>;
type Restart<'a, D> = Box<dyn Fn(Arc<D>) -> Result<Arc<D>, Fault> + Send + Sync + 'a>;

/// A driver under test and how to get at it.
pub struct Subject<'a, D: ?Sized> {
    open: Open<'a, D>,
    restart: Option<Restart<'a, D>>,
    in_process: bool,
    options: Options,
    other: Options,
    home: PathBuf,
    publishes: bool,
}

impl<'a, D: ?Sized> Subject<'a, D> {
    /// `open` gives the driver; it is called once per case and may give the same one each time.
    pub fn new(open: impl Fn() -> Result<Arc<D>, Fault> + Send + Sync + 'a) -> Self {
        Self {
            open: Box::new(open),
            restart: None,
            in_process: true,
            options: Options::new(),
            other: Options::new(),
            home: PathBuf::from("/var/lib/longshore-contract"),
            publishes: true,
        }
    }

    /// How to end the driver and start it again over its durable state. Gets the only handle.
    pub fn on_restart(mut self, again: impl Fn(Arc<D>) -> Result<Arc<D>, Fault> + Send + Sync + 'a) -> Self {
        self.restart = Some(Box::new(again));
        self
    }

    /// Fault kinds and [`Done`] are not to be looked at: they do not travel over a socket.
    pub fn over_a_socket(mut self) -> Self {
        self.in_process = false;
        self
    }

    /// An option for every volume or network that is made.
    pub fn option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// An option that makes a second `create` contradict the first.
    pub fn other_option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.other.insert(key.into(), value.into());
        self
    }

    /// The driver answers 404 to the verbs of published ports, which a client cannot tell from success.
    pub fn publishes_no_ports(mut self) -> Self {
        self.publishes = false;
        self
    }

    /// The folder that `GraphDriver.Init` names.
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = home.into();
        self
    }
}

type CleanUp<D> = Box<dyn FnOnce(&D) + Send>;

/// What a case works with: the driver, names of its own, and a list of things to clean up.
pub struct Context<'a, D: ?Sized> {
    subject: &'a Subject<'a, D>,
    driver: Mutex<Option<Arc<D>>>,
    clean_up: Mutex<Vec<CleanUp<D>>>,
}

impl<'a, D: ?Sized> Context<'a, D> {
    fn open(subject: &'a Subject<'a, D>) -> Result<Self, Fault> {
        Ok(Self {
            subject,
            driver: Mutex::new(Some((subject.open)()?)),
            clean_up: Mutex::new(Vec::new()),
        })
    }

    /// The driver. Give it back (drop it) before [`Context::restart`].
    pub fn driver(&self) -> Arc<D> {
        let held = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            held.as_ref()
                .expect("a context holds its driver between restarts"),
        )
    }

    /// Ends the driver and starts it again; skips the case where nobody can.
    pub fn restart(&self) -> Verdict {
        let Some(again) = &self.subject.restart else {
            return Err(Failure::absent("nobody here can restart the driver"));
        };
        let mut held = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let old = held.take().expect("a context holds its driver between restarts");
        let new = again(old)
            .map_err(|fault| Failure::new(format!("the driver did not come back: {}", fault.sentence())));
        match new {
            Ok(new) => {
                *held = Some(new);
                Ok(())
            }
            Err(failure) => {
                *held = (self.subject.open)().ok();
                Err(failure)
            }
        }
    }

    /// Whether fault kinds and [`Done`] reach us.
    pub fn in_process(&self) -> bool {
        self.subject.in_process
    }

    /// Options for every volume or network that is made.
    pub fn options(&self) -> Options {
        self.subject.options.clone()
    }

    /// Whether ports can be published, as far as is known.
    pub fn publishes_ports(&self) -> bool {
        self.subject.publishes
    }

    /// Options that contradict [`Context::options`], where known.
    pub fn other_options(&self) -> Result<Options, Failure> {
        if self.subject.other.is_empty() {
            return Err(Failure::absent("no option was given that contradicts another"));
        }
        let mut options = self.subject.options.clone();
        options.extend(self.subject.other.clone());
        Ok(options)
    }

    /// The folder that `GraphDriver.Init` names.
    pub fn home(&self) -> &Path {
        &self.subject.home
    }

    /// Runs after the case, last to first, however the case ended.
    pub fn at_end(&self, clean: impl FnOnce(&D) + Send + 'static) {
        let mut list = self.clean_up.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Box::new(clean));
    }

    /// The call must be refused; in process also with this kind.
    pub fn refused<T: fmt::Debug>(&self, answer: Result<T, Fault>, kind: FaultKind, what: &str) -> Verdict {
        match answer {
            Ok(value) => Err(Failure::new(format!(
                "{what} was not refused but answered {value:?}"
            ))),
            Err(fault) if fault.sentence().trim().is_empty() => {
                Err(Failure::new(format!("{what} was refused without a word")))
            }
            Err(fault) if self.in_process() && fault.kind != kind => Err(Failure::new(format!(
                "{what} was refused as {}, not as {}: {}",
                fault.kind.label(),
                kind.label(),
                fault.sentence()
            ))),
            Err(_) => Ok(()),
        }
    }

    /// The call must succeed; in process also say that it changed something.
    pub fn changed(&self, answer: Result<Done, Fault>, what: &str) -> Verdict {
        self.done(answer, Done::Changed, what)
    }

    /// The call must succeed; in process also say that there was nothing to do.
    pub fn already_so(&self, answer: Result<Done, Fault>, what: &str) -> Verdict {
        self.done(answer, Done::AlreadySo, what)
    }

    fn done(&self, answer: Result<Done, Fault>, wanted: Done, what: &str) -> Verdict {
        match answer {
            Err(fault) => Err(Failure::new(format!("{what} failed: {}", fault.sentence()))),
            Ok(done) if self.in_process() && done != wanted => {
                Err(Failure::new(format!("{what} answered {done:?}, not {wanted:?}")))
            }
            Ok(_) => Ok(()),
        }
    }
}

impl<D: ?Sized> Drop for Context<'_, D> {
    fn drop(&mut self) {
        let list = std::mem::take(&mut *self.clean_up.lock().unwrap_or_else(PoisonError::into_inner));
        let held = self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(driver) = held else { return };
        for clean in list.into_iter().rev() {
            // A driver that panics here has failed its case already, or will fail another.
            let _ = catch_unwind(AssertUnwindSafe(|| clean(&driver)));
        }
    }
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rule holds.
    Passed,
    /// It does not; the text says how.
    Failed(String),
    /// It could not be tried; the text says what is absent.
    Skipped(String),
}

/// One case and how it ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// The case's subsystem.
    pub subsystem: &'static str,
    /// The case's name.
    pub name: &'static str,
    /// The case's reason.
    pub why: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, cleaning up included.
    pub took: Duration,
}

/// Runs one case; a panic is a failure.
pub fn run_case<D: ?Sized>(case: &Case<D>, subject: &Subject<'_, D>) -> Report {
    let began = Instant::now();
    let verdict = catch_unwind(AssertUnwindSafe(|| {
        let context = Context::open(subject)
            .map_err(|fault| Failure::new(format!("the driver did not open: {}", fault.sentence())))?;
        (case.run)(&context)
    }));
    let outcome = match verdict {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(Failure::Broken(text))) => Outcome::Failed(text),
        Ok(Err(Failure::Absent(text))) => Outcome::Skipped(text),
        Err(panic) => Outcome::Failed(format!("panicked: {}", panic_text(panic.as_ref()))),
    };
    Report {
        subsystem: case.subsystem,
        name: case.name,
        why: case.why,
        outcome,
        took: began.elapsed(),
    }
}

/// Runs every case of a suite, one after the other.
pub fn run<D: ?Sized>(suite: &[Case<D>], subject: &Subject<'_, D>) -> Vec<Report> {
    suite.iter().map(|case| run_case(case, subject)).collect()
}

/// Runs a suite and panics with every failed case.
pub fn check<D: ?Sized>(suite: &[Case<D>], subject: &Subject<'_, D>) -> Vec<Report> {
    let reports = run(suite, subject);
    let failed: Vec<String> = reports.iter().filter_map(failure_text).collect();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        reports.len(),
        failed.join("\n")
    );
    reports
}

fn failure_text(report: &Report) -> Option<String> {
    match &report.outcome {
        Outcome::Failed(text) => Some(format!(
            "  {} {}: {text}\n      because {}",
            report.subsystem, report.name, report.why
        )),
        Outcome::Passed | Outcome::Skipped(_) => None,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".into())
}

// === names of one's own ===

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A number that no other call in this run, and hardly one of another run, has given.
pub(crate) fn unique() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed =
        u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(32) ^ u64::from(std::process::id()) << 20;
    // SplitMix64: neighbouring seeds give unrelated numbers.
    let mut z = seed.wrapping_add(
        COUNTER
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15),
    );
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A name such as `contract-1f2e3d4c5b6a7988`.
pub fn fresh_name() -> String {
    format!("contract-{:016x}", unique())
}

/// 64 hexadecimal digits, as Docker makes its ids.
pub fn fresh_hex() -> String {
    format!(
        "{:016x}{:016x}{:016x}{:016x}",
        unique(),
        unique(),
        unique(),
        unique()
    )
}

/// Runs `work(0)` to `work(count - 1)` on as many threads that start together.
pub(crate) fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let gate = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let spawn = |n| {
            let (gate, work) = (&gate, &work);
            scope.spawn(move || {
                gate.wait();
                work(n)
            })
        };
        let threads: Vec<_> = (0..count).map(spawn).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, T>| match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}
