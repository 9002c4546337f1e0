//! The bytes of the log.
//!
//! A file is [`MAGIC`], then records: length, CRC of the length, CRC of the payload (each 4 bytes,
//! little endian), payload. Every record is synced before the next is written, so a write that was cut
//! off can only be the last record; anything else that does not read is damage, and is refused.

use super::state::{Entry, Record};
use crate::{LeaseId, Revision, Row};

/// What a log begins with.
pub(super) const MAGIC: &[u8; 8] = b"LSKVLOG1";
const HEADER: usize = 12;

/// What stands at a place of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record, and how many bytes it takes.
    Record(Record, usize),
    /// Nothing: the end.
    End,
    /// The beginning of a record whose writer died.
    Torn,
    /// Something else.
    Damage(&'static str),
}

/// Reads the first record of `bytes`, which go to the end of the file.
pub(super) fn read(bytes: &[u8]) -> Found {
    if bytes.is_empty() {
        return Found::End;
    }
    // After a power cut a file may be longer than what was written to it.
    if bytes.len() < HEADER || bytes.iter().all(|byte| *byte == 0) {
        return Found::Torn;
    }
    let word = |at: usize| {
        let four = bytes[at..at + 4].try_into().expect("four bytes are four bytes");
        u32::from_le_bytes(four)
    };
    if crc32fast::hash(&bytes[..4]) != word(4) {
        return Found::Damage("a length whose checksum is wrong");
    }
    let length = word(0) as usize;
    let Some(payload) = bytes[HEADER..].get(..length) else {
        return Found::Torn;
    };
    let last = bytes.len() == HEADER + length;
    if crc32fast::hash(payload) != word(8) {
        return if last {
            Found::Torn
        } else {
            Found::Damage("a record whose checksum is wrong")
        };
    }
    match decode(payload) {
        Some(record) => Found::Record(record, HEADER + length),
        None => Found::Damage("a record of an unknown shape"),
    }
}

/// The bytes of a record; nothing where it is too long for one.
pub(super) fn write(record: &Record) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    match record {
        Record::Whole {
            revision,
            rows,
            leases,
        } => {
            payload.push(0);
            number(&mut payload, *revision);
            number(&mut payload, rows.len() as u64);
            for row in rows {
                text(&mut payload, row.key.as_bytes());
                text(&mut payload, &row.value);
                number(&mut payload, row.revision.0);
                bound(&mut payload, row.lease.as_ref());
            }
            number(&mut payload, leases.len() as u64);
            for lease in leases {
                text(&mut payload, lease.0.as_bytes());
            }
        }
        Record::Commit { revision, entries } => {
            payload.push(1);
            number(&mut payload, *revision);
            number(&mut payload, entries.len() as u64);
            for entry in entries {
                step(&mut payload, entry);
            }
        }
    }
    let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(length);
    bytes.extend(crc32fast::hash(&length).to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend(payload);
    Some(bytes)
}

fn step(out: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::Put { key, value, lease } => {
            out.push(0);
            text(out, key.as_bytes());
            text(out, value);
            bound(out, lease.as_ref());
        }
        Entry::Delete { key } => {
            out.push(1);
            text(out, key.as_bytes());
        }
        Entry::Grant { lease } => {
            out.push(2);
            text(out, lease.0.as_bytes());
        }
        Entry::End { lease } => {
            out.push(3);
            text(out, lease.0.as_bytes());
        }
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_le_bytes());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend(bytes);
}

/// No lease has the empty name.
fn bound(out: &mut Vec<u8>, lease: Option<&LeaseId>) {
    text(out, lease.map_or(&[], |lease| lease.0.as_bytes()));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let count = usize::try_from(self.number()?).ok()?;
        Some(self.take(count)?.to_vec())
    }

    fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    fn lease(&mut self) -> Option<LeaseId> {
        self.string().map(LeaseId)
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| one(self)).collect()
    }
}

fn decode(payload: &[u8]) -> Option<Record> {
    let mut reader = Reader(payload);
    let record = match reader.byte()? {
        0 => Record::Whole {
            revision: reader.number()?,
            rows: reader.many(row)?,
            leases: reader.many(Reader::lease)?,
        },
        1 => Record::Commit {
            revision: reader.number()?,
            entries: reader.many(entry)?,
        },
        _ => return None,
    };
    reader.0.is_empty().then_some(record)
}

/// What [`bound`] wrote.
fn named(lease: LeaseId) -> Option<LeaseId> {
    Some(lease).filter(|lease| !lease.0.is_empty())
}

fn row(reader: &mut Reader<'_>) -> Option<Row> {
    Some(Row {
        key: reader.string()?,
        value: reader.bytes()?,
        revision: Revision(reader.number()?),
        lease: named(reader.lease()?),
    })
}

fn entry(reader: &mut Reader<'_>) -> Option<Entry> {
    Some(match reader.byte()? {
        0 => Entry::Put {
            key: reader.string()?,
            value: reader.bytes()?,
            lease: named(reader.lease()?),
        },
        1 => Entry::Delete {
            key: reader.string()?,
        },
        2 => Entry::Grant {
            lease: reader.lease()?,
        },
        3 => Entry::End {
            lease: reader.lease()?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Record {
        let lease = Some(LeaseId("l".to_owned()));
        Record::Commit {
            revision: 7,
            entries: vec![
                Entry::Put {
                    key: "a/b".to_owned(),
                    value: vec![0, 255, 10],
                    lease,
                },
                Entry::Delete { key: "c".to_owned() },
                Entry::Grant {
                    lease: LeaseId("x".to_owned()),
                },
                Entry::End {
                    lease: LeaseId("y".to_owned()),
                },
            ],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let row = Row {
            key: "a".to_owned(),
            value: vec![1],
            revision: Revision(3),
            lease: None,
        };
        let whole = Record::Whole {
            revision: 9,
            rows: vec![row],
            leases: vec![LeaseId("x".to_owned())],
        };
        for record in [commit(), whole] {
            let bytes = write(&record).unwrap();
            assert_eq!(read(&bytes), Found::Record(record, bytes.len()));
        }
    }

    #[test]
    fn a_record_that_was_cut_off_anywhere_is_torn() {
        let bytes = write(&commit()).unwrap();
        assert_eq!(read(&[]), Found::End);
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Found::Torn, "cut at {cut}");
        }
    }

    #[test]
    fn a_bit_that_fell_over_before_the_last_record_is_damage() {
        let one = write(&commit()).unwrap();
        let two = [one.clone(), one.clone()].concat();
        for at in 0..one.len() {
            let mut bytes = two.clone();
            bytes[at] ^= 4;
            assert!(matches!(read(&bytes), Found::Damage(_)), "byte {at}");
        }
    }

    #[test]
    fn a_file_that_grew_but_was_not_written_is_torn() {
        assert_eq!(read(&[0; 4096]), Found::Torn);
    }
}
