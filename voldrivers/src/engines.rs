//! Which engine asked, and whether it still lives.
//!
//! Several engines may share one socket, and nothing in a request names them; the connection's peer
//! process does. Each process gets a number, an **epoch**, at its first mount, and a new one when it says
//! hello again. A hold of an epoch whose process is gone is a suspect: nobody will drop it. Podman's
//! processes live as long as a command, so its holds are suspects always, and the kernel's word counts.

use std::collections::{BTreeMap, BTreeSet};

use kernel::process::Identity;
use kernel::record::{Damaged, Decoder, Encoder};
use plugin_api::EnginePeer;

const LAYOUT: u8 = 1;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this host.
    Process {
        /// Which.
        identity: Identity,
        /// Whether it lives for one command only, as Podman's do.
        brief: bool,
    },
    /// The socket does not tell, as for a process outside of our pid namespace. It counts as one engine
    /// that never ends.
    Unseen,
}

impl Caller {
    /// The process behind a connection.
    pub(crate) fn of(peer: EnginePeer) -> Self {
        let pid = peer.pid.filter(|pid| *pid > 0);
        let identity = pid.and_then(|pid| Identity::of(pid).ok().flatten());
        identity.map_or(Self::Unseen, |identity| {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", identity.pid));
            let brief = name.is_ok_and(|name| name.trim_end() == "podman");
            Self::Process { identity, brief }
        })
    }

    /// Whether its end means that its containers have ended too, or are another engine's by now.
    pub(crate) fn is_brief(self) -> bool {
        matches!(self, Self::Process { brief: true, .. })
    }

    fn is_alive(self) -> bool {
        match self {
            Self::Unseen => true,
            // What cannot be looked at is taken for alive: its holds stay.
            Self::Process { identity, .. } => identity.is_alive().unwrap_or(true),
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let to = Encoder::new(LAYOUT);
        match self {
            Self::Unseen => to.flag(false),
            Self::Process { identity, brief } => to
                .flag(true)
                .number(identity.pid.unsigned_abs().into())
                .number(identity.started)
                .flag(brief),
        }
        .finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut from = Decoder::new("engine", LAYOUT, bytes)?;
        let caller = if from.flag()? {
            let damaged = from.damaged();
            let pid = i32::try_from(from.number()?).map_err(|_| damaged)?;
            let started = from.number()?;
            let brief = from.flag()?;
            let identity = Identity { pid, started };
            Self::Process { identity, brief }
        } else {
            Self::Unseen
        };
        from.end()?;
        Ok(caller)
    }
}

/// The engines that have mounted something, by epoch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Engines {
    /// The highest epoch ever given.
    pub(crate) last: u64,
    pub(crate) present: BTreeMap<u64, Caller>,
}

impl Engines {
    /// The caller's epoch; a new one if it has none.
    pub(crate) fn epoch_for(&mut self, caller: Caller) -> u64 {
        if let Some(epoch) = self.epoch_of(caller) {
            return epoch;
        }
        self.last += 1;
        self.present.insert(self.last, caller);
        self.last
    }

    /// The caller's epoch, if it has one.
    pub(crate) fn epoch_of(&self, caller: Caller) -> Option<u64> {
        let mut found = self.present.iter().filter(|(_, present)| **present == caller);
        found.next().map(|(epoch, _)| *epoch)
    }

    /// Epochs of engines that can drop their holds. Asks the kernel once for each engine.
    pub(crate) fn living(&self) -> BTreeSet<u64> {
        let epochs = self.present.keys().copied();
        epochs.filter(|epoch| self.is_current(*epoch)).collect()
    }

    /// Whether the holds of this epoch outlive their engine on purpose.
    pub(crate) fn is_brief(&self, epoch: u64) -> bool {
        self.present.get(&epoch).is_some_and(|caller| caller.is_brief())
    }

    /// Whether an engine that can drop its holds is behind this epoch.
    pub(crate) fn is_current(&self, epoch: u64) -> bool {
        self.present.get(&epoch).is_some_and(|caller| caller.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_epoch_until_it_is_gone() {
        let mut engines = Engines::default();
        let me = Caller::of(EnginePeer::own());
        assert_ne!(me, Caller::Unseen);
        let epoch = engines.epoch_for(me);
        assert_eq!(engines.epoch_for(me), epoch);
        assert!(engines.is_current(epoch));
        assert_eq!(engines.living(), BTreeSet::from([epoch]));
        let Caller::Process { identity: own, brief } = me else {
            panic!("this process was not seen");
        };
        assert!(!brief);
        // The same pid, but another process had it.
        let identity = Identity {
            started: own.started + 1,
            ..own
        };
        let gone = Caller::Process {
            identity,
            brief: true,
        };
        let other = engines.epoch_for(gone);
        assert_ne!(other, epoch);
        assert!(!engines.is_current(other));
        assert!(engines.is_brief(other) && !engines.is_brief(epoch));
        assert!(!engines.is_current(77));
    }

    #[test]
    fn who_is_not_seen_is_one_engine() {
        let mut engines = Engines::default();
        for pid in [None, Some(0), Some(-1)] {
            assert_eq!(engines.epoch_for(Caller::of(EnginePeer { pid })), 1);
        }
        assert!(engines.is_current(1));
    }

    #[test]
    fn callers_round_trip_and_damage_is_told() {
        for caller in [Caller::Unseen, Caller::of(EnginePeer::own())] {
            let bytes = caller.encode();
            assert_eq!(Caller::decode(&bytes), Ok(caller));
            assert!(Caller::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
