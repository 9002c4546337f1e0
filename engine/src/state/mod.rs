//! What the engine remembers: one JSON file per thing, written whole or not at all.
//!
//! **Invariant:** file names come from ids this engine made or from names it has checked, never straight
//! from a user or an image.
//! **Invariant:** changes happen under [`Store::lock`]; it is held for the change, never while a
//! container runs.

pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod network;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// The kinds of things, one folder each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Layer,
    Network,
    Volume,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Container,
        Self::Image,
        Self::Layer,
        Self::Network,
        Self::Volume,
    ];

    fn folder(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::Image => "images",
            Self::Layer => "layers",
            Self::Network => "networks",
            Self::Volume => "volumes",
        }
    }
}

/// The state below one root folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The right to change the state; dropping it gives the right back.
#[derive(Debug)]
pub(crate) struct Locked(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Store {
    /// Opens the root, making it at first use.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
        };
        let folders = Kind::ALL.map(Kind::folder);
        for folder in folders.iter().chain(&["netns", "tmp", "run"]) {
            let path = root.join(folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .with_context(|| format!("make folder {}", path.display()))?;
        }
        Ok(store)
    }

    /// The root folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where files of a container lie that are no record: bundle, log, hosts.
    pub(crate) fn container_folder(&self, id: &str) -> PathBuf {
        self.root.join("run").join(id)
    }

    /// A fresh file for bytes on their way; it has no name already.
    pub(crate) fn scratch(&self) -> Result<File> {
        let path = self.root.join("tmp").join(fresh_id()?);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("make scratch file {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("unlink scratch file {}", path.display()))?;
        Ok(file)
    }

    /// Waits for the right to change the state.
    pub(crate) fn lock(&self) -> Result<Locked> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(Locked(file))
    }

    fn path(&self, kind: Kind, key: &str) -> Result<PathBuf> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if key.is_empty() || key.len() > 255 || key.starts_with('.') || !key.bytes().all(safe) {
            bail!("{key:?} is no key of a record");
        }
        Ok(self.root.join(kind.folder()).join(format!("{key}.json")))
    }

    /// One record.
    pub(crate) fn read(&self, kind: Kind, key: &str) -> Result<Option<Value>> {
        read_json(&self.path(kind, key)?)
    }

    /// Every record of a kind with its key, sorted by key.
    pub(crate) fn list(&self, kind: Kind) -> Result<Vec<(String, Value)>> {
        let folder = self.root.join(kind.folder());
        let mut all = Vec::new();
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let name = entry?.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            // Somebody may have removed it since the folder was read.
            if let Some(value) = self.read(kind, key)? {
                all.push((key.to_owned(), value));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Writes one record; the caller holds the lock.
    pub(crate) fn write(&self, _lock: &Locked, kind: Kind, key: &str, value: &Value) -> Result<()> {
        write_whole(&self.path(kind, key)?, &serde_json::to_vec_pretty(value)?)
    }

    /// Removes one record; a missing one is no error.
    pub(crate) fn remove(&self, _lock: &Locked, kind: Kind, key: &str) -> Result<()> {
        let path = self.path(kind, key)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Facts about the engine itself: the graph plugin's name and the boot it was greeted in.
    pub(crate) fn engine(&self) -> Result<Value> {
        Ok(read_json(&self.root.join("engine.json"))?
            .unwrap_or_else(|| Value::Object(serde_json::Map::new())))
    }

    /// Writes the facts about the engine itself.
    pub(crate) fn set_engine(&self, _lock: &Locked, value: &Value) -> Result<()> {
        write_whole(&self.root.join("engine.json"), &serde_json::to_vec_pretty(value)?)
    }
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let value =
        serde_json::from_slice(&bytes).with_context(|| format!("record {} is damaged", path.display()))?;
    Ok(Some(value))
}

/// Replaces a file in one step, synced before it shows.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a record lies in a folder");
    let fresh = folder.join(format!(".{}", fresh_id()?));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&fresh);
        anyhow!(error).context(format!("write {}", path.display()))
    })
}

// === ids and names ===

/// 64 random hexadecimal digits.
pub(crate) fn fresh_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(hex(&bytes))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The 12 digits that people are shown.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether `typed` can mean `id`: the whole of it or an unambiguous beginning.
pub(crate) fn begins(id: &str, typed: &str) -> bool {
    !typed.is_empty() && typed.bytes().all(|b| b.is_ascii_hexdigit()) && id.starts_with(typed)
}

/// Refuses names that are no plain word.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || name.len() > 200 || !name.bytes().all(plain) {
        bail!(
            "{what} {} must be 1 to 200 letters, digits, '_', '.' or '-', beginning with a letter or digit",
            plugin_api::id::quoted(name)
        );
    }
    Ok(())
}

/// Picks by exact name first, then by the beginning of an id.
pub(crate) fn pick<T>(what: &str, typed: &str, all: Vec<T>, facts: impl Fn(&T) -> (&str, &str)) -> Result<T> {
    let shown = plugin_api::id::quoted(typed);
    let exact = all
        .iter()
        .position(|one| facts(one).1 == typed || facts(one).0 == typed);
    let mut all = all;
    if let Some(at) = exact {
        return Ok(all.swap_remove(at));
    }
    all.retain(|one| begins(facts(one).0, typed));
    match all.len() {
        0 => bail!("no such {what}: {shown}"),
        1 => Ok(all.remove(0)),
        several => bail!("{shown} is the beginning of {several} {what} ids"),
    }
}

/// Now, as records and `inspect` show it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

// === reading JSON values ===

/// The text of a field, or an error naming the field.
pub(crate) fn text(value: &Value, field: &str) -> Result<String> {
    maybe_text(value, field).ok_or_else(|| anyhow!("record has no text {field}"))
}

/// The text of a field, if it is there.
pub(crate) fn maybe_text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

/// A list of texts; nothing where the field is missing or null.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// A field that is read from text, if it is there.
pub(crate) fn maybe_parsed<T: std::str::FromStr>(value: &Value, field: &str) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = value[field].as_str() else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|error| anyhow!("record field {field} is damaged: {error}"))
}

/// `key: value` texts.
pub(crate) fn options(value: &Value) -> plugin_api::Options {
    let rows = value.as_object().into_iter().flatten();
    rows.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_keys_never_become_paths() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for key in ["", "../x", "a/b", ".hidden", "a\0b"] {
            assert!(store.read(Kind::Container, key).is_err(), "{key:?} was taken");
        }
    }

    #[test]
    fn a_record_is_there_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let lock = store.lock().unwrap();
        let value = serde_json::json!({"a": 1});
        store.write(&lock, Kind::Image, "k", &value).unwrap();
        assert_eq!(store.list(Kind::Image).unwrap(), [("k".to_owned(), value)]);
        store.remove(&lock, Kind::Image, "k").unwrap();
        store.remove(&lock, Kind::Image, "k").unwrap();
        assert_eq!(store.read(Kind::Image, "k").unwrap(), None);
    }

    #[test]
    fn names_are_plain_words() {
        assert!(check_name("container name", "web_1.a-b").is_ok());
        for name in ["../x", "", "-o", "a b", "a/b"] {
            assert!(check_name("container name", name).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn a_name_wins_over_the_beginning_of_an_id() {
        let all = vec![("abc1", "web"), ("abc2", "abc1x"), ("ffff", "abc")];
        let found = |typed| pick("container", typed, all.clone(), |one| *one).map(|one| one.1);
        assert_eq!(found("abc").unwrap(), "abc");
        assert_eq!(found("f").unwrap(), "abc");
        assert!(found("ab").unwrap_err().to_string().contains("2 container ids"));
        assert!(
            found("nope")
                .unwrap_err()
                .to_string()
                .contains("no such container")
        );
    }
}
