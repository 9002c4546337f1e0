//! Durable records: one file per driver instance, atomic batches, synced before they return. Writers that
//! come together share one sync.
//!
//! Values are written with [`Encoder`] and read with [`Decoder`]: fields in order, integers
//! little-endian, text with its length before it. The first byte of a value is the version of its
//! layout, chosen by its owner.

mod group;
mod reserve;
mod value;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::error::{Context, Error, Result};
use crate::fault;
use group::Group;
use reserve::Reserve;
pub use value::{Damaged, Decoder, Encoder};

type Table<'a> = TableDefinition<'a, &'static str, &'static [u8]>;

/// Bytes of page cache per store; records are small and few.
const CACHE_BYTES: usize = 1 << 20;

/// An open store. One process at a time; a second open fails and says so.
pub struct Records {
    /// None where it failed and could not be opened again yet.
    database: RwLock<Option<Database>>,
    path: PathBuf,
    group: Group,
    reserve: Option<Reserve>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({})", self.path.display())
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    changes: Vec<(String, String, Option<Vec<u8>>)>,
    gives_back: bool,
}

impl Batch {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a value.
    #[must_use]
    pub fn put(mut self, table: &str, key: &str, value: Vec<u8>) -> Self {
        self.changes.push((table.into(), key.into(), Some(value)));
        self
    }

    /// Removes a value; a missing one is no error.
    #[must_use]
    pub fn delete(mut self, table: &str, key: &str) -> Self {
        self.changes.push((table.into(), key.into(), None));
        self
    }

    /// The batch belongs to something that is given back: on a full disk it may use the room that is kept
    /// for that, see [`Records::open_with_reserve`].
    #[must_use]
    pub fn giving_back(mut self) -> Self {
        self.gives_back = true;
        self
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Where the file system never writes a block twice in one place (btrfs), has it do so for a new, empty store:
/// or nothing could be removed from a full disk any more. Our own checksums make up for those it drops.
fn write_in_place(file: &std::fs::File) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(flags) = ioctl_getflags(file) {
        // Refused elsewhere, and for a store that holds something.
        let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
    }
}

impl Records {
    /// Opens or makes the store at `path`, whose folder exists.
    pub fn open(path: &Path) -> Result<Self> {
        if !std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
            Self::make(path)?;
        }
        Ok(Self {
            database: RwLock::new(Some(Self::open_database(path)?)),
            path: path.to_owned(),
            group: Group::default(),
            reserve: None,
        })
    }

    /// The same, and keeps room beside the store for batches that are [`Batch::giving_back`].
    pub fn open_with_reserve(path: &Path) -> Result<Self> {
        let reserve = Some(Reserve::beside(path));
        Ok(Self {
            reserve,
            ..Self::open(path)?
        })
    }

    /// A new store comes under its name when it is whole on disk: half of one could never be opened again.
    fn make(path: &Path) -> Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let draft = path.with_file_name(name);
        // For root alone, also where the folder should be open to others.
        let file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft);
        let file = file.context("make record store", &draft)?;
        write_in_place(&file);
        let database = Database::builder().create(&draft);
        drop(database.map_err(|error| Self::wrap("make record store", &draft, error))?);
        file.sync_all().context("flush", &draft)?;
        crate::fsutil::rename_synced(&draft, path)
    }

    fn open_database(path: &Path) -> Result<Database> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        builder
            .create(path)
            .map_err(|error| Self::wrap("open record store", path, error))
    }

    /// The store; one that failed to write serves nobody until it is opened again.
    fn database(&self) -> Result<RwLockReadGuard<'_, Option<Database>>> {
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            return Ok(open);
        }
        drop(open);
        self.reopen()?;
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the store again, as it was before the write that failed.
    fn reopen(&self) -> Result<()> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: it holds the lock of its file.
        *open = None;
        *open = Some(Self::open_database(&self.path)?);
        Ok(())
    }

    fn closed(&self) -> Error {
        let path = self.path.to_string_lossy();
        Error::other("use record store", path, "it failed and is being opened again")
    }

    fn wrap(operation: &'static str, path: &Path, error: impl Into<redb::Error>) -> Error {
        match error.into() {
            redb::Error::Io(io) => Error::new(operation, path.to_string_lossy(), io),
            redb::Error::DatabaseAlreadyOpen => Error::other(
                operation,
                path.to_string_lossy(),
                "another longshore process has it open",
            ),
            other => Error::other(operation, path.to_string_lossy(), other.to_string()),
        }
    }

    fn fail(&self, operation: &'static str, error: impl Into<redb::Error>) -> Error {
        Self::wrap(operation, &self.path, error)
    }

    /// The value of a key.
    pub fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let database = self.database()?;
        let read = database.as_ref().ok_or_else(|| self.closed())?;
        let read = read.begin_read().map_err(|e| self.fail("read record", e))?;
        let rows = match read.open_table(Table::new(table)) {
            Ok(rows) => rows,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.fail("read record", error)),
        };
        let value = rows.get(key).map_err(|e| self.fail("read record", e))?;
        Ok(value.map(|guard| guard.value().to_vec()))
    }

    /// Every key and value of a table, sorted by key.
    pub fn list(&self, table: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let database = self.database()?;
        let read = database.as_ref().ok_or_else(|| self.closed())?;
        let read = read.begin_read().map_err(|e| self.fail("list records", e))?;
        let rows = match read.open_table(Table::new(table)) {
            Ok(rows) => rows,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.fail("list records", error)),
        };
        let mut all = Vec::new();
        for row in rows.iter().map_err(|e| self.fail("list records", e))? {
            let (key, value) = row.map_err(|e| self.fail("list records", e))?;
            all.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(all)
    }

    /// Writes a batch; when this returns it survives a power cut. Batches of several threads go into one
    /// transaction where they come together.
    pub fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        fault::point("commit record", &batch.changes[0].1)?;
        self.group.commit(batch, |batches| self.write(batches))?;
        // What is committed stays committed: only a death is of interest here, not a failure.
        let _ = fault::point("committed record", &batch.changes[0].1);
        Ok(())
    }

    fn write(&self, batches: &[&Batch]) -> Result<()> {
        let Err(mut error) = self.write_once(batches) else {
            if let Some(reserve) = &self.reserve {
                reserve.keep();
            }
            return Ok(());
        };
        self.reopen_after(&error);
        let gives_back = batches.iter().any(|batch| batch.gives_back);
        let frees = |reserve: &Reserve| gives_back && reserve.give_up();
        if error.errno() == Some(libc::ENOSPC) && self.reserve.as_ref().is_some_and(frees) {
            match self.write_once(batches) {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
            self.reopen_after(&error);
        }
        Err(error)
    }

    /// A store that failed once refuses everything until it was closed and opened.
    fn reopen_after(&self, error: &Error) {
        if let Err(closed) = self.reopen() {
            tracing::warn!(%error, %closed, "a record store that failed is opened again later");
        }
    }

    fn write_once(&self, batches: &[&Batch]) -> Result<()> {
        let database = self.database()?;
        let mut write = database
            .as_ref()
            .ok_or_else(|| self.closed())?
            .begin_write()
            .map_err(|e| self.fail("write record", e))?;
        write
            .set_durability(Durability::Immediate)
            .map_err(|e| self.fail("write record", e))?;
        for (table, key, value) in batches.iter().flat_map(|batch| &batch.changes) {
            let mut rows = write
                .open_table(Table::new(table))
                .map_err(|e| self.fail("write record", e))?;
            match value {
                Some(value) => rows.insert(key.as_str(), value.as_slice()).map(drop),
                None => rows.remove(key.as_str()).map(drop),
            }
            .map_err(|e| self.fail("write record", e))?;
        }
        write.commit().map_err(|e| self.fail("commit record", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_death_left_of_a_new_store_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        std::fs::write(folder.path().join("state.redb.new"), "half a st").unwrap();
        std::fs::write(&path, "").unwrap();
        let records = Records::open(&path).unwrap();
        records.commit(&Batch::new().put("a", "x", vec![1])).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_batch_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let records = Records::open(&path).unwrap();
        assert_eq!(records.get("a", "x").unwrap(), None);
        records
            .commit(&Batch::new().put("a", "x", vec![1]).put("b", "y", vec![2]))
            .unwrap();
        records
            .commit(&Batch::new().delete("a", "x").delete("a", "never"))
            .unwrap();
        assert!(Records::open(&path).is_err(), "two processes opened one store");
        drop(records);
        let records = Records::open(&path).unwrap();
        assert_eq!(records.list("a").unwrap(), []);
        assert_eq!(records.list("b").unwrap(), [("y".to_owned(), vec![2])]);
    }

    #[test]
    fn writers_that_come_together_share_a_commit_and_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let records = Records::open(&path).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..16u8 {
                let records = &records;
                scope.spawn(move || {
                    for turn in 0..20u8 {
                        let key = format!("{writer}");
                        records.commit(&Batch::new().put("t", &key, vec![turn])).unwrap();
                        assert_eq!(records.get("t", &key).unwrap(), Some(vec![turn]));
                    }
                });
            }
        });
        drop(records);
        let records = Records::open(&path).unwrap();
        let all = records.list("t").unwrap();
        assert_eq!(all.len(), 16);
        assert!(all.iter().all(|(_, value)| *value == [19]), "{all:?}");
    }

    #[test]
    fn what_waits_for_one_commit_goes_into_the_next_together() {
        let group = Group::default();
        let commits = std::sync::Mutex::new(Vec::new());
        let (begun, go_on) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        let batch = |key: &str| Batch::new().put("t", key, Vec::new());
        let keys = |batches: &[&Batch]| batches.iter().map(|b| b.changes[0].1.clone()).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                group.commit(&batch("slow"), |batches| {
                    begun.wait();
                    go_on.wait();
                    commits.lock().unwrap().push(keys(batches));
                    Ok(())
                })
            });
            begun.wait();
            let late: Vec<_> = (0..8)
                .map(|number| {
                    let (group, commits, name) = (&group, &commits, number.to_string());
                    scope.spawn(move || {
                        group.commit(&batch(&name), |batches| {
                            commits.lock().unwrap().push(keys(batches));
                            Err(Error::new(
                                "commit record",
                                "t",
                                std::io::Error::from_raw_os_error(28),
                            ))
                        })
                    })
                })
                .collect();
            while group.waiting() < 8 {
                std::thread::yield_now();
            }
            go_on.wait();
            for writer in late {
                let error = writer.join().unwrap().unwrap_err();
                assert_eq!(error.errno(), Some(28), "a writer was told {error}");
            }
        });
        let commits = commits.into_inner().unwrap();
        assert_eq!(commits.iter().map(Vec::len).collect::<Vec<_>>(), [1, 8]);
    }

    #[test]
    fn a_commit_that_panics_leaves_the_line_to_others() {
        let group = Group::default();
        let batch = Batch::new().put("t", "k", Vec::new());
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = group.commit(&batch, |_| panic!("on purpose"));
        }));
        assert!(died.is_err());
        group.commit(&batch, |_| Ok(())).unwrap();
    }
}
