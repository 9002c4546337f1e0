//! Layers: copy-on-write file trees for container engines.
//!
//! [`store::Store`] keeps layers: ids, records, locks, trash, recovery. Below it a [`backend::Backend`] does
//! with folders what differs between ways of keeping them; [`overlay`] is one, [`whole`] holds two more. Above it stand two doors:
//! [`docker::Door`] mounts what is there, counts who holds what ([`holds`]) and streams archives
//! ([`archive`]); [`snapshot::Rooms`] tells containerd what to mount. Both may stand before one store.
//! [`differ::Trees`] unpacks and packs archives for containerd.
//!
//! **Invariant:** one process per state folder; everything in it can be rebuilt from `state.redb`, the
//! folders and the kernel's list of mounts, in whichever state a death left them.

pub mod adopt;
pub mod archive;
pub mod backend;
pub mod differ;
pub mod docker;
pub mod holds;
mod keyed;
pub mod overlay;
pub mod snapshot;
pub mod store;
pub mod whole;

use std::path::Path;
use std::sync::Arc;

use plugin_api::differ::Differ;
use plugin_api::graph::GraphPlugin;
use plugin_api::snapshot::Snapshotter;
use plugin_api::{Fault, FaultKind};

use backend::Backend;
use store::Store;

/// Opens the layers in `state`, kept in the way of that name (`overlay`, `btrfs`, `vfs`). `state` exists, belongs to root and
/// is closed to others (0700 or 0710). A second opening while this one lives is refused as in use.
pub fn open_store(state: &Path, driver: &str) -> Result<Arc<Store>, Fault> {
    let backend: Box<dyn Backend> = match driver {
        "overlay" => Box::new(overlay::Overlay),
        "vfs" => Box::new(whole::vfs::Vfs::default()),
        "btrfs" => Box::new(whole::btrfs::Btrfs::default()),
        other => {
            let other = plugin_api::id::quoted(other);
            return Err(Fault::invalid(format!(
                "open layers: there is no way {other} of keeping them"
            )));
        }
    };
    Ok(Arc::new(Store::open(state, backend)?))
}

/// Docker's door to a store.
pub fn graph_door(store: &Arc<Store>) -> Result<Arc<dyn GraphPlugin>, Fault> {
    Ok(Arc::new(docker::Door::open(Arc::clone(store))?))
}

/// containerd's door to a store.
pub fn snapshot_door(store: &Arc<Store>) -> Result<Arc<dyn Snapshotter>, Fault> {
    Ok(Arc::new(snapshot::Rooms::open(Arc::clone(store))?))
}

/// containerd's differ over a store.
pub fn differ(store: &Arc<Store>) -> Result<Arc<dyn Differ>, Fault> {
    Ok(Arc::new(differ::Trees::open(Arc::clone(store))?))
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
