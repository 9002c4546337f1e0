//! Who holds a layer: counts that outlive this process, as the mounts do.
//!
//! A record is written before the mount is made and removed after it is gone. So at open a mount without
//! a record is a leftover, and a record without its mount counts nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::id::LayerId;
use plugin_api::{Fault, FaultKind};

use crate::{damaged, kernel_fault};

const HOLDS: &str = "holds";
const VERSION: u8 = 1;

/// One layer's holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hold {
    /// How many times the engine of now got it and did not put it back. 0: an engine before it did.
    pub count: u64,
    /// Whether a mount of ours shows it; a layer that is one folder needs none.
    pub mounted: bool,
    /// Whether an engine before the one of now had it mounted. A container may have outlived that engine
    /// and run there still: what the engine of now gets and puts back does not take the mount away, only
    /// one more `put`, when it stops the container, does.
    pub inherited: bool,
}

impl Hold {
    fn encode(self) -> Vec<u8> {
        Encoder::new(VERSION)
            .number(self.count)
            .flag(self.mounted)
            .flag(self.inherited)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut value = Decoder::new("hold", VERSION, bytes)?;
        let hold = Self {
            count: value.number()?,
            mounted: value.flag()?,
            inherited: value.flag()?,
        };
        value.end()?;
        Ok(hold)
    }
}

/// All holds. Changes of one layer are made by one caller at a time: the door's lock for that layer.
#[derive(Debug)]
pub struct Holds {
    records: Arc<Records>,
    table: Mutex<BTreeMap<LayerId, Hold>>,
    /// Archives being read or written, which die with this process.
    streams: Mutex<BTreeMap<LayerId, u64>>,
}

/// An archive of the layer is being read or written while this lives.
#[derive(Debug)]
pub struct Stream<'a> {
    holds: &'a Holds,
    id: LayerId,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let mut streams = self.holds.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.id);
            }
        }
    }
}

impl Holds {
    /// Reads the counts.
    pub fn open(records: Arc<Records>) -> Result<Self, Fault> {
        let mut table = BTreeMap::new();
        for (key, value) in records.list(HOLDS).map_err(kernel_fault)? {
            let id = LayerId::new(key).map_err(|error| Fault::from_error(FaultKind::Corrupt, error))?;
            table.insert(id, Hold::decode(&value).map_err(damaged)?);
        }
        Ok(Self {
            records,
            table: Mutex::new(table),
            streams: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<LayerId, Hold>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The holds of a layer, if there are any.
    pub fn get(&self, id: &LayerId) -> Option<Hold> {
        self.table().get(id).copied()
    }

    /// Every layer with holds.
    pub fn list(&self) -> Vec<(LayerId, Hold)> {
        self.table()
            .iter()
            .map(|(id, hold)| (id.clone(), *hold))
            .collect()
    }

    /// Records a layer's holds; `None` forgets them.
    pub fn set(&self, id: &LayerId, hold: Option<Hold>) -> Result<(), Fault> {
        let batch = match hold {
            Some(hold) => Batch::new().put(HOLDS, id.as_str(), hold.encode()),
            None => Batch::new().delete(HOLDS, id.as_str()),
        };
        self.records.commit(&batch).map_err(kernel_fault)?;
        match hold {
            Some(hold) => self.table().insert(id.clone(), hold),
            None => self.table().remove(id),
        };
        Ok(())
    }

    /// A new engine begins: every count is void. Mounts stay, for its containers may still run on them.
    pub fn void(&self) -> Result<bool, Fault> {
        let mut table = self.table();
        let mut after = table.clone();
        after.retain(|_, hold| hold.mounted);
        for hold in after.values_mut() {
            (hold.count, hold.inherited) = (0, true);
        }
        if after == *table {
            return Ok(false);
        }
        let batch = table.keys().fold(Batch::new(), |batch, id| match after.get(id) {
            Some(hold) => batch.put(HOLDS, id.as_str(), hold.encode()),
            None => batch.delete(HOLDS, id.as_str()),
        });
        self.records.commit(&batch).map_err(kernel_fault)?;
        *table = after;
        Ok(true)
    }

    /// Says that an archive of the layer is under way.
    pub fn stream(&self, id: &LayerId) -> Stream<'_> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        *streams.entry(id.clone()).or_default() += 1;
        Stream {
            holds: self,
            id: id.clone(),
        }
    }

    /// Whether an archive of the layer is under way.
    pub fn is_streaming(&self, id: &LayerId) -> bool {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_there_after_reopening_and_void_for_a_new_engine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let (a, b) = (LayerId::new("a").unwrap(), LayerId::new("b").unwrap());
        let mounted = Hold {
            count: 2,
            mounted: true,
            inherited: false,
        };
        {
            let holds = Holds::open(Arc::new(Records::open(&path).unwrap())).unwrap();
            holds.set(&a, Some(mounted)).unwrap();
            holds
                .set(
                    &b,
                    Some(Hold {
                        count: 1,
                        ..Hold::default()
                    }),
                )
                .unwrap();
        }
        let holds = Holds::open(Arc::new(Records::open(&path).unwrap())).unwrap();
        assert_eq!(holds.get(&a), Some(mounted));
        assert!(holds.void().unwrap());
        assert!(!holds.void().unwrap());
        assert_eq!(
            holds.list(),
            [(
                a,
                Hold {
                    count: 0,
                    mounted: true,
                    inherited: true
                }
            )]
        );
    }

    #[test]
    fn a_stream_is_told_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let holds = Holds::open(Arc::new(Records::open(&folder.path().join("r")).unwrap())).unwrap();
        let id = LayerId::new("a").unwrap();
        let (one, two) = (holds.stream(&id), holds.stream(&id));
        drop(one);
        assert!(holds.is_streaming(&id));
        drop(two);
        assert!(!holds.is_streaming(&id));
    }
}
