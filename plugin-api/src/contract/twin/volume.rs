//! Volumes as plain directories below a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::locked;
use crate::fault::{Fault, FaultKind};
use crate::id::{HolderId, VolumeName};
use crate::volume::{Scope, VolumeDriver, VolumeInfo};
use crate::{Done, EnginePeer, Options};

#[derive(Debug, Clone)]
struct Entry {
    options: Options,
    created: SystemTime,
    holds: BTreeMap<HolderId, u32>,
    /// Holders that were there when an engine arrived and have not mounted since.
    stale: BTreeSet<HolderId>,
}

/// A volume driver whose volumes are directories. It knows the option `size` and does not enforce it.
#[derive(Debug)]
pub struct Volume {
    home: PathBuf,
    volumes: Arc<Mutex<BTreeMap<VolumeName, Entry>>>,
}

impl Volume {
    /// Keeps its volumes below `home`, which need not exist yet.
    pub fn open(home: &Path) -> Result<Self, Fault> {
        fs::create_dir_all(home).map_err(|error| io("open folder", home, error))?;
        Ok(Self {
            home: home.to_path_buf(),
            volumes: Arc::default(),
        })
    }

    /// The twin as a new process finds it.
    pub fn restarted(&self) -> Self {
        Self {
            home: self.home.clone(),
            volumes: Arc::clone(&self.volumes),
        }
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.home.join(name.as_str())
    }

    fn info(&self, name: &VolumeName, entry: &Entry) -> VolumeInfo {
        VolumeInfo {
            name: name.clone(),
            mountpoint: (!entry.holds.is_empty()).then(|| self.path(name)),
            created: Some(entry.created),
            status: BTreeMap::from([("holders".into(), entry.holds.len().to_string())]),
        }
    }
}

fn io(what: &str, path: &Path, error: std::io::Error) -> Fault {
    Fault::new(FaultKind::Internal, format!("{what} {}", path.display())).because(error)
}

fn unknown(name: &VolumeName) -> Fault {
    Fault::not_found(format!("volume {name} does not exist"))
}

impl VolumeDriver for Volume {
    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn engine_arrived(&self, _peer: EnginePeer) {
        for entry in locked(&self.volumes).values_mut() {
            entry.stale = entry.holds.keys().cloned().collect();
        }
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        if let Some(key) = options.keys().find(|key| *key != "size") {
            let key = crate::id::quoted(key);
            return Err(Fault::invalid(format!(
                "create volume {name}: unknown option {key}, known is size"
            )));
        }
        let mut volumes = locked(&self.volumes);
        if let Some(entry) = volumes.get(name) {
            if entry.options == *options {
                return Ok(Done::AlreadySo);
            }
            let text = format!(
                "volume {name} exists with options {:?}, not {options:?}",
                entry.options
            );
            return Err(Fault::already_exists(text));
        }
        let path = self.path(name);
        fs::create_dir(&path).map_err(|error| io("create directory", &path, error))?;
        let entry = Entry {
            options: options.clone(),
            created: SystemTime::now(),
            holds: BTreeMap::new(),
            stale: BTreeSet::new(),
        };
        volumes.insert(name.clone(), entry);
        Ok(Done::Changed)
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        let mut volumes = locked(&self.volumes);
        let Some(entry) = volumes.get(name) else {
            return Ok(Done::AlreadySo);
        };
        if let Some(holder) = entry.holds.keys().next() {
            return Err(Fault::in_use(format!("remove volume {name}: held by {holder}")));
        }
        let path = self.path(name);
        fs::remove_dir_all(&path).map_err(|error| io("remove directory", &path, error))?;
        volumes.remove(name);
        Ok(Done::Changed)
    }

    fn mount(&self, name: &VolumeName, holder: &HolderId, _peer: EnginePeer) -> Result<PathBuf, Fault> {
        let mut volumes = locked(&self.volumes);
        let entry = volumes.get_mut(name).ok_or_else(|| unknown(name))?;
        let count = entry.holds.entry(holder.clone()).or_default();
        *count = if entry.stale.remove(holder) { 1 } else { *count + 1 };
        Ok(self.path(name))
    }

    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault> {
        let mut volumes = locked(&self.volumes);
        let Some(entry) = volumes.get_mut(name) else {
            return Ok(Done::AlreadySo);
        };
        let Some(count) = entry.holds.get_mut(holder) else {
            return Ok(Done::AlreadySo);
        };
        *count -= 1;
        if *count == 0 {
            entry.holds.remove(holder);
            entry.stale.remove(holder);
        }
        Ok(Done::Changed)
    }

    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        let volumes = locked(&self.volumes);
        let entry = volumes.get(name).ok_or_else(|| unknown(name))?;
        Ok(self.info(name, entry))
    }

    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        Ok(locked(&self.volumes)
            .iter()
            .map(|(name, entry)| self.info(name, entry))
            .collect())
    }
}
