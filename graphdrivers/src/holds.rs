//! Who holds a layer: counts that outlive this process, as the mounts do, and no longer.
//!
//! A mount at a layer's mountpoint is a hold by itself. Only what a mount does not tell is written, to a
//! small file that is never flushed: a power cut takes the mounts too, and what was held is void then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernel::fsutil::{self, Folder};
use plugin_api::Fault;
use plugin_api::id::LayerId;

use crate::kernel_fault;

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
    /// What a mount alone says.
    pub const MOUNTED_ONCE: Self = Self {
        count: 1,
        mounted: true,
        inherited: false,
    };

    /// Always of one length, so that a file is rewritten in place and by one write.
    fn encode(self) -> String {
        let flag = |set, letter| if set { letter } else { '-' };
        let (mounted, inherited) = (flag(self.mounted, 'm'), flag(self.inherited, 'i'));
        format!("{:020} {mounted}{inherited}\n", self.count)
    }

    fn decode(text: &str) -> Option<Self> {
        let (count, flags) = text.trim_end().split_once(' ')?;
        let hold = Self {
            count: count.parse().ok()?,
            mounted: flags.starts_with('m'),
            inherited: flags.ends_with('i'),
        };
        (hold.encode() == text).then_some(hold)
    }
}

/// All holds. Changes of one layer are made by one caller at a time: the door's lock for that layer.
#[derive(Debug)]
pub struct Holds {
    folder: PathBuf,
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
    /// Reads the counts in `folder`, made if it is missing, for the layers that `mounted` names: those at
    /// whose mountpoints something is mounted. What the files say of others that are mounted is void.
    pub fn open(folder: &Path, mounted: &[LayerId]) -> Result<Self, Fault> {
        fsutil::make_dir(folder, 0o700).map_err(kernel_fault)?;
        let mut table: BTreeMap<LayerId, Hold> = BTreeMap::new();
        for id in mounted {
            table.insert(id.clone(), Hold::MOUNTED_ONCE);
        }
        let files = Folder::open(folder).map_err(kernel_fault)?;
        for entry in files.entries().map_err(kernel_fault)? {
            let text = std::fs::read_to_string(folder.join(&entry.name)).unwrap_or_default();
            let id = entry.name.to_str().and_then(|name| LayerId::new(name).ok());
            match id.zip(Hold::decode(&text)) {
                Some((id, hold)) if hold.mounted == table.contains_key(&id) => drop(table.insert(id, hold)),
                _ => drop(files.unlink(&entry.name).map_err(kernel_fault)?),
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
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

    /// Notes a layer's holds; `None` forgets them.
    pub fn set(&self, id: &LayerId, hold: Option<Hold>) -> Result<(), Fault> {
        let before = self.get(id);
        self.write(id, before, hold)?;
        match hold {
            Some(hold) => self.table().insert(id.clone(), hold),
            None => self.table().remove(id),
        };
        Ok(())
    }

    fn write(&self, id: &LayerId, before: Option<Hold>, hold: Option<Hold>) -> Result<(), Fault> {
        let told = |hold: Option<Hold>| hold.is_none_or(|hold| hold == Hold::MOUNTED_ONCE);
        let file = self.folder.join(id.as_str());
        match hold {
            Some(hold) if !told(Some(hold)) => fsutil::write_in_place(&file, hold.encode().as_bytes(), 0o600),
            _ if told(before) => Ok(()),
            _ => fsutil::remove_tree(&file).map(drop),
        }
        .map_err(kernel_fault)
    }

    /// A new engine begins: every count is void. Mounts stay, for its containers may still run on them.
    pub fn void(&self) -> Result<bool, Fault> {
        let mut changed = false;
        for (id, hold) in self.list() {
            let after = Hold {
                count: 0,
                inherited: true,
                ..hold
            };
            let after = hold.mounted.then_some(after);
            changed |= after != Some(hold);
            self.set(&id, after)?;
        }
        Ok(changed)
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

    fn id(text: &str) -> LayerId {
        LayerId::new(text).unwrap()
    }

    #[test]
    fn counts_are_there_after_reopening_and_void_for_a_new_engine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holds");
        let files = || std::fs::read_dir(&path).unwrap().count();
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let twice = Hold {
            count: 2,
            ..Hold::MOUNTED_ONCE
        };
        let plain = Hold {
            count: 1,
            ..Hold::default()
        };
        {
            let holds = Holds::open(&path, &[]).unwrap();
            holds.set(&a, Some(Hold::MOUNTED_ONCE)).unwrap();
            assert_eq!(files(), 0);
            holds.set(&a, Some(twice)).unwrap();
            holds.set(&b, Some(plain)).unwrap();
            holds.set(&c, Some(twice)).unwrap();
            assert_eq!(files(), 3);
        }
        std::fs::write(path.join("torn"), "").unwrap();
        // `c` is not mounted any more, `d` is and nobody wrote it down.
        let holds = Holds::open(&path, &[a.clone(), id("d")]).unwrap();
        assert_eq!(files(), 2);
        let expected = [(a.clone(), twice), (b, plain), (id("d"), Hold::MOUNTED_ONCE)];
        assert_eq!(holds.list(), expected);
        assert!(holds.void().unwrap());
        assert!(!holds.void().unwrap());
        let inherited = Hold {
            count: 0,
            mounted: true,
            inherited: true,
        };
        assert_eq!(holds.list(), [(a.clone(), inherited), (id("d"), inherited)]);
        holds.set(&a, None).unwrap();
        assert_eq!(files(), 1);
    }

    #[test]
    fn a_hold_is_read_as_it_was_written_and_nothing_else_is() {
        for (count, mounted, inherited) in [(0, true, true), (u64::MAX, false, false), (3, true, false)] {
            let hold = Hold {
                count,
                mounted,
                inherited,
            };
            assert_eq!(Hold::decode(&hold.encode()), Some(hold));
        }
        for text in ["", "1 mi\n", "00000000000000000001 xx\n", "\0\0\0"] {
            assert_eq!(Hold::decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_stream_is_told_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let holds = Holds::open(&folder.path().join("holds"), &[]).unwrap();
        let id = id("a");
        let (one, two) = (holds.stream(&id), holds.stream(&id));
        drop(one);
        assert!(holds.is_streaming(&id));
        drop(two);
        assert!(!holds.is_streaming(&id));
    }
}
