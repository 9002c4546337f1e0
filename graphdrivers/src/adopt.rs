//! Taking over the layers that Docker's own driver `overlay2` made, without copying them.
//!
//! That driver keeps `ID/diff` (the tree), `ID/link` (a short name) and `ID/lower` (the short names of the
//! layers below, top first, each as `l/NAME`). The trees are renamed into the store; a layer keeps its id.
//! Docker's description of its images is not touched.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kernel::fsutil;
use kernel::mount::Mounts;
use plugin_api::id::LayerId;
use plugin_api::{Fault, FaultKind};

use crate::kernel_fault;
use crate::store::{Fresh, Number, Store, names};

/// The tree of a layer in its folder there.
const DIFF: &str = "diff";

/// A layer of another's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: LayerId,
    /// The layer below it.
    pub parent: Option<LayerId>,
    /// Whether a container writes into it.
    pub writable: bool,
}

/// What is to become of a layer, or became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is moved into the store.
    Moved,
    /// It is in the store.
    AlreadySo,
}

fn unfit(path: &Path, why: &str) -> Fault {
    Fault::new(
        FaultKind::Corrupt,
        format!("read layers of {}: {why}", path.display()),
    )
}

fn read(path: &Path) -> Result<Option<String>, Fault> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unfit(path, "it cannot be read").because(error)),
    }
}

/// A layer as its folder describes it.
struct Described {
    link: String,
    lower: Vec<String>,
}

fn describe(folder: &Path) -> Result<Described, Fault> {
    let link = read(&folder.join("link"))?.filter(|link| !link.is_empty());
    let link = link.ok_or_else(|| unfit(folder, "it has no link; was its engine cut off?"))?;
    let lower = read(&folder.join("lower"))?.unwrap_or_default();
    let names = lower.split(':').filter(|name| !name.is_empty());
    let lower = names.map(|name| {
        let short = name.strip_prefix("l/");
        short
            .map(str::to_owned)
            .ok_or_else(|| unfit(folder, "its list of lower layers is not understood"))
    });
    Ok(Described {
        link,
        lower: lower.collect::<Result<_, _>>()?,
    })
}

/// The layers below `from` (`/var/lib/docker/overlay2`), parents before their children. Changes nothing.
pub fn look(from: &Path) -> Result<Vec<Found>, Fault> {
    let mut all: BTreeMap<LayerId, Described> = BTreeMap::new();
    let entries = fs::read_dir(from)
        .map_err(|error| Fault::not_found(format!("read layers of {}", from.display())).because(error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unfit(from, "its list breaks off").because(error))?;
        let name = entry.file_name();
        let known = name
            .to_str()
            .filter(|name| *name != "l")
            .and_then(|name| LayerId::new(name).ok());
        // What was moved before has left its description behind.
        if let Some(id) = known.filter(|_| entry.path().join("link").exists()) {
            all.insert(id, describe(&entry.path())?);
        }
    }
    let by_link: HashMap<&str, &LayerId> = all.iter().map(|(id, one)| (one.link.as_str(), id)).collect();
    let mut found = Vec::new();
    for (id, one) in &all {
        let parent = match one.lower.first() {
            None => None,
            Some(link) => {
                let parent = *by_link
                    .get(link.as_str())
                    .ok_or_else(|| unfit(&from.join(id.as_str()), "a layer below it is missing"))?;
                if all[parent].lower != one.lower[1..] {
                    return Err(unfit(&from.join(id.as_str()), "the layers below it do not agree"));
                }
                Some(parent.clone())
            }
        };
        let init = LayerId::new(format!("{id}-init")).is_ok_and(|init| all.contains_key(&init));
        let found_one = Found {
            writable: init || id.as_str().ends_with("-init"),
            id: id.clone(),
            parent,
        };
        found.push((one.lower.len(), found_one));
    }
    found.sort_by(|one, other| (one.0, &one.1.id).cmp(&(other.0, &other.1.id)));
    Ok(found.into_iter().map(|(_, one)| one).collect())
}

/// Refuses what would go wrong in the middle.
fn check(store: &Store, from: &Path) -> Result<(), Fault> {
    let mounts = Mounts::read().map_err(kernel_fault)?;
    let inside = mounts.under(from).find(|mount| mount.target != from);
    if let Some(mount) = inside {
        let message = format!(
            "adopt layers of {}: {} is mounted",
            from.display(),
            mount.target.display()
        );
        return Err(Fault::in_use(format!(
            "{message}; stop the containers and the engine"
        )));
    }
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(from) != device(store.state()) {
        let message = format!(
            "adopt layers of {}: {} lies on another file system, and trees are moved, not copied",
            from.display(),
            store.state().display()
        );
        return Err(Fault::unsupported(message));
    }
    Ok(())
}

/// Records a layer that is about to come.
fn expect(store: &Store, one: &Found, known: &HashMap<LayerId, Number>) -> Result<Number, Fault> {
    let parent = one.parent.as_ref().and_then(|parent| known.get(parent).copied());
    let fresh = Fresh {
        parent,
        writable: one.writable,
        ..Fresh::default()
    };
    store.expect(&fresh, |batch, number| names::put(batch, one.id.as_str(), number))
}

/// Moves layers into the store, or only says what it would do. Stopped in the middle, it goes on where it was
/// when it is called again; nothing is lost meanwhile. Refuses, before anything is changed, a folder in use
/// and one on another file system.
pub fn adopt(store: &Store, from: &Path, dry: bool) -> Result<Vec<(Found, Fate)>, Fault> {
    let from = from
        .canonicalize()
        .map_err(|error| Fault::not_found(format!("read layers of {}", from.display())).because(error))?;
    let found = look(&from)?;
    check(store, &from)?;
    let mut known = names::load(store.records())?;
    let mut all = Vec::new();
    for one in found {
        let tree: PathBuf = from.join(one.id.as_str()).join(DIFF);
        let there = known.get(&one.id).copied();
        let fate = match there {
            Some(number) if store.stack(number)?.tree().exists() => Fate::AlreadySo,
            _ if !tree.is_dir() => return Err(unfit(&tree, "the tree of a layer is missing")),
            _ => Fate::Moved,
        };
        if !dry && fate == Fate::Moved {
            let number = there.map_or_else(|| expect(store, &one, &known), Ok)?;
            store.take_over(number, &tree)?;
            known.insert(one.id.clone(), number);
        }
        all.push((one, fate));
    }
    if !dry {
        fsutil::sync_filesystem(store.state()).map_err(kernel_fault)?;
    }
    Ok(all)
}
