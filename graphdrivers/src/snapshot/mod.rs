//! containerd's door to the store: keys, states and labels over layers. It mounts nothing.
//!
//! Every snapshot that is or was written has a layer of its own. A view has none: it looks at its parent's.
//! Below them all lies one empty layer, so that a snapshot upon nothing is an overlay too: containerd turns
//! an archive's whiteouts into the kernel's only where it sees an upper folder, and deletes them elsewhere.
//!
//! A snapshot is recorded in one step with its layer, and forgotten with it. To commit is to flush what was
//! written and to write one record.

mod plan;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use kernel::record::Batch;
use plugin_api::Fault;
use plugin_api::graph::Usage;
use plugin_api::snapshot::{
    LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotKind, SnapshotMount, Snapshotter,
};

use crate::kernel_fault;
use crate::keyed::{KeyGuard, Keyed};
use crate::store::{Fresh, Number, Store, names};
use store::{Snapshot, Snapshots};

/// containerd's snapshotter over the store.
#[derive(Debug)]
pub struct Rooms {
    store: Arc<Store>,
    /// The empty layer below all others.
    base: Number,
    index: Mutex<Snapshots>,
    /// Several are always taken in their order, so that no two callers wait for each other.
    locks: Keyed<SnapshotKey>,
}

impl Rooms {
    /// Opens the door.
    pub fn open(store: Arc<Store>) -> Result<Self, Fault> {
        let base = match names::base(store.records())? {
            Some(base) => base,
            None => store.create(&Fresh::default(), names::put_base)?,
        };
        Ok(Self {
            index: Mutex::new(store::load(store.records())?),
            store,
            base,
            locks: Keyed::default(),
        })
    }

    fn index(&self) -> MutexGuard<'_, Snapshots> {
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

    /// A key alone, and what it is to stand upon together with all others that are made upon it. Always in the
    /// order of their names, so that nobody waits in a circle.
    fn hold_upon(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
    ) -> [Option<KeyGuard<'_, SnapshotKey>>; 2] {
        let parent = parent.filter(|parent| *parent != key);
        let first = parent.filter(|parent| *parent < key);
        let shared = first.map(|parent| self.locks.share(parent));
        let alone = Some(self.locks.hold(key));
        match first {
            Some(_) => [shared, alone],
            None => [alone, parent.map(|parent| self.locks.share(parent))],
        }
    }

    /// The layer on which a snapshot stands.
    fn below(&self, parent: Option<&SnapshotKey>) -> Result<Number, Fault> {
        let Some(parent) = parent else {
            return Ok(self.base);
        };
        let layer = plan::find(&self.index(), parent)?.layer;
        layer.ok_or_else(|| Fault::internal(format!("snapshot {parent} is committed without a layer")))
    }

    fn describe(&self, snapshot: &Snapshot) -> Result<Vec<SnapshotMount>, Fault> {
        let (layer, write) = match snapshot.layer {
            Some(layer) => (layer, true),
            None => (self.below(snapshot.parent.as_ref())?, false),
        };
        Ok(vec![plan::mount(self.store.view(layer)?, write)?])
    }

    fn make(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        let _held = self.hold_upon(key, parent);
        plan::make(&self.index(), key, parent)?;
        let labels = plan::labels(&Labels::new(), &LabelChange::All(labels.clone()))?;
        // What would make every description fail is told before anything is made.
        plan::text(self.store.state())?;
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
            let mounts = self.describe(&snapshot)?;
            self.save(&store::put(Batch::new(), key, &snapshot))?;
            self.index().insert(key.clone(), snapshot);
            return Ok(mounts);
        }
        let fresh = Fresh {
            parent: Some(below),
            writable: true,
            ..Fresh::default()
        };
        self.store.create(&fresh, |batch, number| {
            snapshot.layer = Some(number);
            store::put(batch, key, &snapshot)
        })?;
        let mounts = self.describe(&snapshot);
        self.index().insert(key.clone(), snapshot);
        mounts
    }

    /// Makes `key` unchangeable under `name`, upon `parent` where one is given late. The caller holds all three.
    fn enter(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<(), Fault> {
        let mut snapshot = plan::commit(&self.index(), name, key)?;
        if let Some(parent) = parent {
            plan::rebase(&self.index(), key, &snapshot, parent)?;
            snapshot.parent = Some(parent.clone());
        }
        snapshot.labels = plan::labels(&Labels::new(), &LabelChange::All(labels.clone()))?;
        snapshot.kind = SnapshotKind::Committed;
        snapshot.created = SystemTime::now();
        snapshot.updated = snapshot.created;
        let batch = store::put(store::delete(Batch::new(), key), name, &snapshot);
        match snapshot.layer {
            Some(layer) => {
                let below = self.below(snapshot.parent.as_ref())?;
                self.store.seal(layer, Some(below), batch)?;
            }
            None => self.save(&batch)?,
        }
        let mut index = self.index();
        index.remove(key);
        index.insert(name.clone(), snapshot);
        Ok(())
    }

    fn save(&self, batch: &Batch) -> Result<(), Fault> {
        self.store.records().commit(batch).map_err(kernel_fault)
    }
}

impl Snapshotter for Rooms {
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
        let snapshot = plan::find(&self.index(), key)?.clone();
        if snapshot.kind == SnapshotKind::Committed {
            let message = format!("mount snapshot {key}: it is committed, make a view of it");
            return Err(Fault::wrong_state(message));
        }
        self.describe(&snapshot)
    }

    fn commit(&self, name: &SnapshotKey, key: &SnapshotKey, labels: &Labels) -> Result<(), Fault> {
        let _held = self.hold([name, key]);
        self.enter(name, key, None, labels)
    }

    fn commit_upon(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: &SnapshotKey,
        labels: &Labels,
    ) -> Result<(), Fault> {
        let _held = self.hold([name, key, parent]);
        self.enter(name, key, Some(parent), labels)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<(), Fault> {
        let _held = self.hold([key]);
        let snapshot = plan::remove(&self.index(), key)?;
        let batch = store::delete(Batch::new(), key);
        match snapshot.layer {
            Some(layer) => self.store.remove(layer, batch)?,
            None => self.save(&batch)?,
        }
        self.index().remove(key);
        Ok(())
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo, Fault> {
        plan::find(&self.index(), key).map(|snapshot| snapshot.info(key))
    }

    fn update(&self, key: &SnapshotKey, change: &LabelChange) -> Result<SnapshotInfo, Fault> {
        let _held = self.hold([key]);
        let mut snapshot = plan::find(&self.index(), key)?.clone();
        snapshot.labels = plan::labels(&snapshot.labels, change)?;
        snapshot.updated = SystemTime::now();
        self.save(&store::put(Batch::new(), key, &snapshot))?;
        let info = snapshot.info(key);
        self.index().insert(key.clone(), snapshot);
        Ok(info)
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>, Fault> {
        let index = self.index();
        Ok(index.iter().map(|(key, one)| one.info(key)).collect())
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage, Fault> {
        let layer = plan::find(&self.index(), key)?.layer;
        layer.map_or_else(|| Ok(Usage::default()), |layer| self.store.usage(layer))
    }

    fn cleanup(&self) -> Result<(), Fault> {
        self.store.settle()
    }
}
