//! Debian suites, each with engines of its own age.

use std::fs;
use std::path::{Path, PathBuf};

/// Whose programs a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// This machine's own: on bookworm dockerd 20.10, Podman 4.3, containerd 1.6.
    Own,
    /// Debian 13: dockerd 26.1, Podman 5.4, containerd 1.7.
    Trixie,
    /// What becomes Debian 14: dockerd 28.5, Podman 5.8, containerd 2.1, or newer.
    Forky,
}

impl Suite {
    /// The suite's name at Debian; none for the machine's own.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Trixie => Some("trixie"),
            Self::Forky => Some("forky"),
        }
    }

    /// The newest root that the test command has made of it; none for the machine's own.
    pub(crate) fn root(self) -> Option<PathBuf> {
        let name = self.name()?;
        let root = newest(name);
        Some(root.unwrap_or_else(|| panic!("there is no root of {name}")))
    }

    /// What is missing to make a world of it.
    pub(super) fn missing(self) -> Option<String> {
        let name = self.name()?;
        newest(name).is_none().then(|| format!("a root of {name}"))
    }

    /// Where the suite's programs are looked for, as `/` sees it.
    pub(super) fn slash(self) -> PathBuf {
        self.name().and_then(newest).unwrap_or_else(|| PathBuf::from("/"))
    }
}

/// The newest root of a suite, where `xtask/src/lanes/suites.rs` makes them.
fn newest(suite: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache.filter(|path| path.is_absolute()).or_else(home)?;
    let start = format!("{suite}-");
    let entries = fs::read_dir(cache.join("longshore/roots")).ok()?.flatten();
    let roots = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&start));
    roots.map(|entry| entry.path()).max()
}
