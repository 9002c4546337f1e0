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
}

impl File {
    /// Reads a file; an error names the file, the line and the key.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = toml::from_str::<File>("state = \"/x\"\n[graph.a]\ndriver = \"overlay\"\nsize = 3\n")
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("line 4") && text.contains("size"), "{text}");
    }
}
