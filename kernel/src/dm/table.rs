//! What a device is made of, and the words that the kernel has for it.

use std::fmt;

/// A length or a place in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

/// A length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A number of blocks: a pool's own for data, 4 KiB for metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks(pub u64);

impl Bytes {
    /// The whole sectors in it; a rest is dropped.
    pub fn sectors(self) -> Sectors {
        Sectors(self.0 / 512)
    }
}

impl Sectors {
    /// In bytes; none when that is more than a number holds.
    pub fn bytes(self) -> Option<Bytes> {
        self.0.checked_mul(512).map(Bytes)
    }
}

/// A block device by its numbers, shown as `MAJOR:MINOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The driver's number.
    pub major: u32,
    /// The device's number within it.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The size of a pool's blocks: 64 KiB to 1 GiB, a multiple of 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize(Sectors);

impl BlockSize {
    /// The size, or none if no pool can have it.
    pub fn new(size: Bytes) -> Option<Self> {
        let unit = 64 << 10;
        ((unit..=1 << 30).contains(&size.0) && size.0.is_multiple_of(unit)).then(|| Self(size.sectors()))
    }

    /// In sectors.
    pub fn sectors(self) -> Sectors {
        self.0
    }
}

/// The number of a thin device in its pool: 24 bits, chosen by whoever makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThinId(u32);

impl ThinId {
    /// The id, or none if it is longer than 24 bits.
    pub fn new(id: u32) -> Option<Self> {
        (id < 1 << 24).then_some(Self(id))
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A pool's wishes; none of them set is the kernel's own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a word of the kernel's")]
pub struct PoolFeatures {
    /// Leave new blocks as they are: whoever reads a block not written wholly sees what was there.
    pub skip_block_zeroing: bool,
    /// Take no discards.
    pub ignore_discard: bool,
    /// Keep discards from the data device.
    pub no_discard_passdown: bool,
    /// Fail writes at once when no space is left, instead of queueing them.
    pub error_if_no_space: bool,
}

impl PoolFeatures {
    fn words(self) -> Vec<&'static str> {
        let all = [
            (self.skip_block_zeroing, "skip_block_zeroing"),
            (self.ignore_discard, "ignore_discard"),
            (self.no_discard_passdown, "no_discard_passdown"),
            (self.error_if_no_space, "error_if_no_space"),
        ];
        all.into_iter()
            .filter(|(set, _)| *set)
            .map(|(_, word)| word)
            .collect()
    }
}

/// What one stretch of a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A stretch of another device.
    Linear {
        /// Which.
        device: Device,
        /// From where.
        offset: Sectors,
    },
    /// Every read and write fails.
    Error,
    /// A device that fails every now and then.
    Flakey {
        /// Which.
        device: Device,
        /// From where.
        offset: Sectors,
        /// Seconds for which it works.
        up: u32,
        /// Seconds for which it fails.
        down: u32,
    },
    /// A pool of blocks.
    ThinPool {
        /// Where it writes down which block is whose.
        metadata: Device,
        /// The blocks.
        data: Device,
        /// Their size, fixed for life.
        block: BlockSize,
        /// An event comes when fewer blocks are free.
        low_water: Blocks,
        /// Its wishes.
        features: PoolFeatures,
    },
    /// A device that takes blocks of a pool as it is written.
    Thin {
        /// The pool.
        pool: Device,
        /// Its id there.
        id: ThinId,
        /// What is read where it was never written.
        origin: Option<Device>,
    },
}

impl Target {
    /// The name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Error => "error",
            Self::Flakey { .. } => "flakey",
            Self::ThinPool { .. } => "thin-pool",
            Self::Thin { .. } => "thin",
        }
    }

    /// The words behind it.
    pub(super) fn parameters(&self) -> String {
        match self {
            Self::Linear { device, offset } => format!("{device} {}", offset.0),
            Self::Error => String::new(),
            Self::Flakey {
                device,
                offset,
                up,
                down,
            } => format!("{device} {} {up} {down}", offset.0),
            Self::ThinPool {
                metadata,
                data,
                block,
                low_water,
                features,
            } => {
                let words = features.words();
                let head = format!("{metadata} {data} {} {}", block.sectors().0, low_water.0);
                let count = words.len().to_string();
                [&[head.as_str(), count.as_str()], &words[..]].concat().join(" ")
            }
            Self::Thin { pool, id, origin } => match origin {
                None => format!("{pool} {}", id.get()),
                Some(origin) => format!("{pool} {} {origin}", id.get()),
            },
        }
    }
}

/// What a pool is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMessage {
    /// Make an empty thin device; EEXIST if the id is taken.
    CreateThin(ThinId),
    /// Make a thin device with the blocks of another, which must be suspended if it is active: the kernel
    /// does not see to that.
    CreateSnap {
        /// The new one.
        new: ThinId,
        /// Whose blocks it has.
        origin: ThinId,
    },
    /// Forget a thin device: EBUSY while it is active, ENODATA if there is none.
    Delete(ThinId),
    /// Change the pool's transaction number and write everything down; EINVAL if it is not `old`.
    SetTransaction {
        /// What it is.
        old: u64,
        /// What it is to be.
        new: u64,
    },
    /// Keep a copy of the metadata for readers; there is one at most.
    ReserveMetadataSnap,
    /// Drop that copy.
    ReleaseMetadataSnap,
}

impl fmt::Display for PoolMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateThin(id) => write!(f, "create_thin {}", id.get()),
            Self::CreateSnap { new, origin } => write!(f, "create_snap {} {}", new.get(), origin.get()),
            Self::Delete(id) => write!(f, "delete {}", id.get()),
            Self::SetTransaction { old, new } => write!(f, "set_transaction_id {old} {new}"),
            Self::ReserveMetadataSnap => f.write_str("reserve_metadata_snap"),
            Self::ReleaseMetadataSnap => f.write_str("release_metadata_snap"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Device = Device { major: 7, minor: 0 };
    const B: Device = Device { major: 7, minor: 1 };

    #[test]
    fn tables_are_in_the_kernels_words() {
        let pool = |features| Target::ThinPool {
            metadata: A,
            data: B,
            block: BlockSize::new(Bytes(64 << 10)).unwrap(),
            low_water: Blocks(32),
            features,
        };
        let wishes = PoolFeatures {
            skip_block_zeroing: true,
            error_if_no_space: true,
            ..PoolFeatures::default()
        };
        assert_eq!(pool(PoolFeatures::default()).parameters(), "7:0 7:1 128 32 0");
        assert_eq!(
            pool(wishes).parameters(),
            "7:0 7:1 128 32 2 skip_block_zeroing error_if_no_space"
        );
        let thin = |origin| Target::Thin {
            pool: A,
            id: ThinId::new(5).unwrap(),
            origin,
        };
        assert_eq!(thin(None).parameters(), "7:0 5");
        assert_eq!(thin(Some(B)).parameters(), "7:0 5 7:1");
        let flakey = Target::Flakey {
            device: A,
            offset: Sectors(8),
            up: 1,
            down: 2,
        };
        assert_eq!(flakey.parameters(), "7:0 8 1 2");
    }

    #[test]
    fn impossible_sizes_and_ids_cannot_be_said() {
        for wrong in [0, 4096, (64 << 10) + 512, 96 << 10, 2 << 30] {
            assert_eq!(BlockSize::new(Bytes(wrong)), None, "{wrong}");
        }
        assert!(BlockSize::new(Bytes(1 << 30)).is_some());
        assert_eq!(ThinId::new(1 << 24), None);
        assert_eq!(ThinId::new((1 << 24) - 1).unwrap().get(), 16_777_215);
    }

    #[test]
    fn messages_are_in_the_kernels_words() {
        let id = |id| ThinId::new(id).unwrap();
        let snap = PoolMessage::CreateSnap {
            new: id(2),
            origin: id(1),
        };
        assert_eq!(snap.to_string(), "create_snap 2 1");
        assert_eq!(
            PoolMessage::SetTransaction { old: 0, new: 1 }.to_string(),
            "set_transaction_id 0 1"
        );
    }
}
