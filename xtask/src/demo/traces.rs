//! What a host looks like, so that what was left behind can be told.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::Host;
use crate::run;

/// Everything that a run could leave behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Traces(BTreeSet<String>);

impl Traces {
    /// What is there now, on `host` and among the mounts below its folder.
    pub(super) fn of(host: &Host) -> Result<Self> {
        let mut all = BTreeSet::new();
        let links = run::read(host.inside("ip").args(["-o", "link"]))?;
        all.extend(
            links
                .lines()
                .filter_map(|line| line.split(": ").nth(1))
                .map(|link| format!("link {link}")),
        );
        let rules = run::read(host.inside("nft").args(["list", "tables"]))?;
        all.extend(rules.lines().map(|line| format!("nft {line}")));
        let routes = run::read(host.inside("ip").args(["route"]))?;
        all.extend(routes.lines().map(|line| format!("route {}", line.trim())));
        all.extend(mounts(host.home())?);
        all.extend(entries(Path::new("/run/netns"), "namespace"));
        for part in [
            "state/volume",
            "state/graph",
            "engine/containers",
            "engine/netns",
            "sockets",
        ] {
            all.extend(objects(&host.home().join(part), part));
        }
        Ok(Self(all))
    }

    /// What is there now and was not before.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Mounts at or below `folder`, in our own mount namespace.
pub(super) fn mounts(folder: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read our mounts")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .filter(|point| Path::new(point).starts_with(folder))
        .map(|point| format!("mount {point}"))
        .collect())
}

fn entries(folder: &Path, what: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| format!("{what} {}", entry.file_name().to_string_lossy()))
        .collect()
}

/// Folders and sockets below `folder` that stand for an object: named by an id, a volume or a container.
fn objects(folder: &Path, what: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if super::OBJECTS.iter().any(|object| name == *object)
            || is_id(&name)
            || path.extension().is_some_and(|end| end == "sock")
        {
            all.push(format!("{what}: {}", path.display()));
        } else if path.is_dir() {
            all.extend(objects(&path, what));
        }
    }
    all
}

fn is_id(name: &str) -> bool {
    name.len() >= 12
        && name
            .trim_end_matches("-init")
            .chars()
            .all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_left_behind_is_found_at_any_depth() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("local/data").join("cargo")).unwrap();
        std::fs::create_dir_all(home.path().join("layers").join("0123456789abcdef")).unwrap();
        assert_eq!(objects(home.path(), "x").len(), 2);
    }

    #[test]
    fn what_is_new_is_beyond_what_was() {
        let before = Traces(["link lo".to_owned()].into());
        let after = Traces(["link lo".to_owned(), "link br0".to_owned()].into());
        assert_eq!(after.beyond(&before), ["link br0"]);
        assert!(before.beyond(&after).is_empty());
    }
}
