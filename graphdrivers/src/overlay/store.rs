//! The layers' records.

use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::Fault;
use plugin_api::graph::{LayerKind, Usage};
use plugin_api::id::LayerId;

use super::plan::Layers;
use crate::{damaged, kernel_fault};

const LAYERS: &str = "layers";
const COUNTER: &str = "counter";
const NEXT: &str = "next";
const VERSION: u8 = 1;
/// Names are reserved this many at a time.
const RESERVE: u64 = 64;

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Made; no archive came in.
    Empty,
    /// An archive is coming in: after a death nothing of it counts.
    Applying,
    /// An archive came in wholly and is on disk.
    Filled,
}

/// What is recorded of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) short: String,
    pub(super) parent: Option<LayerId>,
    pub(super) kind: LayerKind,
    pub(super) label: Option<String>,
    pub(super) state: State,
    /// Of a filled layer.
    pub(super) usage: Usage,
}

impl Layer {
    fn encode(&self) -> Vec<u8> {
        let state = match self.state {
            State::Empty => 0,
            State::Applying => 1,
            State::Filled => 2,
        };
        Encoder::new(VERSION)
            .text(&self.short)
            .maybe(self.parent.as_ref().map(LayerId::as_str))
            .flag(self.kind == LayerKind::Container)
            .maybe(self.label.as_deref())
            .number(state)
            .number(self.usage.bytes)
            .number(self.usage.inodes)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut value = Decoder::new("layer", VERSION, bytes)?;
        let short = value.text()?;
        if short.is_empty() || !short.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(value.damaged());
        }
        let parent = value.maybe()?.map(LayerId::new).transpose();
        let parent = parent.map_err(|_| value.damaged())?;
        let kind = if value.flag()? {
            LayerKind::Container
        } else {
            LayerKind::Image
        };
        let label = value.maybe()?;
        let state = match value.number()? {
            0 => State::Empty,
            1 => State::Applying,
            2 => State::Filled,
            _ => return Err(value.damaged()),
        };
        let usage = Usage {
            bytes: value.number()?,
            inodes: value.number()?,
        };
        value.end()?;
        Ok(Self {
            short,
            parent,
            kind,
            label,
            state,
            usage,
        })
    }
}

/// Every recorded layer.
pub(super) fn load(records: &Records) -> Result<Layers, Fault> {
    let mut layers = Layers::new();
    for (key, value) in records.list(LAYERS).map_err(kernel_fault)? {
        let id =
            LayerId::new(key).map_err(|error| Fault::from_error(plugin_api::FaultKind::Corrupt, error))?;
        layers.insert(id, Layer::decode(&value).map_err(damaged)?);
    }
    Ok(layers)
}

pub(super) fn save(records: &Records, id: &LayerId, layer: &Layer) -> Result<(), Fault> {
    let batch = Batch::new().put(LAYERS, id.as_str(), layer.encode());
    records.commit(&batch).map_err(kernel_fault)
}

pub(super) fn forget(records: &Records, id: &LayerId) -> Result<(), Fault> {
    let batch = Batch::new().delete(LAYERS, id.as_str());
    records.commit(&batch).map_err(kernel_fault)
}

/// Numbers that were never given before, also not before a death.
#[derive(Debug)]
pub(super) struct Counter {
    next: u64,
    reserved: u64,
}

impl Counter {
    pub(super) fn load(records: &Records) -> Result<Self, Fault> {
        let next = match records.get(COUNTER, NEXT).map_err(kernel_fault)? {
            None => 1,
            Some(bytes) => {
                let mut value = Decoder::new("layer counter", VERSION, &bytes).map_err(damaged)?;
                value.number().map_err(damaged)?
            }
        };
        Ok(Self { next, reserved: next })
    }

    pub(super) fn take(&mut self, records: &Records) -> Result<u64, Fault> {
        if self.next == self.reserved {
            let reserved = self.reserved + RESERVE;
            let value = Encoder::new(VERSION).number(reserved).finish();
            let batch = Batch::new().put(COUNTER, NEXT, value);
            records.commit(&batch).map_err(kernel_fault)?;
            self.reserved = reserved;
        }
        let number = self.next;
        self.next += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_read_as_it_was_written() {
        let layer = Layer {
            short: "zz".into(),
            parent: Some(LayerId::new("a-init").unwrap()),
            kind: LayerKind::Container,
            label: Some("system_u:object_r:x:s0:c1,c2".into()),
            state: State::Applying,
            usage: Usage { bytes: 7, inodes: 3 },
        };
        let bytes = layer.encode();
        assert_eq!(Layer::decode(&bytes).unwrap(), layer);
        for end in 0..bytes.len() {
            assert!(Layer::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn no_number_is_given_twice_even_when_the_counter_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("r")).unwrap();
        let mut counter = Counter::load(&records).unwrap();
        let first: Vec<u64> = (0..100).map(|_| counter.take(&records).unwrap()).collect();
        let mut counter = Counter::load(&records).unwrap();
        let next = counter.take(&records).unwrap();
        assert!(first.iter().all(|number| *number < next));
        assert!(first.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
