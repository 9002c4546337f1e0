//! containerd's door to a back end: keys, states and labels over layers. It mounts nothing.
//!
//! Every snapshot that is or was written has a layer of its own, named by a number, for keys are any text. A
//! view has none: it looks at its parent's. Below them all lies one empty layer, `base`, so that a
//! snapshot upon nothing is an overlay too: containerd turns an archive's whiteouts into the kernel's only
//! where it sees an upper folder, and deletes them elsewhere.
//!
//! A snapshot is there when its record is. Its layer is made before and removed after; a layer that no
//! record speaks of goes at the next opening or cleanup. To commit is to write one record.

mod plan;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use kernel::fsutil::Lock;
use kernel::record::Records;
use plugin_api::graph::{GraphDriver, LayerKind, LayerSpec, Usage};
use plugin_api::id::LayerId;
use plugin_api::snapshot::{
    LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotKind, SnapshotMount, Snapshotter,
};
use plugin_api::{Fault, Undo};

use crate::keyed::{KeyGuard, Keyed};
use store::{Snapshot, Snapshots};

/// The empty layer below all others.
const BASE: &str = "base";

/// containerd's snapshotter over a back end.
#[derive(Debug)]
pub struct Rooms<D> {
    driver: D,
    records: Arc<Records>,
    base: LayerId,
    index: Mutex<Index>,
    /// Several are always taken in their order, so that no two callers wait for each other.
    locks: Keyed<SnapshotKey>,
    // Last: everything above is closed before the state folder is let go.
    _lock: Lock,
}

#[derive(Debug)]
struct Index {
    snapshots: Snapshots,
    /// Of committed layers, which do not change; measured when first asked for.
    usages: BTreeMap<LayerId, Usage>,
    /// Layers of snapshots that are on their way in or out.
    busy: BTreeSet<LayerId>,
    next: u64,
}

fn base_layer() -> LayerId {
    LayerId::new(BASE).expect("a plain word is a layer's id")
}

fn number(id: &LayerId) -> Option<u64> {
    id.as_str().strip_prefix('s')?.parse().ok()
}

impl<D: GraphDriver> Rooms<D> {
    /// Opens the door over a back end that nobody else uses, and makes layers and snapshots agree.
    pub fn open(driver: D, records: Arc<Records>, lock: Lock) -> Result<Self, Fault> {
        let snapshots = store::load(&records)?;
        let base = base_layer();
        let spec = LayerSpec {
            id: base.clone(),
            parent: None,
            kind: LayerKind::Image,
            quota: None,
            label: None,
        };
        driver.create(&spec)?;
        let last = driver.list()?.iter().filter_map(|layer| number(&layer.id)).max();
        let rooms = Self {
            driver,
            records,
            base,
            index: Mutex::new(Index {
                snapshots,
                usages: BTreeMap::new(),
                busy: BTreeSet::new(),
                next: last.map_or(1, |last| last + 1),
            }),
            locks: Keyed::default(),
            _lock: lock,
        };
        rooms.sweep()?;
        Ok(rooms)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold<const N: usize>(&self, mut keys: [&SnapshotKey; N]) -> Vec<KeyGuard<'_, SnapshotKey>> {
        keys.sort();
        let mut held: Vec<KeyGuard<'_, SnapshotKey>> = Vec::with_capacity(N);
        for (at, key) in keys.iter().enumerate() {
            if at == 0 || keys[at - 1] != *key {
                held.push(self.locks.hold(key));
            }
        }
        held
    }

    /// Removes layers that no snapshot speaks of, topmost first.
    fn sweep(&self) -> Result<(), Fault> {
        loop {
            let layers = self.driver.list()?;
            let parents: BTreeSet<&LayerId> =
                layers.iter().filter_map(|layer| layer.parent.as_ref()).collect();
            let index = self.index();
            let used: BTreeSet<&LayerId> = index
                .snapshots
                .values()
                .filter_map(|one| one.layer.as_ref())
                .collect();
            let unused = |id: &LayerId| *id != self.base && !used.contains(id) && !index.busy.contains(id);
            let gone: Vec<LayerId> = layers
                .iter()
                .map(|layer| &layer.id)
                .filter(|id| unused(id) && !parents.contains(id))
                .cloned()
                .collect();
            drop(used);
            drop(index);
            if gone.is_empty() {
                return Ok(());
            }
            for id in gone {
                tracing::info!(layer = id.as_str(), "remove a layer of no snapshot");
                self.driver.remove(&id)?;
            }
        }
    }

    /// The layer on which a snapshot stands.
    fn below(&self, parent: Option<&SnapshotKey>) -> Result<LayerId, Fault> {
        let Some(parent) = parent else {
            return Ok(self.base.clone());
        };
        let index = self.index();
        let layer = plan::find(&index.snapshots, parent)?.layer.clone();
        layer.ok_or_else(|| Fault::internal(format!("snapshot {parent} is committed without a layer")))
    }

    fn describe(&self, snapshot: &Snapshot) -> Result<Vec<SnapshotMount>, Fault> {
        let (layer, write) = match &snapshot.layer {
            Some(layer) => (layer.clone(), true),
            None => (self.below(snapshot.parent.as_ref())?, false),
        };
        let specs = self.driver.mounts(&layer)?;
        specs.into_iter().map(|spec| plan::mount(spec, write)).collect()
    }

    fn make(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        let _held = self.hold([key, parent.unwrap_or(key)]);
        plan::make(&self.index().snapshots, key, parent)?;
        let labels = plan::labels(&Labels::new(), &LabelChange::All(labels.clone()))?;
        let below = self.below(parent)?;
        let now = SystemTime::now();
        let mut snapshot = Snapshot {
            layer: None,
            parent: parent.cloned(),
            kind,
            created: now,
            updated: now,
            labels,
        };
        if kind == SnapshotKind::View {
            return self.enter(key, snapshot);
        }
        let layer = {
            let mut index = self.index();
            let layer = LayerId::new(format!("s{}", index.next))?;
            index.next += 1;
            index.busy.insert(layer.clone());
            layer
        };
        snapshot.layer = Some(layer.clone());
        let made = self.build(&layer, below).and_then(|()| {
            let mut undo = Undo::new();
            undo.push("remove its layer", || self.driver.remove(&layer).map(drop));
            match self.enter(key, snapshot) {
                Ok(mounts) => {
                    undo.keep();
                    Ok(mounts)
                }
                Err(fault) => Err(undo.unwind(fault)),
            }
        });
        self.index().busy.remove(&layer);
        made
    }

    fn build(&self, layer: &LayerId, below: LayerId) -> Result<(), Fault> {
        let spec = LayerSpec {
            id: layer.clone(),
            parent: Some(below),
            kind: LayerKind::Container,
            quota: None,
            label: None,
        };
        self.driver.create(&spec).map(drop)
    }

    /// The last beat of making one: nothing that can fail comes after the record.
    fn enter(&self, key: &SnapshotKey, snapshot: Snapshot) -> Result<Vec<SnapshotMount>, Fault> {
        let mounts = self.describe(&snapshot)?;
        store::save(&self.records, None, key, &snapshot)?;
        self.index().snapshots.insert(key.clone(), snapshot);
        Ok(mounts)
    }
}

impl<D: GraphDriver> Snapshotter for Rooms<D> {
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        self.make(key, parent, SnapshotKind::Active, labels)
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        self.make(key, parent, SnapshotKind::View, labels)
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>, Fault> {
        let snapshot = plan::find(&self.index().snapshots, key)?.clone();
        if snapshot.kind == SnapshotKind::Committed {
            let message = format!("mount snapshot {key}: it is committed, make a view of it");
            return Err(Fault::wrong_state(message));
        }
        self.describe(&snapshot)
    }

    fn commit(&self, name: &SnapshotKey, key: &SnapshotKey, labels: &Labels) -> Result<(), Fault> {
        let _held = self.hold([name, key]);
        let mut snapshot = plan::commit(&self.index().snapshots, name, key)?;
        snapshot.labels = plan::labels(&Labels::new(), &LabelChange::All(labels.clone()))?;
        snapshot.kind = SnapshotKind::Committed;
        snapshot.created = SystemTime::now();
        snapshot.updated = snapshot.created;
        store::save(&self.records, Some(key), name, &snapshot)?;
        let mut index = self.index();
        index.snapshots.remove(key);
        index.snapshots.insert(name.clone(), snapshot);
        Ok(())
    }

    fn remove(&self, key: &SnapshotKey) -> Result<(), Fault> {
        let _held = self.hold([key]);
        let snapshot = plan::remove(&self.index().snapshots, key)?;
        store::forget(&self.records, key)?;
        let mut index = self.index();
        index.snapshots.remove(key);
        let Some(layer) = snapshot.layer else {
            return Ok(());
        };
        index.usages.remove(&layer);
        index.busy.insert(layer.clone());
        drop(index);
        if let Err(fault) = self.driver.remove(&layer) {
            // The snapshot is gone; its layer goes at the next cleanup or opening.
            tracing::warn!(layer = layer.as_str(), "{}", fault.sentence());
        }
        self.index().busy.remove(&layer);
        Ok(())
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo, Fault> {
        plan::find(&self.index().snapshots, key).map(|snapshot| snapshot.info(key))
    }

    fn update(&self, key: &SnapshotKey, change: &LabelChange) -> Result<SnapshotInfo, Fault> {
        let _held = self.hold([key]);
        let mut snapshot = plan::find(&self.index().snapshots, key)?.clone();
        snapshot.labels = plan::labels(&snapshot.labels, change)?;
        snapshot.updated = SystemTime::now();
        store::save(&self.records, None, key, &snapshot)?;
        let info = snapshot.info(key);
        self.index().snapshots.insert(key.clone(), snapshot);
        Ok(info)
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>, Fault> {
        let index = self.index();
        Ok(index.snapshots.iter().map(|(key, one)| one.info(key)).collect())
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage, Fault> {
        let (layer, kind) = {
            let index = self.index();
            let snapshot = plan::find(&index.snapshots, key)?;
            let Some(layer) = snapshot.layer.clone() else {
                return Ok(Usage::default());
            };
            if let Some(usage) = index.usages.get(&layer) {
                return Ok(*usage);
            }
            (layer, snapshot.kind)
        };
        let usage = self.driver.usage(&layer)?;
        let mut index = self.index();
        if kind == SnapshotKind::Committed && index.snapshots.contains_key(key) {
            index.usages.insert(layer, usage);
        }
        Ok(usage)
    }

    fn cleanup(&self) -> Result<(), Fault> {
        self.sweep()?;
        self.driver.settle()
    }
}
