//! Skips are loud: tests append `test: reason` to a file, and we read it back.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file of skips of one run of the test command.
pub(super) struct Skips {
    file: PathBuf,
    seen: usize,
}

impl Skips {
    /// An empty list at `file`; what an older run left is dropped.
    pub(super) fn open(file: &Path) -> Result<Self> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        std::fs::write(file, "").with_context(|| format!("write {}", file.display()))?;
        Ok(Self {
            file: file.to_owned(),
            seen: 0,
        })
    }

    /// Where tests append their lines.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Appends one skip of our own.
    pub(super) fn add(&self, line: &str) -> Result<()> {
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.file)?;
        writeln!(file, "{line}").with_context(|| format!("write {}", self.file.display()))
    }

    /// How many lines came since the last call.
    pub(super) fn new_lines(&mut self) -> Result<usize> {
        let now = self.all()?.len();
        Ok(now - std::mem::replace(&mut self.seen, now))
    }

    /// All skips so far.
    pub(super) fn all(&self) -> Result<Vec<String>> {
        let text =
            std::fs::read_to_string(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        Ok(text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect())
    }
}

/// Whether a skip is a failure: `LONGSHORE_REQUIRE=all`.
pub(super) fn refused() -> bool {
    std::env::var("LONGSHORE_REQUIRE")
        .is_ok_and(|require| require.split(',').any(|word| word.trim() == "all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut skips = Skips::open(&folder.path().join("deep/skips")).unwrap();
        skips.add("a: no root").unwrap();
        skips.add("b: no dockerd").unwrap();
        assert_eq!(skips.new_lines().unwrap(), 2);
        skips.add("c: no podman").unwrap();
        assert_eq!(skips.new_lines().unwrap(), 1);
        assert_eq!(
            skips.all().unwrap(),
            ["a: no root", "b: no dockerd", "c: no podman"]
        );
    }

    #[test]
    fn an_older_run_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("skips");
        Skips::open(&file).unwrap().add("old: reason").unwrap();
        assert!(Skips::open(&file).unwrap().all().unwrap().is_empty());
    }
}
