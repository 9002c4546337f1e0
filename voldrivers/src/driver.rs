//! The verbs, for every kind of volume.
//!
//! **Holds** are counted per volume, holder and engine, in records that survive a crash. A hold whose engine is
//! gone is a suspect: nobody will unmount it, but a container that outlived its engine may still use it. Then the
//! kernel is asked ([`crate::usage`]), and suspects that no mount backs are dropped: by `remove`, and in time
//! by the [`crate::keeper`].
//!
//! **Crash safety:** a record says what is about to happen before it happens, and whether a volume is attached
//! is not recorded at all: the kernel knows. [`Driver::open`] takes away every volume it finds half made
//! or half removed.
//!
//! **Invariant:** `get` and `list` touch neither disk nor records.
//! **Invariant:** a volume that anybody has mounted is neither detached nor removed, whatever the holds say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use kernel::record::{Batch, Records};
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::{Scope, VolumeDriver, VolumeInfo};
use plugin_api::{Done, EnginePeer, Fault, FaultKind, Options, Undo};

use crate::backend::{Backend, Detached, Spec, Standing, told};
use crate::engines::Caller;
use crate::plan::{Evidence, Found, Refusal, Step, Wanted, next};
use crate::shelf::{
    BOOT, ENGINES, EPOCH, Entry, HOLDS, Hold, Phase, Shelf, VOLUMES, Volume, encode_epoch, hold_key,
};
use crate::turns::Turns;
use crate::usage;

/// No way is longer: clear, make, attach, and the answer.
const STEPS: usize = 4;

/// A volume driver over one back end.
pub(crate) struct Driver<B: Backend> {
    pub(crate) records: Records,
    pub(crate) backend: B,
    /// Held for moments only, never across a kernel call.
    known: Mutex<Shelf<B::Spec>>,
    /// One verb at a time for one volume.
    pub(crate) turns: Turns,
}

/// How a volume was found, with what is known of it.
type Look<S> = (Found, Option<Volume<S>>);

/// What keeps a volume, with the words to say so.
struct Kept {
    evidence: Evidence,
    why: String,
}

// === start ===

impl<B: Backend> Driver<B> {
    /// Opens the records below `state` and repairs what a crash left.
    pub(crate) fn open(state: &Path, backend: B) -> Result<Self, Fault> {
        let open = || format!("open volumes in {}", state.display());
        let records = Records::open(&state.join("state.redb")).map_err(told(open()))?;
        let shelf = begin(&records).map_err(|fault| Fault::new(fault.kind, open()).because(fault))?;
        let driver = Self {
            records,
            backend,
            known: Mutex::new(shelf),
            turns: Turns::default(),
        };
        driver.repair()?;
        Ok(driver)
    }

    /// Takes away what was half made or half removed; whoever asked for it will ask again. Detaches what
    /// no container has any more.
    fn repair(&self) -> Result<(), Fault> {
        let all: Vec<(VolumeName, Phase)> = {
            let known = self.known();
            let phase = |(name, volume): (&VolumeName, &Volume<B::Spec>)| (name.clone(), volume.entry.phase);
            known.volumes.iter().map(phase).collect()
        };
        for (name, phase) in all {
            if phase != Phase::Ready {
                tracing::warn!(volume = %name, "take away a volume that was half made or half removed");
                self.bring(&name, Wanted::Gone, None)?;
                continue;
            }
            // A volume in trouble must not keep the others from being served.
            if let Err(fault) = self.settle(&name) {
                tracing::error!(volume = %name, "{}", fault.sentence());
            }
        }
        Ok(())
    }

    fn settle(&self, name: &VolumeName) -> Result<(), Fault> {
        if self.find(name)?.0 == Found::Lost {
            tracing::error!(volume = %name, path = self.shown_path(name), "its data is gone");
        }
        self.release(name)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Shelf<B::Spec>> {
        self.known.lock().expect("nobody panics with the shelf in hand")
    }
}

fn begin<S: Spec>(records: &Records) -> Result<Shelf<S>, Fault> {
    let mut shelf = Shelf::read(records)?;
    let recorded = records
        .get(BOOT, BOOT)
        .map_err(told("read the record of the boot"))?;
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(path)
        .map_err(|error| Fault::new(FaultKind::Unavailable, format!("read {path}")).because(error))?;
    let batch = shelf.begin_boot(recorded.as_deref(), boot.trim_end());
    if !batch.is_empty() {
        records
            .commit(&batch)
            .map_err(told("write the record of the boot"))?;
    }
    Ok(shelf)
}

// === question and step ===

impl<B: Backend> Driver<B> {
    /// Looks at record, disk and kernel.
    fn find(&self, name: &VolumeName) -> Result<Look<B::Spec>, Fault> {
        let Some(volume) = self.known().volumes.get(name).cloned() else {
            return Ok((Found::Absent, None));
        };
        let found = match volume.entry.phase {
            Phase::Creating => Found::HalfMade,
            Phase::Removing => Found::HalfGone,
            Phase::Ready => match self.backend.standing(name, &volume.entry.spec)? {
                Standing::Lost => Found::Lost,
                Standing::Present => Found::Present,
                Standing::Idle => Found::Idle,
                Standing::Attached => Found::Attached,
            },
        };
        Ok((found, Some(volume)))
    }

    /// Whose word keeps a volume.
    fn kept(&self, name: &VolumeName, volume: &Volume<B::Spec>) -> Result<Kept, Fault> {
        let engines = self.known().engines.clone();
        let living = engines.living();
        let is_current = |hold: &(&HolderId, &Hold)| living.contains(&hold.1.epoch);
        let (current, suspects): (Vec<_>, Vec<_>) = volume.holds.iter().partition(is_current);
        if !current.is_empty() {
            let holders = shown(&current);
            return Ok(Kept {
                evidence: Evidence::Held,
                why: format!("held by {holders}; remove the containers that use it first"),
            });
        }
        let suspects = shown(&suspects);
        let sight = self.backend.users(name, &volume.entry.spec)?;
        let used = |why| Kept {
            evidence: Evidence::Used,
            why,
        };
        if !sight.users.is_empty() {
            let mut why = format!("mounted on {}", usage::shown(&sight.users));
            if !suspects.is_empty() {
                why = format!("{why}, held since before the engine's restart by {suspects}");
            }
            return Ok(used(why));
        }
        if !suspects.is_empty() && sight.hidden > 0 {
            let hidden = sight.hidden;
            return Ok(used(format!(
                "held since before the engine's restart by {suspects}, and the mounts of {hidden} processes \
                 are hidden from this one"
            )));
        }
        Ok(Kept {
            evidence: Evidence::Free,
            why: String::new(),
        })
    }

    /// Takes steps until the volume is as wanted. The caller has the volume's turn, or nobody else is there.
    fn bring(&self, name: &VolumeName, wanted: Wanted, asked: Option<&B::Spec>) -> Result<Done, Fault> {
        let what = || match wanted {
            Wanted::Gone => format!("remove volume {name}"),
            Wanted::There => format!("create volume {name}"),
            Wanted::Attached => format!("mount volume {name}"),
            Wanted::Idle => format!("release volume {name}"),
        };
        let mut done = Done::AlreadySo;
        for _ in 0..STEPS {
            let (found, volume) = self.find(name)?;
            let kept = match (&volume, wanted, found) {
                (
                    Some(volume),
                    Wanted::Gone | Wanted::Idle,
                    Found::Lost | Found::Present | Found::Idle | Found::Attached,
                ) => self.kept(name, volume)?,
                _ => Kept {
                    evidence: Evidence::Free,
                    why: String::new(),
                },
            };
            let step = next(found, wanted, kept.evidence);
            match (step, volume, asked) {
                (Step::Rest, _, _) => return Ok(done),
                (Step::Refuse(why), _, _) => return Err(self.refusal(why, name, &what(), &kept.why)),
                (Step::Make, _, Some(asked)) => self.make(name, asked, &what())?,
                (Step::Attach, Some(volume), _) => self.backend.attach(name, &volume.entry.spec)?,
                (Step::Detach, Some(volume), _) => {
                    if self.backend.detach(name, &volume.entry.spec)? == Detached::InUse {
                        return self.left_attached(name, wanted, done);
                    }
                }
                (Step::Remove, Some(volume), _) => self.remove_whole(name, &volume, &what())?,
                (Step::Clear, Some(volume), _) => self.clear(name, &volume.entry.spec, &what())?,
                (step, _, _) => {
                    return Err(Fault::internal(format!(
                        "{}: {step:?} has nothing to act on",
                        what()
                    )));
                }
            }
            done = Done::Changed;
        }
        Err(Fault::internal(format!("{}: it does not come to rest", what())))
    }

    /// A process of this host stands in the volume. Who wanted it gone is told; otherwise it waits.
    fn left_attached(&self, name: &VolumeName, wanted: Wanted, done: Done) -> Result<Done, Fault> {
        let path = self.shown_path(name);
        if wanted == Wanted::Gone {
            return Err(Fault::in_use(format!(
                "remove volume {name}: a process of this host uses {path}; end it first"
            )));
        }
        tracing::warn!(volume = %name, %path, "it stays attached while a process of this host uses it");
        Ok(done)
    }

    fn refusal(&self, why: Refusal, name: &VolumeName, what: &str, kept: &str) -> Fault {
        match why {
            Refusal::Unknown => unknown(name),
            Refusal::Lost => {
                let path = self.shown_path(name);
                Fault::new(
                    FaultKind::Corrupt,
                    format!("{what}: its directory {path} is gone"),
                )
            }
            Refusal::Held | Refusal::Used => Fault::in_use(format!("{what}: {kept}")),
        }
    }

    fn shown_path(&self, name: &VolumeName) -> String {
        let known = self.known();
        let path = known
            .volumes
            .get(name)
            .map(|volume| self.backend.path(name, &volume.entry.spec));
        path.unwrap_or_default().display().to_string()
    }

    fn make(&self, name: &VolumeName, asked: &B::Spec, what: &str) -> Result<(), Fault> {
        // Before the intent is written: a later repair may take away what the intent names.
        self.backend.admit(name, asked)?;
        let mut undo = Undo::new();
        let intent = Entry::creating(asked.clone());
        self.write_entry(name, &intent).map_err(told(what))?;
        undo.push(format!("forget volume {name}"), || self.forget(name));
        undo.push(format!("discard data of volume {name}"), || {
            self.backend.discard(name, asked)
        });
        let made = self.backend.make(name, asked);
        let made = made.and_then(|()| {
            self.write_entry(name, &intent.in_phase(Phase::Ready))
                .map_err(told(what))
        });
        match made {
            Ok(()) => undo.keep(),
            Err(fault) => return Err(undo.unwind(fault)),
        }
        tracing::info!(volume = %name, "volume made");
        Ok(())
    }

    fn remove_whole(&self, name: &VolumeName, volume: &Volume<B::Spec>, what: &str) -> Result<(), Fault> {
        self.write_removal(name, volume).map_err(told(what))?;
        let mut undo = Undo::new();
        undo.push(format!("bring back volume {name}"), || {
            self.write_return(name, volume)
        });
        match self.backend.discard(name, &volume.entry.spec) {
            Ok(()) => undo.keep(),
            Err(fault) => return Err(undo.unwind(fault)),
        }
        // From here there is only forward; a failure leaves the intent, and a retry or a start ends it.
        self.forget(name).map_err(told(what))?;
        tracing::info!(volume = %name, "volume removed");
        Ok(())
    }

    /// Takes data and record of a volume in its first or last phase away.
    fn clear(&self, name: &VolumeName, spec: &B::Spec, what: &str) -> Result<(), Fault> {
        if self.backend.standing(name, spec)? == Standing::Attached
            && self.backend.detach(name, spec)? == Detached::InUse
        {
            return self.left_attached(name, Wanted::Gone, Done::AlreadySo).map(drop);
        }
        self.backend.discard(name, spec)?;
        self.forget(name).map_err(told(what))
    }
}

// === records ===

impl<B: Backend> Driver<B> {
    /// Writes a volume's record, then remembers it.
    pub(crate) fn write_entry(&self, name: &VolumeName, entry: &Entry<B::Spec>) -> Result<(), kernel::Error> {
        let batch = Batch::new().put(VOLUMES, name.as_str(), entry.encode());
        self.records.commit(&batch)?;
        let mut known = self.known();
        let fresh = Volume {
            entry: entry.clone(),
            holds: BTreeMap::new(),
        };
        known.volumes.entry(name.clone()).or_insert(fresh).entry = entry.clone();
        Ok(())
    }

    /// Writes that a volume goes, and drops its holds with it.
    fn write_removal(&self, name: &VolumeName, volume: &Volume<B::Spec>) -> Result<(), kernel::Error> {
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
    fn write_return(&self, name: &VolumeName, volume: &Volume<B::Spec>) -> Result<(), kernel::Error> {
        let batch = Batch::new().put(VOLUMES, name.as_str(), volume.entry.encode());
        let batch = volume.holds.iter().fold(batch, |batch, (holder, hold)| {
            batch.put(HOLDS, &hold_key(name, holder), hold.encode())
        });
        self.records.commit(&batch)?;
        self.known().volumes.insert(name.clone(), volume.clone());
        Ok(())
    }

    fn forget(&self, name: &VolumeName) -> Result<(), kernel::Error> {
        self.records
            .commit(&Batch::new().delete(VOLUMES, name.as_str()))?;
        self.known().volumes.remove(name);
        Ok(())
    }

    /// Writes one more mount of a holder, with the engine it is for.
    fn write_mount(&self, name: &VolumeName, holder: &HolderId, caller: Caller) -> Result<(), kernel::Error> {
        let (hold, batch) = {
            let mut known = self.known();
            let epoch = known.engines.epoch_for(caller);
            let before = known.ready(name).and_then(|volume| volume.holds.get(holder));
            let hold = Hold::mounted(before.copied(), epoch);
            let batch = Batch::new()
                .put(HOLDS, &hold_key(name, holder), hold.encode())
                .put(ENGINES, &epoch.to_string(), caller.encode())
                .put(EPOCH, EPOCH, encode_epoch(known.engines.last));
            let batch = known
                .forget_unheld(epoch)
                .into_iter()
                .fold(batch, |batch, unheld| batch.delete(ENGINES, &unheld.to_string()));
            (hold, batch)
        };
        self.records.commit(&batch)?;
        let mut known = self.known();
        if let Some(volume) = known.volumes.get_mut(name) {
            volume.holds.insert(holder.clone(), hold);
        }
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

    fn info(&self, name: &VolumeName, volume: &Volume<B::Spec>) -> VolumeInfo {
        let holds: u64 = volume.holds.values().map(|hold| hold.count).sum();
        let mut status = volume.entry.spec.status();
        status.push(("holds", holds.to_string()));
        VolumeInfo {
            name: name.clone(),
            mountpoint: (!volume.holds.is_empty()).then(|| self.backend.path(name, &volume.entry.spec)),
            created: Some(volume.entry.created()),
            status: status
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }
    }

    /// Drops a hold that nobody will drop, and detaches the volume if it was the last.
    pub(crate) fn drop_suspect(&self, name: &VolumeName, holder: &HolderId) -> Result<(), Fault> {
        let what = format!("drop the hold of {holder} on volume {name}");
        self.write_hold(name, holder, None).map_err(told(what))?;
        self.release(name)
    }

    /// Detaches a volume that nobody holds and no container has.
    pub(crate) fn release(&self, name: &VolumeName) -> Result<(), Fault> {
        let needs_it = |volume: &Volume<B::Spec>| {
            volume.holds.is_empty() && self.backend.is_attachable(&volume.entry.spec)
        };
        if !self.known().volumes.get(name).is_some_and(needs_it) {
            return Ok(());
        }
        let outcome = self.bring(name, Wanted::Idle, None);
        let lingers = outcome.is_err() || self.find(name)?.0 == Found::Attached;
        let mut known = self.known();
        if lingers {
            known.lingering.insert(name.clone());
        } else {
            known.lingering.remove(name);
        }
        outcome.map(drop)
    }
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

fn unknown(name: &VolumeName) -> Fault {
    Fault::not_found(format!("there is no volume {name}"))
}

// === impl VolumeDriver ===

impl<B: Backend> VolumeDriver for Driver<B> {
    fn scope(&self) -> Scope {
        Scope::Local
    }

    fn engine_arrived(&self, peer: EnginePeer) {
        let caller = Caller::of(peer);
        let ended = {
            let mut known = self.known();
            let epoch = known.engines.epoch_of(caller);
            // Podman says hello at every command: who holds nothing has nothing to be told apart from.
            let Some(epoch) = epoch.filter(|epoch| known.holds_in(*epoch)) else {
                return;
            };
            known.engines.present.remove(&epoch);
            epoch
        };
        let batch = Batch::new().delete(ENGINES, &ended.to_string());
        if let Err(error) = self.records.commit(&batch) {
            let error = plugin_api::fault::chain(&error);
            tracing::error!(
                error,
                "holds of the engine before this one count on if this process ends"
            );
        }
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        let asked = self.backend.understand(options)?;
        let _turn = self.turns.take(name);
        if let Some(volume) = self.known().ready(name) {
            let difference = volume.entry.spec.difference(&asked);
            if !difference.is_empty() {
                return Err(Fault::already_exists(format!(
                    "create volume {name}: it exists with other options: {difference}"
                )));
            }
        }
        self.bring(name, Wanted::There, Some(&asked))
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        let _turn = self.turns.take(name);
        self.bring(name, Wanted::Gone, None)
    }

    fn mount(&self, name: &VolumeName, holder: &HolderId, peer: EnginePeer) -> Result<PathBuf, Fault> {
        let caller = Caller::of(peer);
        let _turn = self.turns.take(name);
        self.bring(name, Wanted::Attached, None)?;
        let what = || format!("mount volume {name} for {holder}");
        if let Err(error) = self.write_mount(name, holder, caller) {
            // Nobody will unmount what was never recorded.
            if let Err(fault) = self.release(name) {
                tracing::warn!(volume = %name, "{}", fault.sentence());
            }
            return Err(told(what())(error));
        }
        let known = self.known();
        let volume = known.ready(name).ok_or_else(|| unknown(name))?;
        Ok(self.backend.path(name, &volume.entry.spec))
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
        // The hold is gone, whatever becomes of the rest: the keeper and the next start look again.
        if let Err(fault) = self.release(name) {
            tracing::warn!(volume = %name, "{}", fault.sentence());
        }
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
