//! Records of an earlier layout: layers by the engine's id, one store for each door.
//!
//! Layers keep their folders. What was Docker's goes into the table of its names, what was containerd's is
//! spoken of by its snapshots, and the empty layer below all snapshots gets a mark.

use std::collections::BTreeMap;
use std::path::Path;

use kernel::fsutil;
use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::Fault;
use plugin_api::graph::Usage;

use super::names;
use super::rows::{self, Number, Row, State};
use crate::{damaged, kernel_fault};

const LAYERS: &str = "layers";
const SNAPSHOTS: &str = "snapshots";
const BASE: &str = "base";
/// The number of a committed snapshot's kind.
const COMMITTED: u64 = 3;

/// A layer as it was recorded.
struct Old {
    number: Number,
    parent: Option<String>,
    row: Row,
    /// An archive was coming in.
    half: bool,
    /// A snapshot's layer.
    spoken_of: bool,
}

impl Old {
    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut value = Decoder::new("layer", 1, bytes)?;
        let short = value.text()?;
        let number = Number::parse(&short).ok_or_else(|| value.damaged())?;
        let parent = value.maybe()?;
        let writable = value.flag()?;
        let label = value.maybe()?;
        let state = value.number()?;
        let usage = Usage {
            bytes: value.number()?,
            inodes: value.number()?,
        };
        if state > 2 {
            return Err(value.damaged());
        }
        value.end()?;
        let sealed = state == 2;
        let row = Row {
            parent: None,
            writable,
            label,
            limit: None,
            state: if sealed { State::Sealed } else { State::Open },
            usage: sealed.then_some(usage),
        };
        Ok(Self {
            number,
            parent,
            row,
            half: state == 1,
            spoken_of: false,
        })
    }
}

/// What a snapshot's record says of its layer, and where in the record its other fields begin.
fn snapshot(bytes: &[u8]) -> Result<Option<(String, bool, usize)>, Damaged> {
    let mut value = Decoder::new("snapshot", 1, bytes)?;
    let Some(layer) = value.maybe()? else {
        return Ok(None);
    };
    let _parent = value.maybe()?;
    let committed = value.number()? == COMMITTED;
    // Version, mark, length, text.
    let rest = 1 + 1 + 4 + layer.len();
    Ok(Some((layer, committed, rest)))
}

fn is_snapshots(id: &str) -> bool {
    let number = id.strip_prefix('s');
    id == BASE || number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Rewrites the records below `state`, in one step; nothing to do is no error.
pub(super) fn run(state: &Path, records: &Records) -> Result<(), Fault> {
    let mut layers = BTreeMap::new();
    for (id, value) in records.list(LAYERS).map_err(kernel_fault)? {
        layers.insert(id, Old::decode(&value).map_err(damaged)?);
    }
    if layers.is_empty() {
        return Ok(());
    }
    tracing::info!(
        layers = layers.len(),
        "write the records of layers anew, in the layout of now"
    );
    let numbers: BTreeMap<String, Number> = layers.iter().map(|(id, old)| (id.clone(), old.number)).collect();
    let mut batch = Batch::new();
    let snapshots = records.list(SNAPSHOTS).map_err(kernel_fault)?;
    let all_snapshots = layers.keys().all(|id| is_snapshots(id));
    let by_snapshots = layers.contains_key(BASE) && (!snapshots.is_empty() || all_snapshots);
    for (key, bytes) in snapshots {
        let Some((layer, committed, rest)) = snapshot(&bytes).map_err(damaged)? else {
            continue;
        };
        let Some(old) = layers.get_mut(&layer) else {
            continue;
        };
        old.spoken_of = true;
        if committed {
            old.row.state = State::Sealed;
        }
        let mut value = Encoder::new(1).maybe(Some(&old.number.to_string())).finish();
        value.extend_from_slice(&bytes[rest..]);
        batch = batch.put(SNAPSHOTS, &key, value);
    }
    for (id, mut old) in layers {
        old.row.parent = match &old.parent {
            None => None,
            Some(parent) => Some(*numbers.get(parent).ok_or_else(|| {
                let message =
                    format!("record of layers: layer {id} lies upon {parent}, of which there is none");
                Fault::new(plugin_api::FaultKind::Corrupt, message)
            })?),
        };
        if old.half {
            let home = state.join("layers").join(old.number.to_string());
            fsutil::remove_tree(&home).map_err(kernel_fault)?;
        }
        batch = batch.delete(LAYERS, &id);
        batch = match (by_snapshots, id.as_str()) {
            (true, BASE) => names::put_base(batch, old.number),
            // A death left it; its folder goes with the next sweep.
            (true, _) if !old.spoken_of => continue,
            (true, _) => batch,
            (false, id) => names::put(batch, id, old.number),
        };
        batch = rows::put(batch, old.number, &old.row);
    }
    records.commit(&batch).map_err(kernel_fault)
}
