//! The layers' records.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::graph::Usage;
use plugin_api::{Fault, FaultKind};

use crate::{damaged, kernel_fault};

pub(super) const ROWS: &str = "homes";
const COUNTER: &str = "counter";
const NEXT: &str = "next";
const VERSION: u8 = 1;
/// Numbers are reserved this many at a time.
const RESERVE: u64 = 1024;

/// A layer's name in the store: never given twice, also not after a removal or a death. Written with the
/// digits and small letters of base 36.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub(super) u64);

impl Number {
    /// Reads what `Display` writes; nothing else is a number.
    pub fn parse(text: &str) -> Option<Self> {
        let number = Self(u64::from_str_radix(text, 36).ok()?);
        (number.to_string() == text).then_some(number)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Thirteen digits of base 36 hold 64 bits.
        let mut text = [0; 13];
        let (mut at, mut left) = (text.len(), self.0);
        loop {
            at -= 1;
            text[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(left % 36) as usize];
            left /= 36;
            if left == 0 {
                break;
            }
        }
        f.pad(std::str::from_utf8(&text[at..]).unwrap_or("?"))
    }
}

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made. What a container or containerd writes into it is theirs to keep.
    Open,
    /// Its content is on disk and does not change.
    Sealed,
}

/// What is recorded of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The layer below it.
    pub parent: Option<Number>,
    /// Whether it is made to be written through a mount.
    pub writable: bool,
    /// SELinux label of its mounts.
    pub label: Option<String>,
    /// Most bytes that may be written into it.
    pub limit: Option<u64>,
    /// How far it is.
    pub state: State,
    /// What it holds, where that was measured and does not change.
    pub usage: Option<Usage>,
}

fn maybe_number(value: Encoder, number: Option<u64>) -> Encoder {
    match number {
        None => value.flag(false),
        Some(number) => value.flag(true).number(number),
    }
}

fn read_maybe_number(value: &mut Decoder<'_>) -> Result<Option<u64>, Damaged> {
    if value.flag()? {
        value.number().map(Some)
    } else {
        Ok(None)
    }
}

impl Row {
    fn encode(&self) -> Vec<u8> {
        let value = Encoder::new(VERSION);
        let value = maybe_number(value, self.parent.map(|parent| parent.0));
        let value = value.flag(self.writable).maybe(self.label.as_deref());
        let value = maybe_number(value, self.limit).flag(self.state == State::Sealed);
        let value = maybe_number(value, self.usage.map(|usage| usage.bytes));
        maybe_number(value, self.usage.map(|usage| usage.inodes)).finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut value = Decoder::new("layer", VERSION, bytes)?;
        let parent = read_maybe_number(&mut value)?.map(Number);
        let writable = value.flag()?;
        let label = value.maybe()?;
        let limit = read_maybe_number(&mut value)?;
        let state = if value.flag()? { State::Sealed } else { State::Open };
        let bytes = read_maybe_number(&mut value)?;
        let inodes = read_maybe_number(&mut value)?;
        let usage = bytes.zip(inodes).map(|(bytes, inodes)| Usage { bytes, inodes });
        value.end()?;
        Ok(Self {
            parent,
            writable,
            label,
            limit,
            state,
            usage,
        })
    }
}

/// Every recorded layer.
pub(super) fn load(records: &Records) -> Result<BTreeMap<Number, Row>, Fault> {
    let mut all = BTreeMap::new();
    for (key, value) in records.list(ROWS).map_err(kernel_fault)? {
        let row = Row::decode(&value).map_err(damaged)?;
        all.insert(number(&key)?, row);
    }
    Ok(all)
}

/// A number that we recorded.
pub(super) fn number(text: &str) -> Result<Number, Fault> {
    Number::parse(text).ok_or_else(|| {
        let text = plugin_api::id::quoted(text);
        Fault::new(
            FaultKind::Corrupt,
            format!("record of layers: {text} is no layer's number"),
        )
    })
}

pub(super) fn put(batch: Batch, number: Number, row: &Row) -> Batch {
    batch.put(ROWS, &number.to_string(), row.encode())
}

pub(super) fn delete(batch: Batch, number: Number) -> Batch {
    batch.delete(ROWS, &number.to_string())
}

/// Numbers that were never given before, also not before a death.
#[derive(Debug)]
pub(super) struct Counter {
    next: AtomicU64,
    /// Below it everything may be given.
    reserved: AtomicU64,
    reserving: Mutex<()>,
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
        Ok(Self {
            next: AtomicU64::new(next),
            reserved: AtomicU64::new(next),
            reserving: Mutex::new(()),
        })
    }

    pub(super) fn take(&self, records: &Records) -> Result<Number, Fault> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.reserved.load(Ordering::Acquire) {
            let _alone = self.reserving.lock().unwrap_or_else(PoisonError::into_inner);
            if number >= self.reserved.load(Ordering::Acquire) {
                let until = number + RESERVE;
                let value = Encoder::new(VERSION).number(until).finish();
                let batch = Batch::new().put(COUNTER, NEXT, value);
                records.commit(&batch).map_err(kernel_fault)?;
                self.reserved.store(until, Ordering::Release);
            }
        }
        Ok(Number(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_digits_and_letters_and_read_back() {
        let texts: Vec<String> = [0, 9, 10, 35, 36, 1295, 1296]
            .map(|number| Number(number).to_string())
            .to_vec();
        assert_eq!(texts, ["0", "9", "a", "z", "10", "zz", "100"]);
        for number in [0, 35, 36, u64::MAX] {
            let number = Number(number);
            assert_eq!(Number::parse(&number.to_string()), Some(number));
        }
        for text in ["", "A", "+1", "01", "-1", "a/b", "zzzzzzzzzzzzzz"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_layer_is_read_as_it_was_written() {
        let row = Row {
            parent: Some(Number(77)),
            writable: true,
            label: Some("system_u:object_r:x:s0:c1,c2".into()),
            limit: Some(1 << 30),
            state: State::Sealed,
            usage: Some(Usage { bytes: 7, inodes: 3 }),
        };
        let bytes = row.encode();
        assert_eq!(Row::decode(&bytes).unwrap(), row);
        for end in 0..bytes.len() {
            assert!(Row::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn no_number_is_given_twice_by_many_or_after_the_counter_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("r")).unwrap();
        let counter = Counter::load(&records).unwrap();
        let take =
            |count: usize| -> Vec<Number> { (0..count).map(|_| counter.take(&records).unwrap()).collect() };
        let mut all: Vec<Number> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| take(600))).collect();
            takers
                .into_iter()
                .flat_map(|taker| taker.join().unwrap())
                .collect()
        });
        let counter = Counter::load(&records).unwrap();
        all.push(counter.take(&records).unwrap());
        assert_eq!(all.iter().max(), all.last());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2401);
    }
}
