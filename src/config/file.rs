//! The file exactly as written: every key optional, unknown keys refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

/// `longshore.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Where drivers keep their state.
    pub(crate) state: Option<PathBuf>,
    /// Where sockets are made: `NAME.sock`.
    pub(crate) sockets: Option<PathBuf>,
    /// Where drivers keep what ends with the boot; in memory.
    pub(crate) runtime: Option<PathBuf>,
    /// Where the sockets of snapshotters are made: `NAME.sock`.
    pub(crate) snapshots: Option<PathBuf>,
    /// Log filter: `info`, `debug`, `longshore=debug`…
    pub(crate) log: Option<String>,
    /// `[graph.NAME]`.
    #[serde(default)]
    pub(crate) graph: BTreeMap<String, Driver>,
    /// `[network.NAME]`.
    #[serde(default)]
    pub(crate) network: BTreeMap<String, Driver>,
    /// `[ipam.NAME]`.
    #[serde(default)]
    pub(crate) ipam: BTreeMap<String, Driver>,
    /// `[volume.NAME]`.
    #[serde(default)]
    pub(crate) volume: BTreeMap<String, Driver>,
    /// `[snapshot.NAME]`.
    #[serde(default)]
    pub(crate) snapshot: BTreeMap<String, Driver>,
}

/// One driver instance; its table's name is its socket's name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Driver {
    /// Which driver: `overlay`, `bridge`, `local`.
    pub(crate) driver: String,
    /// Of a snapshotter: containerd's socket.
    pub(crate) containerd: Option<PathBuf>,
}

impl File {
    /// Reads a file; an error names the file, the line and the key.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Reads a file and `conf.d/*.toml` beside it, in the order of their names.
    pub(crate) fn read_with_parts(path: &Path) -> anyhow::Result<Self> {
        let mut file = Self::read(path)?;
        let folder = path.with_file_name("conf.d");
        let mut parts = match std::fs::read_dir(&folder) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<_>>>(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
        .with_context(|| format!("read {}", folder.display()))?;
        parts.retain(|part| part.extension().is_some_and(|ending| ending == "toml"));
        parts.sort();
        for part in parts {
            file.add(Self::read(&part)?);
        }
        Ok(file)
    }

    /// What a later file says takes the place of what this one says.
    fn add(&mut self, later: Self) {
        self.state = later.state.or(self.state.take());
        self.runtime = later.runtime.or(self.runtime.take());
        self.sockets = later.sockets.or(self.sockets.take());
        self.snapshots = later.snapshots.or(self.snapshots.take());
        self.log = later.log.or(self.log.take());
        self.graph.extend(later.graph);
        self.network.extend(later.network);
        self.ipam.extend(later.ipam);
        self.volume.extend(later.volume);
        self.snapshot.extend(later.snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_parts_take_the_place_of_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let main = write(
            "l.toml",
            "log = \"info\"\nstate = \"/a\"\n[volume.a]\ndriver = \"local\"\n",
        );
        write(
            "conf.d/20.toml",
            "state = \"/c\"\n[volume.b]\ndriver = \"local\"\n[snapshot.b]\ndriver = \"overlay\"\n",
        );
        write("conf.d/10.toml", "state = \"/b\"\nsnapshots = \"/s\"\n");
        write("conf.d/note.txt", "not read");
        let file = File::read_with_parts(&main).unwrap();
        assert_eq!(file.state.unwrap(), Path::new("/c"));
        assert_eq!(file.log.as_deref(), Some("info"));
        assert_eq!((file.volume.len(), file.snapshot.len()), (2, 1));
        assert_eq!(file.snapshots.unwrap(), Path::new("/s"));
        write("conf.d/30.toml", "stat = \"/d\"\n");
        let told = format!("{:#}", File::read_with_parts(&main).unwrap_err());
        assert!(told.contains("30.toml") && told.contains("stat"), "{told}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = toml::from_str::<File>("state = \"/x\"\n[graph.a]\ndriver = \"overlay\"\nsize = 3\n")
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("line 4") && text.contains("size"), "{text}");
    }
}
