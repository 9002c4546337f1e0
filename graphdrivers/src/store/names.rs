//! What the doors call layers, beside the names in containerd's own table of snapshots.

use std::collections::HashMap;

use kernel::record::{Batch, Records};
use plugin_api::id::LayerId;
use plugin_api::{Fault, FaultKind};

use super::rows::{Number, number};
use crate::kernel_fault;

/// Docker's ids.
const NAMES: &str = "names";
const MARKS: &str = "marks";
/// The empty layer below all snapshots.
const BASE: &str = "below snapshots";
/// The back end by whose ways the layers are kept.
const DRIVER: &str = "driver";

pub(crate) fn put(batch: Batch, id: &str, layer: Number) -> Batch {
    batch.put(NAMES, id, layer.to_string().into_bytes())
}

pub(crate) fn delete(batch: Batch, id: &LayerId) -> Batch {
    batch.delete(NAMES, id.as_str())
}

/// Docker's layers.
pub(crate) fn load(records: &Records) -> Result<HashMap<LayerId, Number>, Fault> {
    let mut names = HashMap::new();
    for (key, value) in records.list(NAMES).map_err(kernel_fault)? {
        let id = LayerId::new(key).map_err(|error| Fault::from_error(FaultKind::Corrupt, error))?;
        names.insert(id, number(&String::from_utf8_lossy(&value))?);
    }
    Ok(names)
}

/// Refuses a store that another driver made: its layers would be shown as what they are not. One from before
/// this was recorded is of overlays.
pub(super) fn keep_driver(records: &Records, driver: &str) -> Result<(), Fault> {
    let recorded = records.get(MARKS, DRIVER).map_err(kernel_fault)?;
    if recorded.as_deref() == Some(driver.as_bytes()) {
        return Ok(());
    }
    let layers = !records.list(super::rows::ROWS).map_err(kernel_fault)?.is_empty();
    let made_by = match recorded {
        Some(name) => String::from_utf8_lossy(&name).into_owned(),
        None => if layers { "overlay" } else { driver }.to_owned(),
    };
    if made_by != driver && layers {
        return Err(Fault::invalid(format!(
            "open layers with driver {driver}: they were made with {made_by}; name that one, or another state folder"
        )));
    }
    let batch = Batch::new().put(MARKS, DRIVER, driver.as_bytes().to_vec());
    records.commit(&batch).map_err(kernel_fault)
}

pub(crate) fn put_base(batch: Batch, layer: Number) -> Batch {
    batch.put(MARKS, BASE, layer.to_string().into_bytes())
}

/// The layer below all snapshots, once there was one.
pub(crate) fn base(records: &Records) -> Result<Option<Number>, Fault> {
    let value = records.get(MARKS, BASE).map_err(kernel_fault)?;
    value
        .map(|value| number(&String::from_utf8_lossy(&value)))
        .transpose()
}
