//! Volumes as directories of this host.
//!
//! | option | meaning | default |
//! | --- | --- | --- |
//! | `uid`, `gid` | owner of the directory | 0 |
//! | `mode` | its permissions, octal | 0755 |
//!
//! **Holds** are counted per volume and holder, in records that survive a crash. A hold of an engine
//! that died is a suspect: nobody will unmount it, but a container that outlived its engine may still
//! use it. `remove` asks the kernel ([`usage`]) and drops suspects that no mount backs.
//!
//! **Crash safety:** a record says what is about to happen before it happens. [`open_local`] takes away
//! every volume it finds half made or half removed.
//!
//! **Invariant:** `get` and `list` touch neither disk nor records.
//! **Invariant:** a volume whose directory anybody has mounted is not removed, whatever the holds say.

mod disk;
mod options;
mod shelf;
mod turns;
mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use kernel::record::{Batch, Records};
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::{Scope, VolumeDriver, VolumeInfo};
use plugin_api::{Done, EnginePeer, Fault, FaultKind, Options, Undo};

use disk::Disk;
use options::{Mode, Settings};
use shelf::{Entry, Hold, Phase, Shelf, Volume, hold_key, parse_hold_key};
use turns::Turns;

/// Records of volumes: name → [`Entry`].
const VOLUMES: &str = "volume";
/// Records of holds: `NAME/HOLDER` → [`Hold`].
const HOLDS: &str = "hold";
/// The record of the engine's epoch, under the key of the same name.
const EPOCH: &str = "epoch";

/// Opens the driver on its state directory, which exists, and repairs what a crash left.
pub fn open_local(state: &Path) -> Result<Arc<dyn VolumeDriver>, Fault> {
    Ok(Arc::new(Driver::open(state)?))
}

struct Driver {
    records: Records,
    disk: Disk,
    /// Held for moments only, never across a kernel call.
    known: Mutex<Shelf>,
    /// One verb at a time for one volume.
    turns: Turns,
}

/// What `create` has to do.
#[derive(Debug, PartialEq, Eq)]
enum CreatePlan {
    /// The volume is there, just so.
    Nothing,
    /// Remains of an interrupted verb go first.
    ClearAndMake,
    Make,
}

fn plan_create(name: &VolumeName, found: Option<&Entry>, asked: &Settings) -> Result<CreatePlan, Fault> {
    let Some(entry) = found else {
        return Ok(CreatePlan::Make);
    };
    if entry.phase != Phase::Ready {
        return Ok(CreatePlan::ClearAndMake);
    }
    let difference = entry.settings.difference(asked);
    if difference.is_empty() {
        return Ok(CreatePlan::Nothing);
    }
    Err(Fault::already_exists(format!(
        "create volume {name}: it exists with other options: {difference}"
    )))
}

/// Says whether the kernel's word lets go of a volume, and in which words not.
fn plan_remove(
    name: &VolumeName,
    volume: &Volume,
    epoch: u64,
    sight: impl FnOnce() -> Result<usage::Sight, Fault>,
) -> Result<(), Fault> {
    let is_current = |entry: &(&HolderId, &Hold)| entry.1.epoch == epoch;
    let (current, suspects): (Vec<_>, Vec<_>) = volume.holds.iter().partition(is_current);
    if !current.is_empty() {
        let holders = shown(&current);
        return Err(Fault::in_use(format!(
            "remove volume {name}: held by {holders}; remove the containers that use it first"
        )));
    }
    let suspects = shown(&suspects);
    let sight = sight()?;
    if !sight.users.is_empty() {
        let mut text = format!("remove volume {name}: mounted on {}", usage::shown(&sight.users));
        if !suspects.is_empty() {
            text = format!("{text}, held since before the engine's restart by {suspects}");
        }
        return Err(Fault::in_use(text));
    }
    if !suspects.is_empty() && sight.hidden > 0 {
        let hidden = sight.hidden;
        return Err(Fault::in_use(format!(
            "remove volume {name}: held since before the engine's restart by {suspects}, and the mounts \
             of {hidden} processes are hidden from this one"
        )));
    }
    Ok(())
}

/// Names holders, at most five of them; an engine too old to name itself is `nobody named`.
fn shown(holds: &[(&HolderId, &Hold)]) -> String {
    let named = holds.iter().take(5).map(|(holder, _)| match holder.as_str() {
        "" => "nobody named".to_owned(),
        holder => holder.to_owned(),
    });
    let mut shown: Vec<String> = named.collect();
    if holds.len() > 5 {
        shown.push(format!("{} more", holds.len() - 5));
    }
    shown.join(", ")
}

/// Turns an error of the cellar into a fault about `what`.
fn told(what: impl Into<String>) -> impl FnOnce(kernel::Error) -> Fault {
    move |error| {
        let kind = match error.source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FaultKind::Exhausted,
            std::io::ErrorKind::ResourceBusy => FaultKind::InUse,
            _ => FaultKind::Internal,
        };
        Fault::new(kind, what).because(error)
    }
}

// === start ===

impl Driver {
    fn open(state: &Path) -> Result<Self, Fault> {
        let open = || format!("open volumes in {}", state.display());
        let records = Records::open(&state.join("state.redb")).map_err(told(open()))?;
        let shelf = read_shelf(&records).map_err(|fault| Fault::new(fault.kind, open()).because(fault))?;
        let driver = Self {
            records,
            disk: Disk::open(state).map_err(told(open()))?,
            known: Mutex::new(shelf),
            turns: Turns::default(),
        };
        driver.repair()?;
        Ok(driver)
    }

    /// Takes away what was half made or half removed; whoever asked for it will ask again.
    fn repair(&self) -> Result<(), Fault> {
        let (mut broken, mut whole) = (Vec::new(), Vec::new());
        for (name, volume) in &self.known().volumes {
            let ready = volume.entry.phase == Phase::Ready;
            if ready { &mut whole } else { &mut broken }.push(name.clone());
        }
        for name in broken {
            tracing::warn!(volume = %name, "take away a volume that was half made or half removed");
            self.clear(&name)?;
        }
        for name in whole.iter().filter(|name| !self.disk.holds_data(name)) {
            tracing::error!(volume = %name, path = %self.disk.data(name).display(), "its directory is gone");
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Shelf> {
        self.known.lock().expect("nobody panics with the shelf in hand")
    }
}

fn read_shelf(records: &Records) -> Result<Shelf, Fault> {
    let corrupt = |error| Fault::from_error(FaultKind::Corrupt, error);
    let stranger = |key: &str| Fault::new(FaultKind::Corrupt, format!("record {key:?} is none of ours"));
    let mut shelf = Shelf::default();
    if let Some(bytes) = records.get(EPOCH, EPOCH).map_err(told("read epoch"))? {
        shelf.epoch = shelf::decode_epoch(&bytes).map_err(corrupt)?;
    }
    for (key, value) in records.list(VOLUMES).map_err(told("read volumes"))? {
        let name = VolumeName::new(key.as_str()).map_err(|_| stranger(&key))?;
        let entry = Entry::decode(&value).map_err(corrupt)?;
        let holds = BTreeMap::new();
        shelf.volumes.insert(name, Volume { entry, holds });
    }
    for (key, value) in records.list(HOLDS).map_err(told("read holds"))? {
        let (name, holder) = parse_hold_key(&key).ok_or_else(|| stranger(&key))?;
        // A hold is written and deleted in one batch with its volume or while its volume is there.
        let volume = shelf.volumes.get_mut(&name).ok_or_else(|| stranger(&key))?;
        volume
            .holds
            .insert(holder, Hold::decode(&value).map_err(corrupt)?);
    }
    Ok(shelf)
}

// === steps ===

impl Driver {
    /// Writes a volume's record, then remembers it.
    fn write_entry(&self, name: &VolumeName, entry: Entry) -> Result<(), kernel::Error> {
        let batch = Batch::new().put(VOLUMES, name.as_str(), entry.encode());
        self.records.commit(&batch)?;
        let mut known = self.known();
        let fresh = Volume {
            entry,
            holds: BTreeMap::new(),
        };
        known.volumes.entry(name.clone()).or_insert(fresh).entry = entry;
        Ok(())
    }

    /// Writes that a volume goes, and drops its holds with it.
    fn write_removal(&self, name: &VolumeName, volume: &Volume) -> Result<(), kernel::Error> {
        let going = volume.entry.in_phase(Phase::Removing);
        let batch = Batch::new().put(VOLUMES, name.as_str(), going.encode());
        let holds = volume.holds.keys();
        let batch = holds.fold(batch, |batch, holder| {
            batch.delete(HOLDS, &hold_key(name, holder))
        });
        self.records.commit(&batch)?;
        if let Some(volume) = self.known().volumes.get_mut(name) {
            volume.entry = going;
            volume.holds.clear();
        }
        Ok(())
    }

    /// The way back from [`Self::write_removal`].
    fn write_return(&self, name: &VolumeName, volume: &Volume) -> Result<(), kernel::Error> {
        let batch = Batch::new().put(VOLUMES, name.as_str(), volume.entry.encode());
        let batch = volume.holds.iter().fold(batch, |batch, (holder, hold)| {
            batch.put(HOLDS, &hold_key(name, holder), hold.encode())
        });
        self.records.commit(&batch)?;
        self.known().volumes.insert(name.clone(), volume.clone());
        Ok(())
    }

    /// Takes directory and record of a volume in its first or last phase away.
    fn clear(&self, name: &VolumeName) -> Result<(), Fault> {
        self.disk
            .discard(name)
            .map_err(told(format!("clear volume {name}")))?;
        self.forget(name).map_err(told(format!("clear volume {name}")))
    }

    fn forget(&self, name: &VolumeName) -> Result<(), kernel::Error> {
        self.records
            .commit(&Batch::new().delete(VOLUMES, name.as_str()))?;
        self.known().volumes.remove(name);
        Ok(())
    }

    /// Writes one holder's count, or that it is none any more, then remembers it.
    fn write_hold(
        &self,
        name: &VolumeName,
        holder: &HolderId,
        hold: Option<Hold>,
    ) -> Result<(), kernel::Error> {
        let key = hold_key(name, holder);
        let batch = match hold {
            Some(hold) => Batch::new().put(HOLDS, &key, hold.encode()),
            None => Batch::new().delete(HOLDS, &key),
        };
        self.records.commit(&batch)?;
        if let Some(volume) = self.known().volumes.get_mut(name) {
            match hold {
                Some(hold) => volume.holds.insert(holder.clone(), hold),
                None => volume.holds.remove(holder),
            };
        }
        Ok(())
    }

    fn info(&self, name: &VolumeName, volume: &Volume) -> VolumeInfo {
        let settings = &volume.entry.settings;
        let holds: u64 = volume.holds.values().map(|hold| hold.count).sum();
        let status = [
            ("uid", settings.uid.to_string()),
            ("gid", settings.gid.to_string()),
            ("mode", Mode(settings.mode).to_string()),
            ("holds", holds.to_string()),
        ];
        VolumeInfo {
            name: name.clone(),
            mountpoint: (!volume.holds.is_empty()).then(|| self.disk.data(name)),
            created: Some(volume.entry.created()),
            status: status.map(|(key, value)| (key.to_owned(), value)).into(),
        }
    }
}

// === impl VolumeDriver ===

impl VolumeDriver for Driver {
    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn engine_arrived(&self, _peer: EnginePeer) {
        let next = {
            let known = self.known();
            // Podman says hello at every command: without holds there is nothing to tell apart.
            if !known.epoch_was_used() {
                return;
            }
            known.epoch + 1
        };
        let batch = Batch::new().put(EPOCH, EPOCH, shelf::encode_epoch(next));
        if let Err(error) = self.records.commit(&batch) {
            let error = plugin_api::fault::chain(&error);
            tracing::error!(
                error,
                "holds of the engine before this one count on if this process ends"
            );
        }
        let mut known = self.known();
        known.epoch = known.epoch.max(next);
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        let what = || format!("create volume {name}");
        let settings = Settings::read(options)?;
        let _turn = self.turns.take(name);
        let found = self.known().volumes.get(name).map(|volume| volume.entry);
        match plan_create(name, found.as_ref(), &settings)? {
            CreatePlan::Nothing => return Ok(Done::AlreadySo),
            CreatePlan::ClearAndMake => self.clear(name)?,
            CreatePlan::Make => {}
        }
        // Before the intent is written: a later repair may take away what the intent names.
        if self.disk.is_taken(name) {
            let path = self.disk.volume(name);
            return Err(Fault::new(
                FaultKind::Conflict,
                format!("{}: {} is there and no volume of ours", what(), path.display()),
            ));
        }
        let mut undo = Undo::new();
        let intent = Entry::creating(settings);
        self.write_entry(name, intent).map_err(told(what()))?;
        undo.push(format!("forget volume {name}"), || self.forget(name));
        undo.push(format!("discard directory of volume {name}"), || {
            self.disk.discard(name)
        });
        let made = self.disk.make(name, &settings);
        match made.and_then(|()| self.write_entry(name, intent.in_phase(Phase::Ready))) {
            Ok(()) => undo.keep(),
            Err(error) => return Err(undo.unwind(told(what())(error))),
        }
        tracing::info!(volume = %name, "volume made");
        Ok(Done::Changed)
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        let what = || format!("remove volume {name}");
        let _turn = self.turns.take(name);
        let (volume, epoch) = {
            let known = self.known();
            let Some(volume) = known.volumes.get(name) else {
                return Ok(Done::AlreadySo);
            };
            (volume.clone(), known.epoch)
        };
        if volume.entry.phase == Phase::Ready {
            plan_remove(name, &volume, epoch, || self.disk.look_for_users(name))?;
            self.write_removal(name, &volume).map_err(told(what()))?;
            let mut undo = Undo::new();
            undo.push(format!("bring back volume {name}"), || {
                self.write_return(name, &volume)
            });
            match self.disk.discard(name) {
                Ok(()) => undo.keep(),
                Err(error) => return Err(undo.unwind(told(what())(error))),
            }
        }
        // From here there is only forward; a failure leaves the intent, and a retry or a start ends it.
        self.clear(name)?;
        tracing::info!(volume = %name, "volume removed");
        Ok(Done::Changed)
    }

    fn mount(&self, name: &VolumeName, holder: &HolderId) -> Result<PathBuf, Fault> {
        let what = || format!("mount volume {name} for {holder}");
        let _turn = self.turns.take(name);
        let hold = {
            let known = self.known();
            let volume = known.ready(name).ok_or_else(|| unknown(name))?;
            Hold::mounted(volume.holds.get(holder).copied(), known.epoch)
        };
        if !self.disk.holds_data(name) {
            let path = self.disk.data(name);
            let text = format!("{}: its directory {} is gone", what(), path.display());
            return Err(Fault::new(FaultKind::Corrupt, text));
        }
        self.write_hold(name, holder, Some(hold)).map_err(told(what()))?;
        Ok(self.disk.data(name))
    }

    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault> {
        let _turn = self.turns.take(name);
        let hold = {
            let known = self.known();
            known
                .ready(name)
                .and_then(|volume| volume.holds.get(holder).copied())
        };
        let Some(hold) = hold else {
            return Ok(Done::AlreadySo);
        };
        self.write_hold(name, holder, hold.unmounted())
            .map_err(told(format!("unmount volume {name} for {holder}")))?;
        Ok(Done::Changed)
    }

    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        let known = self.known();
        let volume = known.ready(name).ok_or_else(|| unknown(name))?;
        Ok(self.info(name, volume))
    }

    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        let known = self.known();
        let ready = known
            .volumes
            .iter()
            .filter(|(_, volume)| volume.entry.phase == Phase::Ready);
        Ok(ready.map(|(name, volume)| self.info(name, volume)).collect())
    }
}

fn unknown(name: &VolumeName) -> Fault {
    Fault::not_found(format!("there is no volume {name}"))
}

#[cfg(test)]
mod tests;
