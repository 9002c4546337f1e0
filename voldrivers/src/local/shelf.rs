//! What the driver knows, and the records it is kept in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kernel::record::{Damaged, Decoder, Encoder};
use plugin_api::id::{HolderId, VolumeName};

use super::options::Settings;

const LAYOUT: u8 = 1;

/// Where a volume is in its life. A record of the first or last phase is an intent: whoever finds it
/// with nobody at work takes the volume away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Creating,
    Ready,
    Removing,
}

/// A volume's own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) phase: Phase,
    pub(super) settings: Settings,
    /// Seconds since 1970.
    pub(super) created: u64,
}

impl Entry {
    /// An intent to make a volume now.
    pub(super) fn creating(settings: Settings) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            phase: Phase::Creating,
            settings,
            created: since.map_or(0, |since| since.as_secs()),
        }
    }

    pub(super) fn in_phase(self, phase: Phase) -> Self {
        Self { phase, ..self }
    }

    pub(super) fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.created)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            Phase::Creating => 0,
            Phase::Ready => 1,
            Phase::Removing => 2,
        };
        Encoder::new(LAYOUT)
            .number(phase)
            .number(self.settings.uid.into())
            .number(self.settings.gid.into())
            .number(self.settings.mode.into())
            .number(self.created)
            .finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut decoder = Decoder::new("volume", LAYOUT, bytes)?;
        let phase = match decoder.number()? {
            0 => Phase::Creating,
            1 => Phase::Ready,
            2 => Phase::Removing,
            _ => return Err(decoder.damaged()),
        };
        let settings = Settings {
            uid: small(&mut decoder)?,
            gid: small(&mut decoder)?,
            mode: small(&mut decoder)?,
        };
        let created = decoder.number()?;
        decoder.end()?;
        Ok(Self {
            phase,
            settings,
            created,
        })
    }
}

fn small(decoder: &mut Decoder<'_>) -> Result<u32, Damaged> {
    let damaged = decoder.damaged();
    u32::try_from(decoder.number()?).map_err(|_| damaged)
}

/// One holder's claim on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// Mounts that were not unmounted.
    pub(super) count: u64,
    /// Which engine asked last; of an older one it is a suspect.
    pub(super) epoch: u64,
}

impl Hold {
    /// The hold after one more mount in `epoch`. The engine of an older epoch is dead and so are its
    /// mounts: the same id again is the same container started again, not a second one.
    pub(super) fn mounted(before: Option<Self>, epoch: u64) -> Self {
        let count = match before {
            Some(hold) if hold.epoch == epoch => hold.count.saturating_add(1),
            _ => 1,
        };
        Self { count, epoch }
    }

    /// The hold after one unmount; `None` when it was the last.
    pub(super) fn unmounted(self) -> Option<Self> {
        let count = self.count.checked_sub(1).filter(|left| *left > 0)?;
        Some(Self { count, ..self })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        Encoder::new(LAYOUT)
            .number(self.count)
            .number(self.epoch)
            .finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut decoder = Decoder::new("hold", LAYOUT, bytes)?;
        let hold = Self {
            count: decoder.number()?,
            epoch: decoder.number()?,
        };
        decoder.end()?;
        Ok(hold)
    }
}

/// The record of the engine's epoch.
pub(super) fn encode_epoch(epoch: u64) -> Vec<u8> {
    Encoder::new(LAYOUT).number(epoch).finish()
}

/// The way back from [`encode_epoch`].
pub(super) fn decode_epoch(bytes: &[u8]) -> Result<u64, Damaged> {
    let mut decoder = Decoder::new("epoch", LAYOUT, bytes)?;
    let epoch = decoder.number()?;
    decoder.end()?;
    Ok(epoch)
}

/// A record's key for a hold. A volume's name has no slash; a holder's id may have one.
pub(super) fn hold_key(name: &VolumeName, holder: &HolderId) -> String {
    format!("{name}/{holder}")
}

/// The way back from [`hold_key`].
pub(super) fn parse_hold_key(key: &str) -> Option<(VolumeName, HolderId)> {
    let (name, holder) = key.split_once('/')?;
    Some((VolumeName::new(name).ok()?, HolderId::new(holder).ok()?))
}

/// A volume and who holds it.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) entry: Entry,
    pub(super) holds: BTreeMap<HolderId, Hold>,
}

/// Everything, in memory: the truth that `get` and `list` answer from.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Number of the engine that speaks now.
    pub(super) epoch: u64,
    pub(super) volumes: BTreeMap<VolumeName, Volume>,
}

impl Shelf {
    /// The volume, unless it is on its way in or out.
    pub(super) fn ready(&self, name: &VolumeName) -> Option<&Volume> {
        let volume = self.volumes.get(name)?;
        (volume.entry.phase == Phase::Ready).then_some(volume)
    }

    /// Whether anybody was mounted in the epoch that is.
    pub(super) fn epoch_was_used(&self) -> bool {
        let mut holds = self.volumes.values().flat_map(|volume| volume.holds.values());
        holds.any(|hold| hold.epoch == self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            assert!(Entry::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        let hold = Hold { count: 7, epoch: 9 };
        assert_eq!(Hold::decode(&hold.encode()), Ok(hold));
        let unknown = Encoder::new(LAYOUT).number(3).finish();
        assert!(Entry::decode(&unknown).is_err());
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
