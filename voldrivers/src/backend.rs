//! What a kind of volumes knows to do.
//!
//! Verbs here act on one volume and are called one at a time for it. Each may be repeated after a death in
//! its middle: what is there already is not made twice, and what is gone is no error.

use std::path::PathBuf;

use kernel::record::{Damaged, Decoder, Encoder};
use plugin_api::id::VolumeName;
use plugin_api::{Fault, FaultKind, Options};

use crate::usage::Sight;

/// What a volume was asked to be: its options, understood.
pub(crate) trait Spec: Clone + Send + Sync + 'static {
    /// Adds itself to a record.
    fn encode(&self, to: Encoder) -> Encoder;
    /// Reads itself from a record of a layout version that [`crate::shelf`] names.
    fn decode(from: &mut Decoder<'_>, layout: u8) -> Result<Self, Damaged>;
    /// What differs from `asked`, in words: `mode is 0755, not 0700`; empty if nothing does.
    fn difference(&self, asked: &Self) -> String;
    /// Rows for `docker volume inspect`.
    fn status(&self) -> Vec<(&'static str, String)>;
}

/// How a volume stands, by the word of the disk and the kernel alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its data is not where it should be.
    Lost,
    /// It is whole, and a container can have it as it is: it needs no attaching.
    Present,
    /// It is whole and not attached to this host.
    Idle,
    /// It was attached.
    Attached,
}

/// What came of a detach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detached {
    /// It is idle now.
    Idle,
    /// Somebody of this host is in it; it stays as it is.
    InUse,
}

/// A kind of volumes.
pub(crate) trait Backend: Send + Sync + 'static {
    /// What its volumes are asked to be.
    type Spec: Spec;

    /// Understands options as typed, without looking at the world.
    fn understand(&self, options: &Options) -> Result<Self::Spec, Fault>;
    /// Refuses what cannot be made for a reason that lies in the world, before anything is written.
    fn admit(&self, name: &VolumeName, spec: &Self::Spec) -> Result<(), Fault>;
    /// Makes the volume, durably.
    fn make(&self, name: &VolumeName, spec: &Self::Spec) -> Result<(), Fault>;
    /// Takes the volume and its data away, durably. It is idle.
    fn discard(&self, name: &VolumeName, spec: &Self::Spec) -> Result<(), Fault>;
    /// Whether a volume like this is attached and detached at all, or simply there.
    fn is_attachable(&self, spec: &Self::Spec) -> bool;
    /// How the volume stands.
    fn standing(&self, name: &VolumeName, spec: &Self::Spec) -> Result<Standing, Fault>;
    /// Attaches an idle volume.
    fn attach(&self, name: &VolumeName, spec: &Self::Spec) -> Result<(), Fault>;
    /// Detaches a volume that no container uses.
    fn detach(&self, name: &VolumeName, spec: &Self::Spec) -> Result<Detached, Fault>;
    /// Where an attached volume is, absolute.
    fn path(&self, name: &VolumeName, spec: &Self::Spec) -> PathBuf;
    /// Who uses it, in any mount namespace.
    fn users(&self, name: &VolumeName, spec: &Self::Spec) -> Result<Sight, Fault>;
}

/// Turns an error of the cellar into a fault about `what`.
pub(crate) fn told(what: impl Into<String>) -> impl FnOnce(kernel::Error) -> Fault {
    move |error| {
        let kind = match error.source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FaultKind::Exhausted,
            std::io::ErrorKind::ResourceBusy => FaultKind::InUse,
            std::io::ErrorKind::Unsupported => FaultKind::Unsupported,
            std::io::ErrorKind::TimedOut => FaultKind::Timeout,
            _ => FaultKind::Internal,
        };
        Fault::new(kind, what).because(error)
    }
}
