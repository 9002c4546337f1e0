//! Durable records: one file per driver instance, atomic batches, synced before they return.
//!
//! Values are written with [`Encoder`] and read with [`Decoder`]: fields in order, integers
//! little-endian, text with its length before it. The first byte of a value is the version of its
//! layout, chosen by its owner.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::error::{Context, Error, Result};
use crate::fault;

type Table<'a> = TableDefinition<'a, &'static str, &'static [u8]>;

/// Bytes of page cache per store; records are small and few.
const CACHE_BYTES: usize = 1 << 20;

/// An open store. One process at a time; a second open fails and says so.
pub struct Records {
    database: Database,
    path: PathBuf,
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

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Records {
    /// Opens or makes the store at `path`, whose folder exists.
    pub fn open(path: &Path) -> Result<Self> {
        // For root alone, also where the folder should be open to others.
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path);
        drop(file.context("open record store", path)?);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder
            .create(path)
            .map_err(|error| Self::wrap("open record store", path, error))?;
        Ok(Self {
            database,
            path: path.to_owned(),
        })
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
        let read = self
            .database
            .begin_read()
            .map_err(|e| self.fail("read record", e))?;
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
        let read = self
            .database
            .begin_read()
            .map_err(|e| self.fail("list records", e))?;
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

    /// Writes a batch; when this returns it survives a power cut.
    pub fn commit(&self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        fault::point("commit record", &batch.changes[0].1)?;
        let mut write = self
            .database
            .begin_write()
            .map_err(|e| self.fail("write record", e))?;
        write
            .set_durability(Durability::Immediate)
            .map_err(|e| self.fail("write record", e))?;
        for (table, key, value) in &batch.changes {
            let mut rows = write
                .open_table(Table::new(table))
                .map_err(|e| self.fail("write record", e))?;
            match value {
                Some(value) => rows.insert(key.as_str(), value.as_slice()).map(drop),
                None => rows.remove(key.as_str()).map(drop),
            }
            .map_err(|e| self.fail("write record", e))?;
        }
        write.commit().map_err(|e| self.fail("commit record", e))?;
        // What is committed stays committed: only a death is of interest here, not a failure.
        let _ = fault::point("committed record", &batch.changes[0].1);
        Ok(())
    }
}

// === values ===

/// Writes the fields of a value in order.
#[derive(Debug)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Begins a value of the given layout version.
    pub fn new(version: u8) -> Self {
        Self(vec![version])
    }

    /// Text, up to 4 GiB.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        let length = u32::try_from(text.len()).expect("a field is shorter than 4 GiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Text or nothing.
    #[must_use]
    pub fn maybe(self, text: Option<&str>) -> Self {
        match text {
            None => self.flag(false),
            Some(text) => self.flag(true).text(text),
        }
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Yes or no.
    #[must_use]
    pub fn flag(mut self, flag: bool) -> Self {
        self.0.push(u8::from(flag));
        self
    }

    /// A list: its length, then each item by `item`.
    #[must_use]
    pub fn list<T>(self, items: impl ExactSizeIterator<Item = T>, item: impl Fn(Self, T) -> Self) -> Self {
        let counted = self.number(items.len() as u64);
        items.fold(counted, item)
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A value that ends too early or holds something else than its owner wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record of {what} is damaged at byte {at}")]
pub struct Damaged {
    what: &'static str,
    at: usize,
}

/// Reads the fields of a value in order.
#[derive(Debug)]
pub struct Decoder<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Begins a value of the given layout version; `what` names it in errors.
    pub fn new(what: &'static str, version: u8, bytes: &'a [u8]) -> std::result::Result<Self, Damaged> {
        let mut decoder = Self { what, bytes, at: 0 };
        if decoder.take(1)? == [version] {
            Ok(decoder)
        } else {
            Err(Damaged { what, at: 0 })
        }
    }

    fn take(&mut self, length: usize) -> std::result::Result<&'a [u8], Damaged> {
        let damaged = Damaged {
            what: self.what,
            at: self.at,
        };
        let end = self.at.checked_add(length).ok_or(damaged.clone())?;
        let taken = self.bytes.get(self.at..end).ok_or(damaged)?;
        self.at = end;
        Ok(taken)
    }

    /// A sentence for a field that reads well but makes no sense to its owner.
    pub fn damaged(&self) -> Damaged {
        Damaged {
            what: self.what,
            at: self.at,
        }
    }

    /// Text.
    pub fn text(&mut self) -> std::result::Result<String, Damaged> {
        let length: [u8; 4] = self.take(4)?.try_into().expect("four bytes were taken");
        let damaged = self.damaged();
        let bytes = self.take(u32::from_le_bytes(length) as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| damaged)
    }

    /// Text or nothing.
    pub fn maybe(&mut self) -> std::result::Result<Option<String>, Damaged> {
        if self.flag()? {
            self.text().map(Some)
        } else {
            Ok(None)
        }
    }

    /// A number.
    pub fn number(&mut self) -> std::result::Result<u64, Damaged> {
        let bytes: [u8; 8] = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    /// Yes or no.
    pub fn flag(&mut self) -> std::result::Result<bool, Damaged> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.damaged()),
        }
    }

    /// A list.
    pub fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> std::result::Result<T, Damaged>,
    ) -> std::result::Result<Vec<T>, Damaged> {
        let count = self.number()?;
        (0..count).map(|_| item(self)).collect()
    }

    /// The value ends here.
    pub fn end(self) -> std::result::Result<(), Damaged> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn values_round_trip_and_damage_is_told() {
        let bytes = Encoder::new(3)
            .text("é")
            .maybe(None)
            .maybe(Some("b"))
            .number(7)
            .flag(true);
        let bytes = bytes.list(["p", "q"].iter(), |e, t| e.text(t)).finish();
        let mut d = Decoder::new("thing", 3, &bytes).unwrap();
        assert_eq!(d.text().unwrap(), "é");
        assert_eq!(
            (d.maybe().unwrap(), d.maybe().unwrap()),
            (None, Some("b".to_owned()))
        );
        assert_eq!((d.number().unwrap(), d.flag().unwrap()), (7, true));
        assert_eq!(d.list(Decoder::text).unwrap(), ["p", "q"]);
        d.end().unwrap();
        assert!(Decoder::new("thing", 4, &bytes).is_err());
        for cut in 0..bytes.len() {
            let read = || -> std::result::Result<(), Damaged> {
                let mut d = Decoder::new("thing", 3, &bytes[..cut])?;
                d.text()?;
                d.maybe()?;
                d.maybe()?;
                d.number()?;
                d.flag()?;
                d.list(Decoder::text)?;
                d.end()
            };
            assert!(read().is_err(), "a value cut at byte {cut} was read");
        }
    }
}
