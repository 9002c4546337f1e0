//! What the driver knows, and the records it is kept in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::{Fault, FaultKind};

use crate::backend::{Spec, told};
use crate::engines::{Caller, Engines};

/// Records of volumes: name → [`Entry`].
pub(crate) const VOLUMES: &str = "volume";
/// Records of holds: `NAME/HOLDER` → [`Hold`].
pub(crate) const HOLDS: &str = "hold";
/// Records of engines that hold: epoch → [`Caller`].
pub(crate) const ENGINES: &str = "engine";
/// The record of the highest epoch, under the key of the same name.
pub(crate) const EPOCH: &str = "epoch";
/// The record of the boot that holds belong to, under the key of the same name.
pub(crate) const BOOT: &str = "boot";

/// Layout of an entry. 1 had directories alone: three numbers for the options.
const ENTRY_LAYOUT: u8 = 2;
const LAYOUT: u8 = 1;

/// Where a volume is in its life. A record of the first or last phase is an intent: whoever finds it
/// with nobody at work takes the volume away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Ready,
    Removing,
}

/// A volume's own record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<S> {
    pub(crate) phase: Phase,
    pub(crate) spec: S,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

impl<S: Spec> Entry<S> {
    /// An intent to make a volume now.
    pub(crate) fn creating(spec: S) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            phase: Phase::Creating,
            spec,
            created: since.map_or(0, |since| since.as_secs()),
        }
    }

    pub(crate) fn in_phase(&self, phase: Phase) -> Self {
        Self {
            phase,
            ..self.clone()
        }
    }

    pub(crate) fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.created)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            Phase::Creating => 0,
            Phase::Ready => 1,
            Phase::Removing => 2,
        };
        let to = Encoder::new(ENTRY_LAYOUT).number(phase);
        self.spec.encode(to).number(self.created).finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let layout = match bytes.first() {
            Some(1) => 1,
            _ => ENTRY_LAYOUT,
        };
        let mut decoder = Decoder::new("volume", layout, bytes)?;
        let phase = match decoder.number()? {
            0 => Phase::Creating,
            1 => Phase::Ready,
            2 => Phase::Removing,
            _ => return Err(decoder.damaged()),
        };
        let spec = S::decode(&mut decoder, layout)?;
        let created = decoder.number()?;
        decoder.end()?;
        Ok(Self { phase, spec, created })
    }
}

/// One holder's claim on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Mounts that were not unmounted.
    pub(crate) count: u64,
    /// Which engine asked last; of an older one it is a suspect.
    pub(crate) epoch: u64,
}

impl Hold {
    /// The hold after one more mount in `epoch`. The engine of an older epoch is dead and so are its
    /// mounts: the same id again is the same container started again, not a second one.
    pub(crate) fn mounted(before: Option<Self>, epoch: u64) -> Self {
        let count = match before {
            Some(hold) if hold.epoch == epoch => hold.count.saturating_add(1),
            _ => 1,
        };
        Self { count, epoch }
    }

    /// The hold after one unmount; `None` when it was the last.
    pub(crate) fn unmounted(self) -> Option<Self> {
        let count = self.count.checked_sub(1).filter(|left| *left > 0)?;
        Some(Self { count, ..self })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        Encoder::new(LAYOUT)
            .number(self.count)
            .number(self.epoch)
            .finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut decoder = Decoder::new("hold", LAYOUT, bytes)?;
        let hold = Self {
            count: decoder.number()?,
            epoch: decoder.number()?,
        };
        decoder.end()?;
        Ok(hold)
    }
}

/// The record of the highest epoch.
pub(crate) fn encode_epoch(epoch: u64) -> Vec<u8> {
    Encoder::new(LAYOUT).number(epoch).finish()
}

/// The way back from [`encode_epoch`].
pub(crate) fn decode_epoch(bytes: &[u8]) -> Result<u64, Damaged> {
    let mut decoder = Decoder::new("epoch", LAYOUT, bytes)?;
    let epoch = decoder.number()?;
    decoder.end()?;
    Ok(epoch)
}

/// A record's key for a hold. A volume's name has no slash; a holder's id may have one.
pub(crate) fn hold_key(name: &VolumeName, holder: &HolderId) -> String {
    format!("{name}/{holder}")
}

/// The way back from [`hold_key`].
pub(crate) fn parse_hold_key(key: &str) -> Option<(VolumeName, HolderId)> {
    let (name, holder) = key.split_once('/')?;
    Some((VolumeName::new(name).ok()?, HolderId::new(holder).ok()?))
}

/// A volume and who holds it.
#[derive(Debug, Clone)]
pub(crate) struct Volume<S> {
    pub(crate) entry: Entry<S>,
    pub(crate) holds: BTreeMap<HolderId, Hold>,
}

/// Everything, in memory: the truth that `get` and `list` answer from.
#[derive(Debug)]
pub(crate) struct Shelf<S> {
    pub(crate) engines: Engines,
    pub(crate) volumes: BTreeMap<VolumeName, Volume<S>>,
    /// Volumes that nobody holds and that could not be detached yet.
    pub(crate) lingering: BTreeSet<VolumeName>,
}

impl<S: Spec> Shelf<S> {
    /// Reads every record.
    pub(crate) fn read(records: &Records) -> Result<Self, Fault> {
        let corrupt = |error| Fault::from_error(FaultKind::Corrupt, error);
        let stranger = |key: &str| Fault::new(FaultKind::Corrupt, format!("record {key:?} is none of ours"));
        let mut shelf = Self {
            engines: Engines::default(),
            volumes: BTreeMap::new(),
            lingering: BTreeSet::new(),
        };
        if let Some(bytes) = records.get(EPOCH, EPOCH).map_err(told("read epoch"))? {
            shelf.engines.last = decode_epoch(&bytes).map_err(corrupt)?;
        }
        for (key, value) in records.list(ENGINES).map_err(told("read engines"))? {
            let epoch = key.parse().map_err(|_| stranger(&key))?;
            let caller = Caller::decode(&value).map_err(corrupt)?;
            shelf.engines.present.insert(epoch, caller);
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
            let hold = Hold::decode(&value).map_err(corrupt)?;
            volume.holds.insert(holder, hold);
        }
        Ok(shelf)
    }

    /// Drops the holds of another boot: whoever held is gone. Answers what the records have to learn,
    /// which is nothing in the boot that they know.
    pub(crate) fn begin_boot(&mut self, recorded: Option<&[u8]>, boot: &str) -> Batch {
        let now = Encoder::new(LAYOUT).text(boot).finish();
        if recorded == Some(now.as_slice()) {
            return Batch::new();
        }
        let mut batch = Batch::new().put(BOOT, BOOT, now);
        // Records without a boot are of a version that did not note it; their holds are suspects anyway.
        if recorded.is_none() {
            return batch;
        }
        for (name, volume) in &mut self.volumes {
            for holder in std::mem::take(&mut volume.holds).into_keys() {
                batch = batch.delete(HOLDS, &hold_key(name, &holder));
            }
        }
        for epoch in std::mem::take(&mut self.engines.present).into_keys() {
            batch = batch.delete(ENGINES, &epoch.to_string());
        }
        batch
    }

    /// The volume, unless it is on its way in or out.
    pub(crate) fn ready(&self, name: &VolumeName) -> Option<&Volume<S>> {
        let volume = self.volumes.get(name)?;
        (volume.entry.phase == Phase::Ready).then_some(volume)
    }

    /// Forgets engines that hold nothing, but for the one of `epoch`, and answers their epochs.
    pub(crate) fn forget_unheld(&mut self, epoch: u64) -> Vec<u64> {
        let all = self.engines.present.keys().copied();
        let unheld: Vec<u64> = all.filter(|one| *one != epoch && !self.holds_in(*one)).collect();
        for one in &unheld {
            self.engines.present.remove(one);
        }
        unheld
    }

    /// Whether anybody holds in this epoch.
    pub(crate) fn holds_in(&self, epoch: u64) -> bool {
        let mut holds = self.volumes.values().flat_map(|volume| volume.holds.values());
        holds.any(|hold| hold.epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local::Settings;

    #[test]
    fn a_known_holder_counts_once_after_a_new_engine() {
        let first = Hold::mounted(None, 4);
        let second = Hold::mounted(Some(first), 4);
        assert_eq!(second, Hold { count: 2, epoch: 4 });
        let again = Hold::mounted(Some(second), 5);
        assert_eq!(again, Hold { count: 1, epoch: 5 });
        assert_eq!(again.unmounted(), None);
        assert_eq!(second.unmounted(), Some(first));
    }

    #[test]
    fn keys_split_at_the_first_slash() {
        let name = VolumeName::new("db").unwrap();
        for holder in ["", "a/b", "/"] {
            let holder = HolderId::new(holder).unwrap();
            let key = hold_key(&name, &holder);
            assert_eq!(parse_hold_key(&key), Some((name.clone(), holder)));
        }
        assert_eq!(parse_hold_key("db"), None);
        assert_eq!(parse_hold_key("../x/y"), None);
    }

    #[test]
    fn records_round_trip_and_damage_is_told() {
        for phase in [Phase::Creating, Phase::Ready, Phase::Removing] {
            let entry = Entry::creating(Settings::default()).in_phase(phase);
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            assert!(Entry::<Settings>::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        let hold = Hold { count: 7, epoch: 9 };
        assert_eq!(Hold::decode(&hold.encode()), Ok(hold));
        let unknown = Encoder::new(ENTRY_LAYOUT).number(3).finish();
        assert!(Entry::<Settings>::decode(&unknown).is_err());
    }

    #[test]
    fn a_directory_of_the_first_layout_is_read() {
        let first = Encoder::new(1)
            .number(1)
            .number(1000)
            .number(7)
            .number(0o700)
            .number(99);
        let entry = Entry::<Settings>::decode(&first.finish()).unwrap();
        assert_eq!((entry.phase, entry.created), (Phase::Ready, 99));
        let told = entry.spec.status();
        for (key, value) in [("uid", "1000"), ("gid", "7"), ("mode", "0700")] {
            assert!(told.contains(&(key, value.to_owned())), "{told:?}");
        }
    }

    #[test]
    fn a_boot_ends_every_hold_but_not_the_volume() {
        let name = VolumeName::new("db").unwrap();
        let holder = HolderId::new("c1").unwrap();
        let entry = Entry::creating(Settings::default()).in_phase(Phase::Ready);
        let holds = BTreeMap::from([(holder, Hold { count: 2, epoch: 1 })]);
        let mut shelf = Shelf {
            engines: Engines::default(),
            volumes: BTreeMap::from([(name.clone(), Volume { entry, holds })]),
            lingering: BTreeSet::new(),
        };
        shelf.engines.epoch_for(Caller::Unseen);
        let first = Encoder::new(LAYOUT).text("one").finish();
        assert!(shelf.begin_boot(Some(&first), "one").is_empty());
        assert!(!shelf.begin_boot(None, "one").is_empty());
        assert_eq!(shelf.volumes[&name].holds.len(), 1);
        assert!(!shelf.begin_boot(Some(&first), "two").is_empty());
        assert!(shelf.volumes[&name].holds.is_empty());
        assert!(shelf.engines.present.is_empty());
        assert_eq!(shelf.engines.last, 1);
    }

    proptest! {
        /// Any order of mounts, unmounts and new engines: the count is the mounts outstanding in the
        /// epoch of the last mount, and nothing goes below zero.
        #[test]
        fn count_is_the_mounts_outstanding(steps in proptest::collection::vec(0..3u8, 0..60)) {
            let (mut hold, mut epoch, mut outstanding) = (None::<Hold>, 0, 0u64);
            for step in steps {
                match step {
                    0 => {
                        let same = hold.is_some_and(|hold| hold.epoch == epoch);
                        outstanding = if same { outstanding + 1 } else { 1 };
                        hold = Some(Hold::mounted(hold, epoch));
                    }
                    1 => {
                        outstanding = outstanding.saturating_sub(1);
                        hold = hold.and_then(Hold::unmounted);
                    }
                    _ => epoch += 1,
                }
                prop_assert_eq!(hold.map_or(0, |hold| hold.count), outstanding);
            }
        }
    }
}
