//! `diff` and `cp`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use plugin_api::graph::{ChangeKind, GraphPlugin};
use plugin_api::id::{HolderId, LayerId, VolumeName};
use plugin_api::volume::VolumeDriver;

use crate::copy::{self, Place, Side};
use crate::engine::Engine;
use crate::plugins::Told;
use crate::state::container::{Container, Source};
use crate::state::fresh_id;

pub(super) fn diff(engine: &Engine, typed: &str) -> Result<()> {
    let container = engine.store.container(typed)?;
    let (own, init) = (
        LayerId::new(container.layer())?,
        LayerId::new(container.init_layer())?,
    );
    let changes = engine
        .graph()?
        .changes(&own, Some(&init))
        .told(|| format!("compare {}", container.name))?;
    for change in changes {
        let letter = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        say!("{letter} {}", change.path);
    }
    Ok(())
}

pub(super) fn cp(engine: &Engine, from: &str, to: &str) -> Result<()> {
    match (copy::parse(from), copy::parse(to)) {
        (Side::Host(from), Side::Container { name, path }) => {
            let container = engine.store.container(&name)?;
            let source = copy::on_host(&from)?;
            let name = last(&from)?;
            in_tree(engine, &container, &path, |place| {
                copy::copy(source, place, &name)
            })
        }
        (Side::Container { name, path }, Side::Host(to)) => {
            let container = engine.store.container(&name)?;
            let target = copy::on_host(&to)?;
            let name = last(&path)?;
            in_tree(engine, &container, &path, |place| {
                copy::copy(place, target, &name)
            })
        }
        _ => bail!("one side is CONTAINER:PATH, the other a path of the host"),
    }
}

/// The name that a copy into a folder gets; `x/.` stays `.`: what is in x.
fn last(path: &Path) -> Result<std::ffi::OsString> {
    let text = path.to_string_lossy();
    if text.ends_with("/.") || text == "." || text == "/" {
        return Ok(".".into());
    }
    match path.file_name() {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{} names no file", path.display()),
    }
}

/// Works at a path of a container's tree, in the volume that is mounted there if one is.
fn in_tree(
    engine: &Engine,
    container: &Container,
    path: &Path,
    work: impl FnOnce(Place) -> Result<()>,
) -> Result<()> {
    let path: PathBuf = Path::new("/").join(path);
    let mount = container
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.len());
    let Some(mount) = mount else {
        let graph = engine.graph()?;
        let id = LayerId::new(container.layer())?;
        let root = graph
            .get(&id, "")
            .told(|| format!("mount layer of {}", container.name))?;
        let outcome = copy::below(&root, &path).and_then(work);
        graph
            .put(&id)
            .told(|| format!("put layer of {}", container.name))?;
        return outcome;
    };
    let below = path
        .strip_prefix(&mount.target)
        .unwrap_or(Path::new(OsStr::new("")));
    match &mount.source {
        Source::Host(root) => copy::below(root, below).and_then(work),
        Source::Volume { driver, name } => {
            let volume = engine.plugins.volume(driver)?;
            let (checked, holder) = (VolumeName::new(name)?, HolderId::new(fresh_id()?)?);
            let root = volume
                .mount(&checked, &holder, plugin_api::EnginePeer::own())
                .told(|| format!("mount volume {name}"))?;
            let outcome = copy::below(&root, below).and_then(work);
            volume
                .unmount(&checked, &holder)
                .told(|| format!("unmount volume {name}"))?;
            outcome
        }
    }
}
