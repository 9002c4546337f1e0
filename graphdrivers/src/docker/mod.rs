//! Docker's door to a back end: mounts, counts of holds, archives.
//!
//! No lock is held across an archive, for an engine reads one layer while it writes the next. What must
//! not happen meanwhile (a removal) is refused as in use.

mod options;
mod view;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kernel::fsutil::{self, Lock};
use kernel::mount::{self, Mounts, Overlay};
use kernel::record::Records;
use plugin_api::graph::{
    Change, GraphDriver, GraphInit, GraphPlugin, LayerKind, LayerSpec, MountSpec, NativeDiff, NewLayer,
};
use plugin_api::id::LayerId;
use plugin_api::{Done, Fault, FaultKind, Undo};

use crate::archive::walk;
use crate::holds::{Hold, Holds};
use crate::kernel_fault;
use crate::keyed::Keyed;

/// Docker's graph plugin over a back end.
///
/// ```text
/// STATE/mounts/ID   where a held layer is mounted
/// STATE/views/N     read-only mounts of one comparison
/// ```
#[derive(Debug)]
pub struct Door<D> {
    driver: D,
    state: PathBuf,
    holds: Holds,
    locks: Keyed<LayerId>,
    next_view: AtomicU64,
    // Last: everything above is closed before the state folder is let go.
    _lock: Lock,
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

impl<D: GraphDriver> Door<D> {
    /// Opens the door over `state`, which `lock` keeps for this process, and makes records and mounts
    /// agree.
    pub fn open(driver: D, state: &Path, records: Arc<Records>, lock: Lock) -> Result<Self, Fault> {
        for name in ["mounts", "views"] {
            fsutil::make_dir(&state.join(name), 0o700).map_err(kernel_fault)?;
        }
        let door = Self {
            driver,
            state: state.to_owned(),
            holds: Holds::open(records)?,
            locks: Keyed::default(),
            next_view: AtomicU64::new(0),
            _lock: lock,
        };
        door.reconcile()?;
        Ok(door)
    }

    fn mountpoint(&self, id: &LayerId) -> PathBuf {
        self.state.join("mounts").join(id.as_str())
    }

    fn reconcile(&self) -> Result<(), Fault> {
        let mounts = Mounts::read().map_err(kernel_fault)?;
        let mut kept: Vec<PathBuf> = Vec::new();
        for (id, hold) in self.holds.list() {
            let path = self.mountpoint(&id);
            let known = self.driver.stat(&id).is_ok();
            if known && (!hold.mounted || mounts.at(&path).is_some()) {
                kept.push(path);
            } else {
                tracing::info!(layer = id.as_str(), "forget holds of a layer that is not mounted");
                self.holds.set(&id, None)?;
            }
        }
        let (ours, views) = (self.state.join("mounts"), self.state.join("views"));
        for mount in mounts.under(&ours).chain(mounts.under(&views)) {
            if !kept.contains(&mount.target) && mount.target != ours && mount.target != views {
                tracing::info!(target = %mount.target.display(), "unmount what nobody holds");
                mount::unmount_detached(&mount.target).map_err(kernel_fault)?;
            }
        }
        for folder in [ours, views] {
            sweep(&folder, &kept)?;
        }
        Ok(())
    }

    fn make(&self, layer: &NewLayer, kind: LayerKind) -> Result<Done, Fault> {
        let spec = LayerSpec {
            id: layer.id.clone(),
            parent: layer.parent.clone(),
            kind,
            quota: options::quota(&layer.options)?,
            label: Some(layer.mount_label.clone()).filter(|label| !label.is_empty()),
        };
        self.driver.create(&spec)
    }

    /// The one mount of a layer.
    fn spec(&self, id: &LayerId) -> Result<MountSpec, Fault> {
        let mut specs = self.driver.mounts(id)?;
        match specs.pop() {
            Some(spec) if specs.is_empty() => Ok(spec),
            _ => Err(Fault::internal(format!(
                "mount layer {id}: its back end names not one mount"
            ))),
        }
    }

    /// The first hold: the record, the folder, the mount.
    fn show(&self, id: &LayerId, label: &str) -> Result<PathBuf, Fault> {
        let (lowers, upper, own_label) = match self.spec(id)? {
            MountSpec::Directory { path } => {
                let hold = Hold {
                    count: 1,
                    ..Hold::default()
                };
                self.holds.set(id, Some(hold))?;
                return Ok(path);
            }
            MountSpec::Overlay { lowers, upper, label } => (lowers, upper, label),
        };
        let label = Some(label)
            .filter(|label| !label.is_empty())
            .or(own_label.as_deref());
        let path = self.mountpoint(id);
        self.holds.set(
            id,
            Some(Hold {
                count: 1,
                mounted: true,
                inherited: false,
            }),
        )?;
        let mut undo = Undo::new();
        undo.push("forget the hold", || self.holds.set(id, None));
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
    fn native(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Option<&dyn NativeDiff>, Fault> {
        if self.driver.stat(id)?.parent.as_ref() == parent {
            return Ok(self.driver.native_diff());
        }
        if let Some(parent) = parent {
            self.driver.stat(parent)?;
        }
        Ok(None)
    }
}

impl<D: GraphDriver> GraphPlugin for Door<D> {
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
        let mut rows = self.driver.probe()?.rows;
        rows.insert(0, ("Back End".into(), self.driver.name().into()));
        let mounted = self.holds.list().iter().filter(|(_, hold)| hold.mounted).count();
        rows.push(("Mounted Layers".into(), mounted.to_string()));
        Ok(rows)
    }

    fn create(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, LayerKind::Image)
    }

    fn create_read_write(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.make(layer, LayerKind::Container)
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
            match self.spec(id)? {
                MountSpec::Directory { path } => path,
                MountSpec::Overlay { .. } => {
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
        match self.driver.stat(id) {
            Ok(_) => Ok(true),
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(false),
            Err(fault) => Err(fault),
        }
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
        self.driver.remove(id)
    }

    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault> {
        let mut rows = self.driver.metadata(id)?;
        let merged = match self.spec(id)? {
            MountSpec::Directory { path } => path,
            MountSpec::Overlay { .. } => self.mountpoint(id),
        };
        rows.insert("MergedDir".into(), merged.to_string_lossy().into_owned());
        Ok(rows)
    }

    fn changes(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<Change>, Fault> {
        let _stream = self.holds.stream(id);
        if let Some(native) = self.native(id, parent)? {
            return native.changes(id);
        }
        let new = self.view(id)?;
        let old = parent.map(|parent| self.view(parent)).transpose()?;
        Ok(walk::changes(new.tree(), old.as_ref().map(view::View::tree))?)
    }

    fn diff(&self, id: &LayerId, parent: Option<&LayerId>, out: &mut dyn Write) -> Result<(), Fault> {
        let _stream = self.holds.stream(id);
        if let Some(native) = self.native(id, parent)? {
            return native.diff(id, out);
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
            return self.driver.usage(id).map(|usage| usage.bytes);
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
        let stream = {
            let _me = self.locks.hold(id);
            if self.holds.get(id).is_some() || self.holds.is_streaming(id) {
                return Err(Fault::in_use(format!("apply to layer {id}: it is held")));
            }
            self.holds.stream(id)
        };
        let result = match self.native(id, parent)? {
            Some(native) => native.apply(id, archive),
            None => Err(Fault::invalid(format!(
                "apply to layer {id}: the archive is not against the layer directly below it"
            ))),
        };
        drop(stream);
        result
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
