//! Docker's door to the store: mounts, counts of holds, archives.
//!
//! No lock is held across an archive, for an engine reads one layer while it writes the next. What must
//! not happen meanwhile (a removal) is refused as in use.

mod options;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::fsutil;
use kernel::mount::{self, Mounts, Overlay};
use kernel::record::Batch;
use plugin_api::graph::{Change, GraphInit, GraphPlugin, NewLayer};
use plugin_api::id::LayerId;
use plugin_api::{Done, Fault, FaultKind, Undo};

use crate::archive::walk;
use crate::backend::{Native, Stack, View};
use crate::holds::{Hold, Holds};
use crate::kernel_fault;
use crate::keyed::Keyed;
use crate::store::{Fresh, Number, Store, names};

/// Docker's graph plugin over the store.
///
/// ```text
/// STATE/mounts/ID   where a held layer is mounted
/// STATE/holds/ID    how often it is held, where that is not once
/// STATE/views/N     read-only mounts of one comparison
/// ```
#[derive(Debug)]
pub struct Door {
    store: Arc<Store>,
    state: PathBuf,
    /// Which layer an id means. Changes of one id are made by one caller at a time: `locks`.
    names: Mutex<HashMap<LayerId, Number>>,
    holds: Holds,
    /// A child is locked before its parent, never the other way round.
    locks: Keyed<LayerId>,
    next_view: AtomicU64,
}

/// Removes the mountpoints that nothing is mounted on.
fn sweep(path: &Path, kept: &[PathBuf]) -> Result<(), Fault> {
    let folder = fsutil::Folder::open(path).map_err(kernel_fault)?;
    for entry in folder.entries().map_err(kernel_fault)? {
        if !kept.contains(&path.join(&entry.name)) {
            folder.remove_dir(&entry.name).map_err(kernel_fault)?;
        }
    }
    Ok(())
}

/// The layers at whose mountpoints an overlay is mounted. What else is mounted in our folders goes.
fn reconcile(state: &Path, names: &HashMap<LayerId, Number>) -> Result<Vec<LayerId>, Fault> {
    let mounts = Mounts::read().map_err(kernel_fault)?;
    let (ours, views) = (state.join("mounts"), state.join("views"));
    let (mut kept, mut layers) = (Vec::new(), Vec::new());
    for mount in mounts.under(&ours).chain(mounts.under(&views)) {
        let target = &mount.target;
        if *target == ours || *target == views || kept.contains(target) {
            continue;
        }
        let name = target.strip_prefix(&ours).ok().and_then(Path::to_str);
        let id = name.and_then(|name| LayerId::new(name).ok());
        if let Some(id) = id.filter(|id| names.contains_key(id) && mount.kind == "overlay") {
            kept.push(target.clone());
            layers.push(id);
        } else {
            tracing::info!(target = %target.display(), "unmount what nobody holds");
            mount::unmount_detached(target).map_err(kernel_fault)?;
        }
    }
    for folder in [ours, views] {
        sweep(&folder, &kept)?;
    }
    Ok(layers)
}

impl Door {
    /// Opens the door, takes over the mounts of an earlier process and removes what nobody holds.
    pub fn open(store: Arc<Store>) -> Result<Self, Fault> {
        let state = store.state().to_owned();
        for name in ["mounts", "views"] {
            fsutil::make_dir(&state.join(name), 0o700).map_err(kernel_fault)?;
        }
        let names = names::load(store.records())?;
        let mounted = reconcile(&state, &names)?;
        Ok(Self {
            names: Mutex::new(names),
            holds: Holds::open(&state.join("holds"), &mounted)?,
            store,
            state,
            locks: Keyed::default(),
            next_view: AtomicU64::new(0),
        })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<LayerId, Number>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: &LayerId) -> Option<Number> {
        self.names().get(id).copied()
    }

    fn number(&self, id: &LayerId) -> Result<Number, Fault> {
        self.known(id)
            .ok_or_else(|| Fault::not_found(format!("layer {id} does not exist")))
    }

    fn stack(&self, id: &LayerId) -> Result<Stack, Fault> {
        self.store.stack(self.number(id)?)
    }

    /// Refuses to touch a layer that others of Docker's lie upon, by their names.
    fn no_child(&self, what: &str, id: &LayerId, number: Number) -> Result<(), Fault> {
        let Some(child) = self.store.child(number) else {
            return Ok(());
        };
        let names = self.names();
        let name = names.iter().find(|(_, number)| **number == child);
        let name = name.map_or_else(|| format!("number {child}"), |(name, _)| name.to_string());
        Err(Fault::in_use(format!(
            "{what} layer {id}: layer {name} lies upon it"
        )))
    }

    fn mountpoint(&self, id: &LayerId) -> PathBuf {
        self.state.join("mounts").join(id.as_str())
    }

    fn make(&self, layer: &NewLayer, writable: bool) -> Result<Done, Fault> {
        let id = &layer.id;
        if layer.parent.as_ref() == Some(id) {
            return Err(Fault::invalid(format!("create layer {id}: it is its own parent")));
        }
        let limit = options::quota(&layer.options)?;
        let _me = self.locks.hold(id);
        let _parent = layer.parent.as_ref().map(|parent| self.locks.hold(parent));
        let parent = layer
            .parent
            .as_ref()
            .map(|parent| self.number(parent))
            .transpose()?;
        if let Some(old) = self.known(id) {
            let row = self.store.row(old);
            if row.is_some_and(|row| row.parent == parent && row.writable == writable) {
                return Ok(Done::AlreadySo);
            }
            let message = format!("create layer {id}: another layer of that id exists");
            return Err(Fault::already_exists(message));
        }
        let fresh = Fresh {
            parent,
            writable,
            label: Some(layer.mount_label.clone()),
            limit,
        };
        let made = self
            .store
            .create(&fresh, |batch, number| names::put(batch, id.as_str(), number));
        let number = made.map_err(|fault| {
            let message = format!("create layer {}", id.short());
            Fault::new(fault.kind, message).because(fault)
        })?;
        self.names().insert(id.clone(), number);
        Ok(Done::Changed)
    }

    /// The first hold: the folder, the mount.
    fn show(&self, id: &LayerId, label: &str) -> Result<PathBuf, Fault> {
        let (lowers, upper, own_label) = match self.store.view(self.number(id)?)? {
            View::Directory { path } => {
                let hold = Hold {
                    count: 1,
                    ..Hold::default()
                };
                self.holds.set(id, Some(hold))?;
                return Ok(path);
            }
            View::Overlay { lowers, upper, label } => (lowers, upper, label),
        };
        let label = Some(label)
            .filter(|label| !label.is_empty())
            .or(own_label.as_deref());
        let path = self.mountpoint(id);
        let mut undo = Undo::new();
        if let Err(error) = fsutil::make_dir(&path, 0o700) {
            return Err(undo.unwind(kernel_fault(error)));
        }
        undo.push("remove the mountpoint", || fsutil::remove_tree(&path).map(drop));
        let overlay = Overlay {
            lowers: &lowers,
            upper: upper
                .as_ref()
                .map(|(upper, work)| (upper.as_path(), work.as_path())),
            label,
        };
        if let Err(error) = mount::mount_overlay(&overlay, &path) {
            let message = format!("mount layer {} (overlay, {} lowers)", id.short(), lowers.len());
            let cause = kernel_fault(error);
            return Err(undo.unwind(Fault::new(cause.kind, message).because(cause)));
        }
        undo.keep();
        self.holds.set(id, Some(Hold::MOUNTED_ONCE))?;
        Ok(path)
    }

    /// Whether what an engine before this one mounted is still there to be used.
    fn is_shown(&self, id: &LayerId) -> Result<bool, Fault> {
        let mounts = Mounts::read().map_err(kernel_fault)?;
        Ok(mounts.at(&self.mountpoint(id)).is_some())
    }

    /// The folder of a mount that is gone; none is no error.
    fn remove_mountpoint(&self, id: &LayerId) -> Result<(), Fault> {
        let path = self.mountpoint(id);
        if path.symlink_metadata().is_ok() {
            fsutil::remove_tree(&path).map_err(kernel_fault)?;
        }
        Ok(())
    }

    /// No hold is left: the mount, the folder, the record.
    fn hide(&self, id: &LayerId, hold: Hold) -> Result<(), Fault> {
        if hold.mounted {
            let path = self.mountpoint(id);
            // Detached: copies of it may live in the namespaces of others.
            mount::unmount_detached(&path).map_err(kernel_fault)?;
            if let Err(error) = fsutil::remove_tree(&path) {
                tracing::warn!(
                    error = plugin_api::fault::chain(&error),
                    "the mountpoint goes with its layer"
                );
            }
        }
        self.holds.set(id, None)
    }

    /// The back end's own way, where it has one and `parent` is what lies directly below.
    fn native(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Option<(&dyn Native, Stack)>, Fault> {
        let number = self.number(id)?;
        let parent = parent.map(|parent| self.number(parent)).transpose()?;
        if self.store.row(number).is_some_and(|row| row.parent == parent)
            && let Some(native) = self.store.backend().native()
        {
            return Ok(Some((native, self.store.stack(number)?)));
        }
        Ok(None)
    }
}

impl GraphPlugin for Door {
    fn init(&self, init: &GraphInit) -> Result<Done, Fault> {
        if !init.uid_maps.is_empty() || !init.gid_maps.is_empty() {
            let message =
                "init: layers are not kept for remapped users, start the engine without userns-remap";
            return Err(Fault::unsupported(message));
        }
        for option in &init.options {
            tracing::info!(option, "storage option of the engine is not used");
        }
        Ok(if self.holds.void()? {
            Done::Changed
        } else {
            Done::AlreadySo
        })
    }

    fn status(&self) -> Result<Vec<(String, String)>, Fault> {
        let backend = self.store.backend();
        let mut rows = vec![("Back End".to_owned(), backend.name().to_owned())];
        rows.extend(backend.status(&self.state)?);
        rows.push(("Layers".into(), self.names().len().to_string()));
        let mounted = self.holds.list().iter().filter(|(_, hold)| hold.mounted).count();
        rows.push(("Mounted Layers".into(), mounted.to_string()));
        Ok(rows)
    }

    fn create(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, false)
    }

    fn create_read_write(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, true)
    }

    fn get(&self, id: &LayerId, mount_label: &str) -> Result<PathBuf, Fault> {
        let _me = self.locks.hold(id);
        let Some(hold) = self.holds.get(id) else {
            return self.show(id, mount_label);
        };
        if hold.count == 0 && !self.is_shown(id)? {
            return self.show(id, mount_label);
        }
        let path = if hold.mounted {
            self.mountpoint(id)
        } else {
            match self.store.view(self.number(id)?)? {
                View::Directory { path } => path,
                View::Overlay { .. } => {
                    let message = format!("get layer {id}: it is held as a folder and is an overlay");
                    return Err(Fault::new(FaultKind::Corrupt, message));
                }
            }
        };
        let count = hold.count + 1;
        self.holds.set(id, Some(Hold { count, ..hold }))?;
        Ok(path)
    }

    fn put(&self, id: &LayerId) -> Result<Done, Fault> {
        let _me = self.locks.hold(id);
        let Some(hold) = self.holds.get(id) else {
            return Ok(Done::AlreadySo);
        };
        if hold.count > 1 || (hold.count == 1 && hold.inherited) {
            let count = hold.count - 1;
            self.holds.set(id, Some(Hold { count, ..hold }))?;
        } else {
            self.hide(id, hold)?;
        }
        Ok(Done::Changed)
    }

    fn exists(&self, id: &LayerId) -> Result<bool, Fault> {
        Ok(self.known(id).is_some())
    }

    fn remove(&self, id: &LayerId) -> Result<Done, Fault> {
        let _me = self.locks.hold(id);
        if self.holds.is_streaming(id) {
            return Err(Fault::in_use(format!(
                "remove layer {id}: an archive of it is under way"
            )));
        }
        match self.holds.get(id) {
            Some(Hold { count: 1.., .. }) => {
                return Err(Fault::in_use(format!("remove layer {id}: it is held")));
            }
            // Left by an engine that is gone.
            Some(hold) => self.hide(id, hold)?,
            None => {}
        }
        self.remove_mountpoint(id)?;
        let Some(number) = self.known(id) else {
            return Ok(Done::AlreadySo);
        };
        self.no_child("remove", id, number)?;
        self.store.remove(number, names::delete(Batch::new(), id))?;
        self.names().remove(id);
        Ok(Done::Changed)
    }

    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault> {
        let stack = self.stack(id)?;
        let backend = self.store.backend();
        let mut rows: BTreeMap<String, String> = backend.metadata(&stack).into_iter().collect();
        let merged = match backend.view(&stack) {
            View::Directory { path } => path,
            View::Overlay { .. } => self.mountpoint(id),
        };
        rows.insert("MergedDir".into(), merged.to_string_lossy().into_owned());
        Ok(rows)
    }

    fn changes(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<Change>, Fault> {
        let _stream = self.holds.stream(id);
        if let Some((native, stack)) = self.native(id, parent)? {
            return native.changes(&stack);
        }
        let new = self.view(id)?;
        let old = parent.map(|parent| self.view(parent)).transpose()?;
        Ok(walk::changes(new.tree(), old.as_ref().map(view::View::tree))?)
    }

    fn diff(&self, id: &LayerId, parent: Option<&LayerId>, out: &mut dyn Write) -> Result<(), Fault> {
        let _stream = self.holds.stream(id);
        if let Some((native, stack)) = self.native(id, parent)? {
            return native.diff(&stack, out);
        }
        let new = self.view(id)?;
        let old = parent.map(|parent| self.view(parent)).transpose()?;
        Ok(walk::archive(
            new.tree(),
            old.as_ref().map(view::View::tree),
            out,
        )?)
    }

    fn diff_size(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<u64, Fault> {
        let _stream = self.holds.stream(id);
        if self.native(id, parent)?.is_some() {
            return self.store.usage(self.number(id)?).map(|usage| usage.bytes);
        }
        let new = self.view(id)?;
        let old = parent.map(|parent| self.view(parent)).transpose()?;
        Ok(walk::size(new.tree(), old.as_ref().map(view::View::tree))?)
    }

    fn apply_diff(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        archive: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let (number, _stream) = {
            let _me = self.locks.hold(id);
            let number = self.number(id)?;
            if self.holds.get(id).is_some() || self.holds.is_streaming(id) {
                return Err(Fault::in_use(format!("apply to layer {id}: it is held")));
            }
            self.no_child("apply to", id, number)?;
            (number, self.holds.stream(id))
        };
        let below = parent.map(|parent| self.number(parent)).transpose()?;
        if self.store.row(number).is_none_or(|row| row.parent != below) {
            return Err(Fault::invalid(format!(
                "apply to layer {id}: the archive is not against the layer directly below it"
            )));
        }
        let rename = |batch, number| names::put(batch, id.as_str(), number);
        let (number, usage) = self.store.fill(number, archive, rename)?;
        self.names().insert(id.clone(), number);
        Ok(usage.bytes)
    }

    fn cleanup(&self) -> Result<Done, Fault> {
        let mut done = Done::AlreadySo;
        for (id, _) in self.holds.list() {
            let _me = self.locks.hold(&id);
            if let Some(hold) = self.holds.get(&id) {
                self.hide(&id, hold)?;
                done = Done::Changed;
            }
        }
        Ok(done)
    }
}
