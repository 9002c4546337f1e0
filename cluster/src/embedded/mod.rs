//! The store of one machine: several processes share a folder.
//!
//! | file | holds |
//! |---|---|
//! | `log` | every commit, synced before it is answered |
//! | `lock` | nothing; whoever writes holds it exclusively, whoever reads shares it |
//! | `leases/ID` | until when the lease lives, in boot time, and in which boot |
//!
//! Each client replays the log into memory and goes on from there. A log that has grown is replaced by
//! a short one, by rename. A watch looks at the log's size 50 times a second.
//!
//! **Invariant:** nothing of a commit is seen by anybody before all of it is on the disk.

mod clock;
mod log;
mod state;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::watch::{Event, Feed, Watch};
use crate::{
    Capabilities, Error, Expect, Guard, Lease, LeaseId, Op, Renewal, Result, Revision, Row, Snapshot, Store,
    key,
};
use clock::Clock;
use state::{Entry, Record, State};

/// Bytes of a value; what the smallest of the usual stores takes.
const MAX_VALUE: usize = 512 * 1024;
/// A log shorter than this is never replaced.
const COMPACT_ABOVE: u64 = 4 * 1024 * 1024;
/// How often a watch looks.
const POLL: Duration = Duration::from_millis(20);
/// A machine that is busy must not lose its leases: renewal is due after a third.
const TTL_MIN: Duration = Duration::from_secs(4);

/// A client of a folder. Clones are the same client.
#[derive(Debug, Clone)]
pub struct Embedded(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    lock: File,
    clock: Clock,
    view: Mutex<View>,
}

/// What this client has read.
#[derive(Debug)]
struct View {
    log: File,
    /// Device and inode of `log`.
    identity: (u64, u64),
    /// The end of what was read, and of every record that is whole.
    end: u64,
    /// Length of the log when it was new.
    begin: u64,
    state: State,
    /// Until when leases lived when we last looked.
    deadlines: BTreeMap<LeaseId, u64>,
}

/// The lock, until it is dropped.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the file would do the same; there is no other way for this to fail.
        let _ = self.0.unlock();
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Embedded {
    /// Opens the store in `folder`, which is made, mode 0700, where it is not there.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let shown = folder.display().to_string();
        let failed = |error: io::Error| Error::unavailable("open", shown.clone(), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join("leases"))
            .map_err(failed)?;
        let lock = private()
            .create(true)
            .truncate(false)
            .open(folder.join("lock"))
            .map_err(failed)?;
        let clock = Clock::new().map_err(failed)?;
        lock.lock().map_err(failed)?;
        let locked = Locked(&lock);
        let path = folder.join("log");
        if !path.try_exists().map_err(failed)? {
            replace(&folder, &State::default().whole()).map_err(failed)?;
            sync_folder(folder.parent().unwrap_or(&folder)).map_err(failed)?;
        }
        let view = View::open(&path).map_err(failed)?;
        drop(locked);
        let store = Self(Arc::new(Inner {
            folder,
            lock,
            clock,
            view: Mutex::new(view),
        }));
        drop(store.0.current("open", &shown)?);
        Ok(store)
    }

    /// Replaces the log by a short one that holds only what is there now: older revisions cannot be
    /// watched from by whoever has not read them. Happens by itself when the log has grown.
    pub fn compact(&self) -> Result<()> {
        self.0.writing("compact", "", Inner::shorten)
    }
}

impl View {
    fn open(path: &Path) -> io::Result<Self> {
        let log = private().open(path)?;
        let metadata = log.metadata()?;
        let mut magic = [0; log::MAGIC.len()];
        log.read_exact_at(&mut magic, 0)?;
        if magic != *log::MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a log of ours",
            ));
        }
        Ok(Self {
            log,
            identity: (metadata.dev(), metadata.ino()),
            end: magic.len() as u64,
            begin: metadata.len(),
            state: State::default(),
            deadlines: BTreeMap::new(),
        })
    }

    /// Whether the log goes on behind what was read, or is another one.
    fn is_behind(&self, path: &Path) -> io::Result<bool> {
        let metadata = std::fs::metadata(path)?;
        Ok((metadata.dev(), metadata.ino()) != self.identity || metadata.len() != self.end)
    }

    /// Replays what was written since. Answers whether a torn record stands at the end.
    fn catch_up(&mut self, path: &Path) -> io::Result<bool> {
        let damage = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let metadata = std::fs::metadata(path)?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            let new = Self::open(path)?;
            self.log = new.log;
            self.identity = new.identity;
            self.end = new.end;
            self.begin = new.begin;
        }
        let length = self.log.metadata()?.len();
        if length < self.end {
            return Err(damage(format!(
                "the log ends at {length}, we read to {}",
                self.end
            )));
        }
        let count = usize::try_from(length - self.end).map_err(io::Error::other)?;
        let mut bytes = vec![0; count];
        self.log.read_exact_at(&mut bytes, self.end)?;
        if count > 0 {
            // Its writer may have died between writing and syncing; what we show must last.
            self.log.sync_data()?;
        }
        let mut rest = &bytes[..];
        let mut torn = false;
        loop {
            match log::read(rest) {
                log::Found::End => break,
                log::Found::Torn => {
                    torn = true;
                    break;
                }
                log::Found::Damage(why) => return Err(damage(format!("{why} at byte {}", self.end))),
                log::Found::Record(record, size) => {
                    self.state.apply(record).map_err(damage)?;
                    self.end += size as u64;
                    rest = &rest[size..];
                }
            }
        }
        Ok(torn)
    }

    fn append(&mut self, entries: Vec<Entry>) -> io::Result<u64> {
        let revision = self.state.revision + 1;
        let record = Record::Commit { revision, entries };
        let bytes = log::write(&record).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let written = self
            .log
            .write_all_at(&bytes, self.end)
            .and_then(|()| self.log.sync_data());
        if let Err(error) = written {
            // What is left of it is torn, or is a commit that was not answered: both are allowed.
            let _ = self.log.set_len(self.end);
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.state.apply(record).map_err(io::Error::other)?;
        Ok(revision)
    }
}

/// Puts a new log with one record in the place of the old one.
fn replace(folder: &Path, whole: &Record) -> io::Result<()> {
    let bytes = log::write(whole).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let new = folder.join("log.new");
    let file = private().create(true).truncate(true).open(&new)?;
    file.write_all_at(log::MAGIC, 0)?;
    file.write_all_at(&bytes, log::MAGIC.len() as u64)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join("log"))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)?.sync_all()
}

impl Inner {
    fn path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn failed(&self, operation: &'static str, key: &str, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidData {
            return Error::Corrupt {
                operation,
                key: self.path().display().to_string(),
                why: error.to_string(),
            };
        }
        Error::unavailable(operation, key, error)
    }

    /// What is there now.
    fn current(&self, operation: &'static str, key: &str) -> Result<MutexGuard<'_, View>> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let due = {
            let mut look = || -> io::Result<Vec<LeaseId>> {
                self.lock.lock_shared()?;
                let _locked = Locked(&self.lock);
                view.catch_up(&self.path())?;
                self.due(&mut view)
            };
            look().map_err(|error| self.failed(operation, key, error))?
        };
        if due.is_empty() {
            return Ok(view);
        }
        drop(view);
        // Whoever writes ends first what is over.
        self.writing(operation, key, |_, _| Ok(()))?;
        Ok(self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`Self::current`], but without the lock where the log's size says that nothing happened.
    fn glance(&self, key: &str) -> Result<MutexGuard<'_, View>> {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now().map_err(|error| self.failed("watch", key, error))?;
        let behind = view
            .is_behind(&self.path())
            .map_err(|error| self.failed("watch", key, error))?;
        if !behind && view.deadlines.values().all(|deadline| *deadline > now) {
            return Ok(view);
        }
        drop(view);
        self.current("watch", key)
    }

    /// Leases whose time is up. The lock is held, at least shared.
    fn due(&self, view: &mut View) -> io::Result<Vec<LeaseId>> {
        let now = clock::now()?;
        let leases = &view.state.leases;
        view.deadlines.retain(|lease, _| leases.contains(lease));
        let mut due = Vec::new();
        for lease in leases {
            if view.deadlines.get(lease).is_some_and(|deadline| *deadline > now) {
                continue;
            }
            // It may have been renewed since.
            let deadline = self.clock.read(&self.lease_path(lease))?;
            view.deadlines.insert(lease.clone(), deadline);
            if deadline <= now {
                due.push(lease.clone());
            }
        }
        Ok(due)
    }

    fn lease_path(&self, lease: &LeaseId) -> PathBuf {
        self.folder.join("leases").join(&lease.0)
    }

    /// Runs `work` alone, on what is there now.
    fn writing<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error| self.failed(operation, key, error);
        self.lock.lock().map_err(failed)?;
        let _locked = Locked(&self.lock);
        if view.catch_up(&self.path()).map_err(failed)? {
            view.log.set_len(view.end).map_err(failed)?;
        }
        for lease in self.due(&mut view).map_err(failed)? {
            self.end(&mut view, &lease).map_err(failed)?;
        }
        let answer = work(self, &mut view)?;
        if view.end > COMPACT_ABOVE && view.end > 4 * view.begin {
            // What was asked for is done; a log that stays long is shortened by a later write.
            let _ = self.shorten(&mut view);
        }
        Ok(answer)
    }

    fn end(&self, view: &mut View, lease: &LeaseId) -> io::Result<()> {
        view.append(vec![Entry::End { lease: lease.clone() }])?;
        view.deadlines.remove(lease);
        match std::fs::remove_file(self.lease_path(lease)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn shorten(&self, view: &mut View) -> Result<()> {
        let failed = |error| self.failed("compact", "", error);
        replace(&self.folder, &view.state.whole()).map_err(failed)?;
        view.catch_up(&self.path()).map_err(failed)?;
        Ok(())
    }

    /// Writes what `plan` makes of what is there; nothing where it makes nothing.
    fn commit(
        &self,
        operation: &'static str,
        key: &str,
        plan: impl FnOnce(&State) -> Result<Vec<Entry>>,
    ) -> Result<Revision> {
        self.writing(operation, key, |inner, view| {
            let entries = plan(&view.state)?;
            if entries.is_empty() {
                return Ok(Revision(view.state.revision));
            }
            let revision = view
                .append(entries)
                .map_err(|error| inner.failed(operation, key, error))?;
            Ok(Revision(revision))
        })
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let id = clock::random().map_err(|error| self.failed("lease", "", error))?;
        let lease = LeaseId(id);
        self.writing("lease", &lease.0, |inner, view| {
            // A file without its record is nothing; a record without its file would be over at once.
            inner
                .clock
                .write(&inner.lease_path(&lease), ttl)
                .and_then(|()| view.append(vec![Entry::Grant { lease: lease.clone() }]))
                .map_err(|error| inner.failed("lease", &lease.0, error))
        })?;
        Ok(lease)
    }

    fn renew(&self, lease: &LeaseId, ttl: Duration) -> Renewal {
        let renewed = self.writing("lease", &lease.0, |inner, view| {
            if !view.state.leases.contains(lease) {
                return Ok(Renewal::Lost);
            }
            inner
                .clock
                .write(&inner.lease_path(lease), ttl)
                .map_err(|error| inner.failed("lease", &lease.0, error))?;
            Ok(Renewal::Renewed)
        });
        renewed.unwrap_or(Renewal::Failed)
    }
}

fn expected(state: &State, operation: &'static str, key: &str, expect: Expect) -> Result<()> {
    let found = state.row(key);
    if expect.holds(found) {
        return Ok(());
    }
    Err(Error::conflict(operation, key, found.cloned()))
}

fn alive(state: &State, operation: &'static str, key: &str, lease: Option<&LeaseId>) -> Result<()> {
    match lease {
        Some(lease) if !state.leases.contains(lease) => Err(Error::LeaseLost {
            operation,
            key: key.to_owned(),
            lease: lease.clone(),
        }),
        _ => Ok(()),
    }
}

fn plan(state: &State, guards: &[Guard], ops: &[Op]) -> Result<Vec<Entry>> {
    for guard in guards {
        expected(state, "txn", &guard.key, guard.expect)?;
    }
    let mut entries = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, value, lease } => {
                alive(state, "txn", key, lease.as_ref())?;
                entries.push(Entry::Put {
                    key: key.clone(),
                    value: value.clone(),
                    lease: lease.clone(),
                });
            }
            Op::Delete { key } if state.row(key).is_some() => {
                entries.push(Entry::Delete { key: key.clone() });
            }
            Op::Delete { .. } => {}
        }
    }
    Ok(entries)
}

impl Store for Embedded {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ordered_revisions: true,
            history: true,
            ttl_min: TTL_MIN,
            ttl_slack: 1,
            max_value: MAX_VALUE,
        }
    }

    fn get(&self, key: &str) -> Result<Option<Row>> {
        key::check("get", key)?;
        Ok(self.0.current("get", key)?.state.row(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Snapshot> {
        key::check_prefix("list", prefix)?;
        Ok(self.0.current("list", prefix)?.state.snapshot(prefix))
    }

    fn put_if(&self, key: &str, value: &[u8], expect: Expect, lease: Option<&LeaseId>) -> Result<Revision> {
        key::check("put", key)?;
        key::check_value("put", key, value, MAX_VALUE)?;
        self.0.commit("put", key, |state| {
            expected(state, "put", key, expect)?;
            alive(state, "put", key, lease)?;
            Ok(vec![Entry::Put {
                key: key.to_owned(),
                value: value.to_vec(),
                lease: lease.cloned(),
            }])
        })
    }

    fn delete_if(&self, key: &str, expect: Expect) -> Result<bool> {
        key::check("delete", key)?;
        let mut existed = false;
        self.0.commit("delete", key, |state| {
            expected(state, "delete", key, expect)?;
            existed = state.row(key).is_some();
            let entry = Entry::Delete { key: key.to_owned() };
            Ok(if existed { vec![entry] } else { Vec::new() })
        })?;
        Ok(existed)
    }

    fn txn(&self, guards: &[Guard], ops: &[Op]) -> Result<Revision> {
        key::check_txn(guards, ops, MAX_VALUE)?;
        self.0
            .commit("txn", ops[0].key(), |state| plan(state, guards, ops))
    }

    fn lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = ttl.max(TTL_MIN);
        let granted = Instant::now();
        let id = self.0.grant(ttl)?;
        let (inner, lease) = (Arc::clone(&self.0), id.clone());
        Lease::renewed_by(id, ttl, granted, move || inner.renew(&lease, ttl))
    }

    fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.0.writing("revoke", &lease.0, |inner, view| {
            if !view.state.leases.contains(lease) {
                return Ok(());
            }
            inner
                .end(view, lease)
                .map_err(|error| inner.failed("revoke", &lease.0, error))
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch> {
        key::check_prefix("watch", prefix)?;
        Ok(Watch::new(Tail {
            store: Arc::clone(&self.0),
            prefix: prefix.to_owned(),
            from: from.0,
            queue: Vec::new().into_iter(),
        }))
    }
}

/// A watch over the log.
struct Tail {
    store: Arc<Inner>,
    prefix: String,
    /// What was queued is everything up to here.
    from: u64,
    queue: std::vec::IntoIter<Event>,
}

impl Tail {
    fn look(&mut self) -> Result<()> {
        let view = self.store.glance(&self.prefix)?;
        let state = &view.state;
        let events: Vec<Event> = match state.since(&self.prefix, self.from) {
            Some(changes) => changes.into_iter().map(Event::Change).collect(),
            None => vec![Event::Resync(state.snapshot(&self.prefix))],
        };
        self.from = state.revision;
        self.queue = events.into_iter();
        Ok(())
    }
}

impl Feed for Tail {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.queue.next() {
                return Ok(Some(event));
            }
            self.look()?;
            if self.queue.len() > 0 {
                continue;
            }
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}
