//! The bytes of one call: the header of `linux/dm-ioctl.h`, and what follows it.

use std::mem::{offset_of, size_of};

/// Longest name with its end.
pub(super) const NAME_LENGTH: usize = 128;
/// Longest uuid with its end.
pub(super) const UUID_LENGTH: usize = 129;
/// Longest name of a target's type with its end.
const TYPE_LENGTH: usize = 16;

/// `struct dm_ioctl`. Only its layout is used: calls are read and written as bytes.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_LENGTH],
    uuid: [u8; UUID_LENGTH],
    data: [u8; 7],
}

/// `struct dm_target_spec`, likewise.
#[repr(C)]
struct Spec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; TYPE_LENGTH],
}

/// Bytes of the header.
pub(super) const HEADER: usize = size_of::<Header>();
const SPEC: usize = size_of::<Spec>();

/// The interface we speak; a kernel of the same major version takes it.
const VERSION: [u32; 3] = [4, 0, 0];

/// A call on its way there and back.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) bytes: Vec<u8>,
}

impl Call {
    /// A call about the device `name`, or about none.
    pub(super) fn new(name: &str, flags: u32) -> Self {
        let mut call = Self {
            bytes: vec![0; HEADER],
        };
        for (at, number) in VERSION.into_iter().enumerate() {
            call.put_u32(offset_of!(Header, version) + 4 * at, number);
        }
        call.put_u32(offset_of!(Header, data_start), 312);
        call.put_u32(offset_of!(Header, flags), flags);
        call.put_text(offset_of!(Header, name), NAME_LENGTH, name);
        call
    }

    /// Adds the uuid of a device to be made.
    pub(super) fn uuid(mut self, uuid: &str) -> Self {
        self.put_text(offset_of!(Header, uuid), UUID_LENGTH, uuid);
        self
    }

    /// Sets the field that is an event's number for one call and udev's flags for others.
    pub(super) fn event(mut self, event: u32) -> Self {
        self.put_u32(offset_of!(Header, event_nr), event);
        self
    }

    /// Adds one line of a table: start and length in sectors.
    pub(super) fn target(mut self, start: u64, length: u64, kind: &str, parameters: &str) -> Self {
        let at = self.bytes.len();
        let count = self.u32(offset_of!(Header, target_count));
        self.put_u32(offset_of!(Header, target_count), count + 1);
        self.bytes.resize(at + SPEC, 0);
        self.put(at + offset_of!(Spec, sector_start), &start.to_ne_bytes());
        self.put(at + offset_of!(Spec, length), &length.to_ne_bytes());
        self.put_text(at + offset_of!(Spec, target_type), TYPE_LENGTH, kind);
        self.bytes.extend(parameters.bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        // From the start of this line to the start of the next.
        let next = u32::try_from(self.bytes.len() - at).expect("a line of a table is short");
        self.put_u32(at + offset_of!(Spec, next), next);
        self
    }

    /// Adds a message for the target at a sector.
    pub(super) fn message(mut self, sector: u64, text: &str) -> Self {
        self.bytes.extend(sector.to_ne_bytes());
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
        self
    }

    /// The call with room for an answer, `room` bytes in all at least.
    pub(super) fn roomy(mut self, room: usize) -> Self {
        let size = self.bytes.len().max(room);
        self.bytes.resize(size, 0);
        let size = u32::try_from(size).expect("an answer is shorter than 4 GiB");
        self.put_u32(offset_of!(Header, data_size), size);
        self
    }

    pub(super) fn version(&self) -> [u32; 3] {
        [0, 4, 8].map(|at| self.u32(at))
    }

    pub(super) fn flags(&self) -> u32 {
        self.u32(offset_of!(Header, flags))
    }

    pub(super) fn opens(&self) -> u32 {
        self.u32(offset_of!(Header, open_count))
    }

    pub(super) fn events(&self) -> u32 {
        self.u32(offset_of!(Header, event_nr))
    }

    pub(super) fn device(&self) -> u64 {
        self.u64(offset_of!(Header, dev))
    }

    /// The lines of a status or a table: start, length, type, text. What is cut short is left out.
    pub(super) fn lines(&self) -> Vec<(u64, u64, String, String)> {
        let data = self.answer();
        let (mut lines, mut at) = (Vec::new(), 0);
        for _ in 0..self.u32(offset_of!(Header, target_count)) {
            let Some(spec) = data.get(at..at + SPEC) else {
                break;
            };
            let kind = offset_of!(Spec, target_type);
            lines.push((
                number(spec, offset_of!(Spec, sector_start)),
                number(spec, offset_of!(Spec, length)),
                text(&spec[kind..kind + TYPE_LENGTH]),
                text(&data[at + SPEC..]),
            ));
            // Coming back, it counts from the first line.
            let next = short(spec, offset_of!(Spec, next));
            if next <= at {
                break;
            }
            at = next;
        }
        lines
    }

    /// Records of a list, each `head` bytes and a name, where `next` is the offset of the way to the next.
    pub(super) fn list(&self, head: usize, next: usize) -> Vec<(Vec<u8>, String)> {
        let data = self.answer();
        let (mut all, mut at) = (Vec::new(), 0);
        while let Some(record) = data.get(at..at + head) {
            let name = text(&data[at + head..]);
            if name.is_empty() {
                break;
            }
            all.push((record.to_vec(), name));
            match short(record, next) {
                0 => break,
                step => at += step,
            }
        }
        all
    }

    fn answer(&self) -> &[u8] {
        let start = short(&self.bytes, offset_of!(Header, data_start));
        self.bytes.get(start..).unwrap_or_default()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: usize, number: u32) {
        self.put(at, &number.to_ne_bytes());
    }

    /// A text with a zero behind it; what does not fit was refused before.
    fn put_text(&mut self, at: usize, room: usize, text: &str) {
        assert!(text.len() < room, "{text} is too long for {room} bytes");
        self.put(at, text.as_bytes());
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        number(&self.bytes, at)
    }
}

/// Eight bytes of a record as a number.
pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn short(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((HEADER, SPEC), (312, 40));
        assert_eq!(offset_of!(Header, flags), 28);
        assert_eq!(offset_of!(Header, event_nr), 32);
        assert_eq!(offset_of!(Header, dev), 40);
        assert_eq!(offset_of!(Header, name), 48);
        assert_eq!(offset_of!(Header, uuid), 176);
        assert_eq!(offset_of!(Header, data), 305);
        assert_eq!(offset_of!(Spec, next), 20);
        assert_eq!(offset_of!(Spec, target_type), 24);
    }

    #[test]
    fn a_table_goes_out_in_whole_words() {
        let call = Call::new("pool", 0)
            .target(0, 8, "linear", "7:0 0")
            .target(8, 8, "error", "");
        assert_eq!(short(&call.bytes, HEADER + 20), 48);
        assert_eq!(text(&call.bytes[HEADER + 48 + 24..]), "error");
        assert_eq!(call.u32(offset_of!(Header, target_count)), 2);
        assert_eq!(call.bytes.len() % 8, 0);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_no_panic() {
        let call = Call::new("pool", 0)
            .target(0, 8, "linear", "7:0 0")
            .target(8, 8, "error", "");
        assert_eq!(call.lines().len(), 2);
        for length in HEADER..call.bytes.len() {
            let mut cut = call.clone();
            cut.bytes.truncate(length);
            let _ = (cut.lines(), cut.list(12, 8));
        }
    }
}
