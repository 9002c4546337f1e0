//! The driver: plan, hands, record.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::fsutil::{self, Folder, Trash};
use kernel::record::Records;
use plugin_api::graph::{
    Change, GraphDriver, LayerInfo, LayerKind, LayerSpec, MountSpec, NativeDiff, Probe, Usage,
};
use plugin_api::id::LayerId;
use plugin_api::{Done, Fault, FaultKind, Undo};

use super::plan::{self, Layers};
use super::probe;
use super::store::{self, Counter, Layer, State};
use crate::archive::{apply, diff};
use crate::kernel_fault;
use crate::keyed::Keyed;

/// Mode, owner and group of a layer's root that nobody described.
const ROOT: (u32, u32, u32) = (0o755, 0, 0);

/// How long unlinking may take before nobody waits for it any more.
const SETTLES: Duration = Duration::from_secs(60);

/// The overlay driver over one state folder.
#[derive(Debug)]
pub struct Driver {
    state: PathBuf,
    records: Arc<Records>,
    index: Mutex<Index>,
    /// A child is locked before its parent, never the other way round.
    locks: Keyed<LayerId>,
    trash: Trash,
}

#[derive(Debug)]
struct Index {
    layers: Layers,
    counter: Counter,
}

impl Driver {
    /// Opens the layers of a state folder that the caller has locked, and repairs what a death left.
    pub fn open(state: &Path, records: Arc<Records>) -> Result<Self, Fault> {
        for name in ["layers", "staging"] {
            fsutil::make_dir(&state.join(name), 0o700).map_err(kernel_fault)?;
        }
        let index = Index {
            layers: store::load(&records)?,
            counter: Counter::load(&records)?,
        };
        let driver = Self {
            state: state.to_owned(),
            records,
            index: Mutex::new(index),
            locks: Keyed::default(),
            trash: Trash::open(&state.join("trash")).map_err(kernel_fault)?,
        };
        driver.sweep()?;
        driver.empty_halves()?;
        driver.probe_once()?;
        Ok(driver)
    }

    /// Whatever no record speaks of was on its way in or out.
    fn sweep(&self) -> Result<(), Fault> {
        let known: BTreeSet<String> = self
            .index()
            .layers
            .values()
            .map(|layer| layer.short.clone())
            .collect();
        for (folder, keep) in [("staging", false), ("layers", true)] {
            let path = self.state.join(folder);
            let folder = Folder::open(&path).map_err(kernel_fault)?;
            for entry in folder.entries().map_err(kernel_fault)? {
                let recorded = entry.name.to_str().is_some_and(|name| known.contains(name));
                if !(keep && recorded) {
                    let path = path.join(&entry.name);
                    tracing::info!(path = %path.display(), "sweep what a death left");
                    self.trash.take(&path).map_err(kernel_fault)?;
                }
            }
        }
        Ok(())
    }

    /// An archive that did not come in wholly did not come in.
    fn empty_halves(&self) -> Result<(), Fault> {
        let layers = self.index().layers.clone();
        for (id, layer) in layers {
            if layer.state == State::Applying {
                tracing::info!(
                    layer = id.as_str(),
                    "empty a layer whose archive did not come in wholly"
                );
                let fresh = self.stage(&layer)?;
                fsutil::exchange_synced(&fresh, &plan::tree(&self.state, &layer)).map_err(kernel_fault)?;
                self.trash.take(&fresh).map_err(kernel_fault)?;
                self.save(&id, empty(layer))?;
            }
        }
        Ok(())
    }

    fn probe_once(&self) -> Result<(), Fault> {
        let scratch = self.state.join("staging/probe");
        fsutil::make_dir(&scratch, 0o700).map_err(kernel_fault)?;
        let result = probe::require(&scratch);
        fsutil::remove_tree(&scratch).map_err(kernel_fault)?;
        result
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, id: &LayerId, layer: Layer) -> Result<(), Fault> {
        store::save(&self.records, id, &layer)?;
        self.index().layers.insert(id.clone(), layer);
        Ok(())
    }

    fn layer(&self, id: &LayerId) -> Result<Layer, Fault> {
        plan::find(&self.index().layers, id).cloned()
    }

    fn lowers(&self, id: &LayerId) -> Result<(Layer, Vec<PathBuf>), Fault> {
        let index = self.index();
        let layer = plan::find(&index.layers, id)?;
        let below = plan::below(&index.layers, layer)?;
        let lowers = below.iter().map(|layer| plan::tree(&self.state, layer));
        Ok((layer.clone(), lowers.collect()))
    }

    /// What a layer's root looks like before anything describes it: as its parent's.
    fn root_of(&self, parent: Option<&LayerId>) -> Result<(u32, u32, u32), Fault> {
        let Some(parent) = parent else {
            return Ok(ROOT);
        };
        let tree = plan::tree(&self.state, &self.layer(parent)?);
        let meta = Folder::open(&tree).and_then(|folder| folder.stat_self());
        let meta = meta.map_err(kernel_fault)?;
        Ok((meta.mode, meta.uid, meta.gid))
    }

    fn make_root(&self, path: &Path, parent: Option<&LayerId>) -> Result<(), Fault> {
        let (mode, uid, gid) = self.root_of(parent)?;
        fsutil::make_dir(path, 0o700).map_err(kernel_fault)?;
        let folder = Folder::open(path).map_err(kernel_fault)?;
        folder.chown_self(uid, gid).map_err(kernel_fault)?;
        folder.chmod_self(mode).map_err(kernel_fault)
    }

    /// A place that nobody had before: what is left there after a failure may be removed at leisure.
    fn staging(&self, layer: &Layer) -> PathBuf {
        let name = format!("{}.{}", layer.short, self.trash.number());
        self.state.join("staging").join(name)
    }

    /// An empty tree for a layer, not in its place yet.
    fn stage(&self, layer: &Layer) -> Result<PathBuf, Fault> {
        let path = self.staging(layer);
        let made = self.make_root(&path, layer.parent.as_ref());
        if made.is_err() {
            self.trash.take_at_leisure(&path);
        }
        made.map(|()| path)
    }

    fn build(&self, layer: &Layer) -> Result<(), Fault> {
        let staging = self.staging(layer);
        let home = plan::home(&self.state, &layer.short);
        let mut undo = Undo::new();
        let steps = || -> Result<(), Fault> {
            fsutil::make_dir(&staging, 0o700).map_err(kernel_fault)?;
            self.make_root(&staging.join("fs"), layer.parent.as_ref())?;
            if layer.kind == LayerKind::Container {
                fsutil::make_dir(&staging.join("work"), 0o700).map_err(kernel_fault)?;
            }
            fsutil::fsync_dir(&staging).map_err(kernel_fault)?;
            fsutil::rename_synced(&staging, &home).map_err(kernel_fault)
        };
        undo.push(format!("remove {}", staging.display()), || {
            fsutil::remove_tree(&staging).map(drop)
        });
        match steps() {
            Ok(()) => {
                undo.keep();
                Ok(())
            }
            Err(fault) => Err(undo.unwind(fault)),
        }
    }

    fn unpack(&self, layer: &Layer, lowers: &[PathBuf], archive: &mut dyn Read) -> Result<Usage, Fault> {
        let staging = self.stage(layer)?;
        let mut run = || -> Result<Usage, Fault> {
            apply::unpack(&staging, lowers, archive)?;
            let usage = fsutil::tree_usage(&staging).map_err(kernel_fault)?;
            // The content is on disk before its place and the record say so.
            fsutil::sync_filesystem(&staging).map_err(kernel_fault)?;
            let tree = plan::tree(&self.state, layer);
            fsutil::exchange_synced(&staging, &tree).map_err(kernel_fault)?;
            Ok(Usage {
                bytes: usage.bytes,
                inodes: usage.inodes,
            })
        };
        let result = run();
        // What was there before, or what came in by half.
        self.trash.take_at_leisure(&staging);
        result
    }
}

fn empty(mut layer: Layer) -> Layer {
    layer.state = State::Empty;
    layer.usage = Usage::default();
    layer
}

fn info(id: &LayerId, layer: &Layer) -> LayerInfo {
    LayerInfo {
        id: id.clone(),
        parent: layer.parent.clone(),
        kind: layer.kind,
    }
}

impl GraphDriver for Driver {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn probe(&self) -> Result<Probe, Fault> {
        let layers = self.index().layers.len();
        probe::rows(&self.state, layers)
    }

    fn create(&self, spec: &LayerSpec) -> Result<Done, Fault> {
        if spec.parent.as_ref() == Some(&spec.id) {
            return Err(Fault::invalid(format!(
                "create layer {}: it is its own parent",
                spec.id
            )));
        }
        let _me = self.locks.hold(&spec.id);
        let _parent = spec.parent.as_ref().map(|parent| self.locks.hold(parent));
        let short = {
            let mut index = self.index();
            if !plan::create(&index.layers, spec)? {
                return Ok(Done::AlreadySo);
            }
            plan::short_name(index.counter.take(&self.records)?)
        };
        let layer = Layer {
            short,
            parent: spec.parent.clone(),
            kind: spec.kind,
            label: spec.label.clone().filter(|label| !label.is_empty()),
            state: State::Empty,
            usage: Usage::default(),
        };
        self.build(&layer)?;
        let home = plan::home(&self.state, &layer.short);
        if let Err(fault) = self.save(&spec.id, layer) {
            let mut undo = Undo::new();
            undo.push("move the layer to the trash", || self.trash.take(&home));
            return Err(undo.unwind(fault));
        }
        Ok(Done::Changed)
    }

    fn mounts(&self, id: &LayerId) -> Result<Vec<MountSpec>, Fault> {
        let index = self.index();
        Ok(vec![plan::mount(&index.layers, &self.state, id)?])
    }

    fn remove(&self, id: &LayerId) -> Result<Done, Fault> {
        let _me = self.locks.hold(id);
        let layer = {
            let index = self.index();
            if !plan::remove(&index.layers, id)? {
                return Ok(Done::AlreadySo);
            }
            plan::find(&index.layers, id)?.clone()
        };
        store::forget(&self.records, id)?;
        self.index().layers.remove(id);
        // It is forgotten, and its place is never used again.
        self.trash.take_at_leisure(&plan::home(&self.state, &layer.short));
        Ok(Done::Changed)
    }

    fn stat(&self, id: &LayerId) -> Result<LayerInfo, Fault> {
        self.layer(id).map(|layer| info(id, &layer))
    }

    fn list(&self) -> Result<Vec<LayerInfo>, Fault> {
        let index = self.index();
        Ok(index.layers.iter().map(|(id, layer)| info(id, layer)).collect())
    }

    fn usage(&self, id: &LayerId) -> Result<Usage, Fault> {
        let layer = self.layer(id)?;
        if layer.state == State::Filled {
            return Ok(layer.usage);
        }
        let usage = fsutil::tree_usage(&plan::tree(&self.state, &layer)).map_err(kernel_fault)?;
        Ok(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        })
    }

    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault> {
        let (layer, lowers) = self.lowers(id)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut rows = BTreeMap::new();
        rows.insert("UpperDir".into(), text(&plan::tree(&self.state, &layer)));
        if layer.kind == LayerKind::Container {
            let work = plan::home(&self.state, &layer.short).join("work");
            rows.insert("WorkDir".into(), text(&work));
        }
        if !lowers.is_empty() {
            let lowers: Vec<String> = lowers.iter().map(|path| text(path)).collect();
            rows.insert("LowerDir".into(), lowers.join(":"));
        }
        Ok(rows)
    }

    fn settle(&self) -> Result<(), Fault> {
        if self.trash.wait_empty(SETTLES).map_err(kernel_fault)? {
            return Ok(());
        }
        let message = format!("wait until {} is empty", self.state.join("trash").display());
        Err(Fault::new(FaultKind::Timeout, message))
    }

    fn native_diff(&self) -> Option<&dyn NativeDiff> {
        Some(self)
    }
}

impl NativeDiff for Driver {
    fn diff(&self, id: &LayerId, out: &mut dyn Write) -> Result<(), Fault> {
        let layer = self.layer(id)?;
        let root = self.root_of(layer.parent.as_ref())?;
        Ok(diff::archive(&plan::tree(&self.state, &layer), root, out)?)
    }

    fn changes(&self, id: &LayerId) -> Result<Vec<Change>, Fault> {
        let (layer, lowers) = self.lowers(id)?;
        Ok(diff::changes(&plan::tree(&self.state, &layer), &lowers)?)
    }

    fn apply(&self, id: &LayerId, archive: &mut dyn Read) -> Result<u64, Fault> {
        let _me = self.locks.hold(id);
        let (layer, lowers) = self.lowers(id)?;
        if layer.kind != LayerKind::Image {
            return Err(Fault::invalid(format!(
                "apply to layer {id}: it is a container's"
            )));
        }
        if let Some(child) = plan::child(&self.index().layers, id) {
            let message = format!("apply to layer {id}: layer {child} lies upon it");
            return Err(Fault::in_use(message));
        }
        let mut applying = layer.clone();
        applying.state = State::Applying;
        self.save(id, applying)?;
        match self.unpack(&layer, &lowers, archive) {
            Ok(usage) => {
                let filled = Layer {
                    state: State::Filled,
                    usage,
                    ..layer
                };
                self.save(id, filled)?;
                Ok(usage.bytes)
            }
            Err(fault) => {
                // The tree in place is the one from before.
                self.save(id, layer)?;
                Err(fault)
            }
        }
    }
}
