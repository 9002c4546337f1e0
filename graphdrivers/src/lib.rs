//! Layers: copy-on-write file trees for container engines.
//!
//! [`overlay`] keeps layers as folders and says how to mount them. [`docker::Door`] is Docker's way in: it
//! mounts what a back end describes, counts who holds what ([`holds`]) and streams archives ([`archive`]).
//! [`open_overlay`] puts the two together over one state folder. [`snapshot::Rooms`] is containerd's way in
//! to the same back end, and [`open_overlay_snapshots`] puts those together.
//!
//! **Invariant:** one process per state folder; everything in it can be rebuilt from `state.redb`, the
//! folders and the kernel's list of mounts, in whichever state a death left them.

pub mod archive;
pub mod docker;
pub mod holds;
mod keyed;
pub mod overlay;
pub mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::fsutil::lock_dir;
use kernel::record::Records;
use plugin_api::graph::GraphPlugin;
use plugin_api::snapshot::Snapshotter;
use plugin_api::{Fault, FaultKind};

/// Opens the overlay driver behind Docker's door. `state` exists, belongs to root and is closed to
/// others (0700 or 0710). A second opening while this one lives is refused as in use.
pub fn open_overlay(state: &Path) -> Result<Arc<dyn GraphPlugin>, Fault> {
    let state = absolute(state)?;
    let lock = lock_dir(&state).map_err(kernel_fault)?;
    let records = Arc::new(Records::open(&state.join("state.redb")).map_err(kernel_fault)?);
    let driver = overlay::Driver::open(&state, Arc::clone(&records))?;
    let door = docker::Door::open(driver, &state, records, lock)?;
    Ok(Arc::new(door))
}

/// As [`open_overlay`], behind containerd's door: a store of its own, in a state folder of its own.
pub fn open_overlay_snapshots(state: &Path) -> Result<Arc<dyn Snapshotter>, Fault> {
    let state = absolute(state)?;
    let lock = lock_dir(&state).map_err(kernel_fault)?;
    let records = Arc::new(Records::open(&state.join("state.redb")).map_err(kernel_fault)?);
    let driver = overlay::Driver::open(&state, Arc::clone(&records))?;
    let rooms = snapshot::Rooms::open(driver, records, lock)?;
    Ok(Arc::new(rooms))
}

/// Mount tables know no relative paths and no links.
fn absolute(state: &Path) -> Result<PathBuf, Fault> {
    state.canonicalize().map_err(|error| {
        let message = format!("open state folder {}", state.display());
        Fault::not_found(message).because(error)
    })
}

pub(crate) fn kernel_fault(error: kernel::Error) -> Fault {
    use std::io::ErrorKind;
    let kind = match error.source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FaultKind::Exhausted,
        ErrorKind::ResourceBusy => FaultKind::InUse,
        ErrorKind::Unsupported => FaultKind::Unsupported,
        _ => FaultKind::Internal,
    };
    Fault::from_error(kind, error)
}

pub(crate) fn damaged(error: kernel::record::Damaged) -> Fault {
    Fault::from_error(FaultKind::Corrupt, error)
}
