//! What the kernel says about pools and thin devices.

use super::table::{Blocks, Sectors};

/// Whether a pool takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// It does.
    ReadWrite,
    /// It does not, for its metadata may not be changed.
    ReadOnly,
    /// It does where blocks are there already.
    OutOfDataSpace,
}

/// The state of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolStatus {
    /// It failed and answers nothing.
    Failed,
    /// It works.
    Working(PoolState),
}

/// The state of a pool that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolState {
    /// The transaction number.
    pub transaction: u64,
    /// Blocks of 4 KiB of metadata in use.
    pub metadata_used: Blocks,
    /// All blocks of metadata.
    pub metadata_total: Blocks,
    /// Blocks of data in use.
    pub data_used: Blocks,
    /// All blocks of data.
    pub data_total: Blocks,
    /// Where the kept copy of the metadata begins, in blocks of metadata.
    pub held_root: Option<u64>,
    /// Whether it takes writes.
    pub mode: PoolMode,
    /// Whether discards go on to the data device.
    pub discard_passdown: bool,
    /// Whether writes fail, instead of waiting, when no space is left.
    pub error_if_no_space: bool,
    /// Whether the metadata must be checked before the next use.
    pub needs_check: bool,
}

impl PoolStatus {
    /// From a status line of the kernel; none if it is no pool's.
    pub fn parse(text: &str) -> Option<Self> {
        if text.trim() == "Fail" {
            return Some(Self::Failed);
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let [transaction, metadata, data, root, mode, discard, full, rest @ ..] = words.as_slice() else {
            return None;
        };
        let (metadata_used, metadata_total) = part(metadata)?;
        let (data_used, data_total) = part(data)?;
        Some(Self::Working(PoolState {
            transaction: transaction.parse().ok()?,
            metadata_used,
            metadata_total,
            data_used,
            data_total,
            held_root: if *root == "-" {
                None
            } else {
                Some(root.parse().ok()?)
            },
            mode: match *mode {
                "rw" => PoolMode::ReadWrite,
                "ro" => PoolMode::ReadOnly,
                "out_of_data_space" => PoolMode::OutOfDataSpace,
                _ => return None,
            },
            // A pool that ignores discards passes none on either.
            discard_passdown: *discard == "discard_passdown",
            error_if_no_space: match *full {
                "error_if_no_space" => true,
                "queue_if_no_space" => false,
                _ => return None,
            },
            needs_check: rest.first() == Some(&"needs_check"),
        }))
    }
}

/// `12/2048`.
fn part(word: &str) -> Option<(Blocks, Blocks)> {
    let (used, total) = word.split_once('/')?;
    Some((Blocks(used.parse().ok()?), Blocks(total.parse().ok()?)))
}

/// The state of a thin device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinStatus {
    /// Its pool failed.
    Failed,
    /// It works.
    Working {
        /// How much of it has blocks, shared ones too.
        mapped: Sectors,
        /// The last sector that has a block, if any has.
        highest: Option<Sectors>,
    },
}

impl ThinStatus {
    /// From a status line of the kernel; none if it is no thin device's.
    pub fn parse(text: &str) -> Option<Self> {
        if text.trim() == "Fail" {
            return Some(Self::Failed);
        }
        let mut words = text.split_whitespace();
        let mapped = Sectors(words.next()?.parse().ok()?);
        let highest = match words.next()? {
            "-" => None,
            word => Some(Sectors(word.parse().ok()?)),
        };
        Some(Self::Working { mapped, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_says_what_it_has() {
        let text = "1 12/4096 3/1600 - rw discard_passdown queue_if_no_space - 1024";
        let Some(PoolStatus::Working(state)) = PoolStatus::parse(text) else {
            panic!("{text}");
        };
        assert_eq!(
            (state.metadata_used, state.metadata_total),
            (Blocks(12), Blocks(4096))
        );
        assert_eq!((state.data_used, state.data_total), (Blocks(3), Blocks(1600)));
        assert_eq!((state.transaction, state.held_root), (1, None));
        assert!(state.discard_passdown && !state.error_if_no_space && !state.needs_check);
    }

    #[test]
    fn a_pool_in_need_says_so() {
        let text = "0 1/2 2/2 77 out_of_data_space ignore_discard error_if_no_space needs_check 1024";
        let Some(PoolStatus::Working(state)) = PoolStatus::parse(text) else {
            panic!("{text}");
        };
        assert_eq!(
            (state.mode, state.held_root),
            (PoolMode::OutOfDataSpace, Some(77))
        );
        assert!(state.error_if_no_space && state.needs_check && !state.discard_passdown);
        assert_eq!(PoolStatus::parse("Fail"), Some(PoolStatus::Failed));
    }

    #[test]
    fn what_is_no_status_is_none() {
        for text in [
            "",
            "1",
            "1 2 3 4 5 6 7",
            "x 1/2 1/2 - rw a queue_if_no_space",
            "Error",
        ] {
            assert_eq!(PoolStatus::parse(text), None, "{text}");
        }
        for text in ["", "1", "- -", "1 x"] {
            assert_eq!(ThinStatus::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_thin_device_says_what_is_mapped() {
        let none = ThinStatus::Working {
            mapped: Sectors(0),
            highest: None,
        };
        assert_eq!(ThinStatus::parse("0 -"), Some(none));
        let some = ThinStatus::Working {
            mapped: Sectors(128),
            highest: Some(Sectors(127)),
        };
        assert_eq!(ThinStatus::parse("128 127"), Some(some));
    }
}
