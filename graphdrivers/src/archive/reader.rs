//! Reads tar: ustar, PAX and GNU, with limits on everything an archive can ask us to remember.
//!
//! Where sizes contradict each other the rules are those of the engines' own reader: a PAX size wins over
//! the header's, and entries that are no files have no content.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;

use kernel::fsutil::{Time, device};

use super::ArchiveError;

const BLOCK: usize = 512;
const LONGEST_EXTENSION: u64 = 1 << 20;
const LONGEST_PATH: usize = 4096;
const LARGEST_XATTR: usize = 1 << 16;
const MOST_PIECES: usize = 1 << 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file.
    File,
    /// Another name of a file named earlier.
    HardLink,
    /// A symbolic link.
    Link,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its name as the archive has it: may be absolute or worse.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content changed.
    pub mtime: Time,
    /// Content read; the same where the archive does not tell.
    pub atime: Time,
    /// Size of the file in bytes.
    pub size: u64,
    /// Device number.
    pub rdev: u64,
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// For a sparse file the (offset, length) of each stored piece, ascending.
    pub pieces: Option<Vec<(u64, u64)>>,
}

/// What extension headers said about the next entry.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    atime: Option<Time>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    sparse_size: Option<u64>,
    sparse_major: Option<u64>,
    pieces: Option<Vec<(u64, u64)>>,
}

/// Walks an archive: [`Reader::next_item`], then the item's content through [`Read`].
pub struct Reader<'a> {
    inner: &'a mut dyn BufRead,
    content: u64,
    padding: u64,
    entry: u64,
}

type Result<T> = std::result::Result<T, ArchiveError>;

impl<'a> Reader<'a> {
    /// Begins at the first byte of an uncompressed archive.
    pub fn new(inner: &'a mut dyn BufRead) -> Self {
        Self {
            inner,
            content: 0,
            padding: 0,
            entry: 0,
        }
    }

    fn bad<T>(&self, why: &'static str) -> Result<T> {
        Err(ArchiveError::Malformed {
            entry: self.entry,
            why,
        })
    }

    /// The next entry; nothing at the end, when the stream is read to its end too.
    pub fn next_item(&mut self) -> Result<Option<Item>> {
        let mut extension = Extension::default();
        loop {
            self.skip(self.content + self.padding)?;
            (self.content, self.padding) = (0, 0);
            self.entry += 1;
            let Some(header) = self.header()? else {
                self.drain()?;
                return Ok(None);
            };
            let size = self.numeric(&header.as_old().size)?;
            let Ok(size) = u64::try_from(size) else {
                return self.bad("its size is negative");
            };
            match header.as_old().linkflag[0] {
                b'L' => extension.path = Some(self.long_name(size)?),
                b'K' => extension.link = Some(self.long_name(size)?),
                b'x' | b'X' => {
                    let text = self.extension(size)?;
                    self.pax(&text, &mut extension)?;
                }
                b'g' => {
                    // Values for every later entry; none that we read is ever meant so.
                    self.extension(size)?;
                }
                b'V' => self.set_content(size)?,
                flag => return self.item(&header, flag, size, extension).map(Some),
            }
        }
    }

    fn set_content(&mut self, size: u64) -> Result<()> {
        if size > u64::MAX / 2 {
            return self.bad("its size is absurd");
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let here = self.here()?;
            let length = here.len().min(BLOCK - have);
            if length == 0 && have == 0 {
                return Ok(None);
            }
            if length == 0 {
                return self.bad("the archive ends within a header");
            }
            block[have..have + length].copy_from_slice(&here[..length]);
            self.inner.consume(length);
            have += length;
        }
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<tar::Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block == [0; BLOCK] {
            return match self.block()? {
                None => Ok(None),
                Some(second) if second == [0; BLOCK] => Ok(None),
                Some(_) => self.bad("an empty block stands before it"),
            };
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let told = self.numeric(&header.as_old().cksum)?;
        if !sums(&block).contains(&told) {
            return self.bad("its checksum is wrong");
        }
        Ok(Some(header))
    }

    /// A number in octal text or, with the first bit set, in base 256.
    fn numeric(&self, field: &[u8]) -> Result<i128> {
        if let Some(&first @ 0x80..) = field.first() {
            let negative = first & 0x40 != 0;
            let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
            let (head, tail) = field[1..].split_at((field.len() - 1).saturating_sub(9));
            let filler = if negative { 0xff } else { 0 };
            let start = if head.is_empty() {
                start
            } else if head.iter().all(|byte| *byte == filler) && start == if negative { -1 } else { 0 } {
                if negative { -1 } else { 0 }
            } else {
                return self.bad("a number is too large");
            };
            return Ok(tail
                .iter()
                .fold(start, |sum, byte| (sum << 8) | i128::from(*byte)));
        }
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = text.trim_ascii();
        // As nearly every field is.
        if text.len() <= 20 && text.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
            let digits = text.iter().map(|byte| u64::from(byte - b'0'));
            return Ok(digits.fold(0, |sum, digit| (sum << 3) | digit).into());
        }
        if text.is_empty() {
            return Ok(0);
        }
        let digits = std::str::from_utf8(text)
            .ok()
            .filter(|text| !text.starts_with('+'));
        match digits.and_then(|text| i128::from_str_radix(text, 8).ok()) {
            Some(number) => Ok(number),
            None => self.bad("a number is not octal"),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return self.bad("an extension header is larger than 1 MiB");
        }
        self.set_content(size)?;
        let mut text = Vec::new();
        self.take(size)
            .read_to_end(&mut text)
            .map_err(ArchiveError::Stream)?;
        Ok(text)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// Bytes that are there already, as they lie; none at the end.
    fn here(&mut self) -> Result<&[u8]> {
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Stream(error)),
            }
        }
        self.inner.fill_buf().map_err(ArchiveError::Stream)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let length = self.here()?.len();
            if length == 0 {
                return self.bad("the archive ends within its content");
            }
            let length = length.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.inner.consume(length);
            bytes -= length as u64;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let length = self.here()?.len();
            if length == 0 {
                return Ok(());
            }
            self.inner.consume(length);
        }
    }

    /// The next bytes of the item's content as they lie, at most `most`; none after the last.
    /// [`Reader::used`] goes on to those behind them.
    pub fn content(&mut self, most: u64) -> Result<&[u8]> {
        let most = most.min(self.content);
        if most == 0 {
            return Ok(&[]);
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let length = self.here()?.len();
        if length == 0 {
            return self.bad("the archive ends within its content");
        }
        Ok(&self.here()?[..length.min(most)])
    }

    /// Goes on in the content.
    pub fn used(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.content -= bytes as u64;
    }

    /// Records of `LENGTH KEY=VALUE\n`; values may hold any byte, so only the length ends one.
    fn pax(&self, text: &[u8], extension: &mut Extension) -> Result<()> {
        let mut rest = text;
        while !rest.is_empty() && rest[0] != 0 {
            let record = split_record(rest);
            let Some((key, value, after)) = record else {
                return self.bad("an extension record is damaged");
            };
            rest = after;
            self.pax_record(key, value, extension)?;
        }
        Ok(())
    }

    fn pax_record(&self, key: &[u8], value: &[u8], extension: &mut Extension) -> Result<()> {
        match key {
            b"path" | b"GNU.sparse.name" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.link = Some(value.to_vec()),
            b"size" => extension.size = Some(self.decimal(value)?),
            b"uid" => extension.uid = Some(self.id(self.decimal(value)?.into())?),
            b"gid" => extension.gid = Some(self.id(self.decimal(value)?.into())?),
            b"mtime" => extension.mtime = Some(self.time(value)?),
            b"atime" => extension.atime = Some(self.time(value)?),
            b"GNU.sparse.major" => extension.sparse_major = Some(self.decimal(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                extension.sparse_size = Some(self.decimal(value)?);
            }
            b"GNU.sparse.map" => extension.pieces = Some(self.pieces(value)?),
            b"GNU.sparse.offset" => {
                let offset = self.decimal(value)?;
                extension.pieces.get_or_insert_default().push((offset, 0));
            }
            b"GNU.sparse.numbytes" => {
                let length = self.decimal(value)?;
                let last = extension.pieces.as_mut().and_then(|pieces| pieces.last_mut());
                match last {
                    Some(piece) => piece.1 = length,
                    None => return self.bad("a sparse piece has no offset"),
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if value.len() > LARGEST_XATTR {
                        return self.bad("an attribute is larger than 64 KiB");
                    }
                    extension
                        .xattrs
                        .push((OsStr::from_bytes(name).to_owned(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn decimal(&self, text: &[u8]) -> Result<u64> {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        number.map_or_else(|| self.bad("a number is not decimal"), Ok)
    }

    fn id(&self, number: i128) -> Result<u32> {
        // The highest number is the kernel's word for "no change".
        match u32::try_from(number) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => self.bad("an owner does not fit 32 bits"),
        }
    }

    fn pieces(&self, text: &[u8]) -> Result<Vec<(u64, u64)>> {
        let numbers = text
            .split(|byte| *byte == b',')
            .map(|number| self.decimal(number));
        let numbers: Vec<u64> = numbers.collect::<Result<_>>()?;
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// `-12.5` is half a second before twelve before 1970.
    fn time(&self, text: &[u8]) -> Result<Time> {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let Ok(seconds) = whole.parse::<i64>() else {
            return self.bad("a time is no number");
        };
        if !part.bytes().all(|digit| digit.is_ascii_digit()) {
            return self.bad("a time is no number");
        }
        let digits = part.bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = digits.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        if whole.starts_with('-') && nanos > 0 {
            return Ok(Time {
                seconds: seconds.saturating_sub(1),
                nanos: 1_000_000_000 - nanos,
            });
        }
        Ok(Time { seconds, nanos })
    }

    fn item(&mut self, header: &tar::Header, flag: u8, size: u64, extension: Extension) -> Result<Item> {
        let old = header.as_old();
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => ItemKind::Folder,
            b'0' | 0 | b'7' | b'S' => ItemKind::File,
            b'1' => ItemKind::HardLink,
            b'2' => ItemKind::Link,
            b'3' => ItemKind::CharDevice,
            b'4' => ItemKind::BlockDevice,
            b'5' => ItemKind::Folder,
            b'6' => ItemKind::Fifo,
            _ => return self.bad("its type is unknown"),
        };
        let link = extension
            .link
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if path.len() > LONGEST_PATH || link.len() > LONGEST_PATH {
            return self.bad("a name is longer than 4096 bytes");
        }
        if path.contains(&0) || link.contains(&0) {
            return self.bad("a name holds a zero byte");
        }
        let seconds = i64::try_from(self.numeric(&old.mtime)?).unwrap_or(0);
        let mtime = extension.mtime.unwrap_or(Time { seconds, nanos: 0 });
        let mode = self.numeric(&old.mode)? & 0o7777;
        let mut item = Item {
            kind,
            path,
            link,
            mode: u32::try_from(mode).expect("twelve bits fit"),
            uid: self.owner(extension.uid, &old.uid)?,
            gid: self.owner(extension.gid, &old.gid)?,
            mtime,
            atime: extension.atime.unwrap_or(mtime),
            size: 0,
            rdev: self.rdev(header, kind)?,
            xattrs: extension.xattrs,
            pieces: None,
        };
        if kind != ItemKind::File {
            return Ok(item);
        }
        let stored = extension.size.unwrap_or(size);
        self.set_content(stored)?;
        item.size = stored;
        if flag == b'S' {
            self.gnu_sparse(header, &mut item)?;
        } else if extension.sparse_major == Some(1) {
            item.size = extension.sparse_size.unwrap_or(0);
            item.pieces = Some(self.sparse_map()?);
        } else if let Some(pieces) = extension.pieces {
            item.size = extension.sparse_size.unwrap_or(stored);
            item.pieces = Some(pieces);
        }
        self.check_pieces(&item)?;
        Ok(item)
    }

    fn owner(&self, told: Option<u32>, field: &[u8]) -> Result<u32> {
        match told {
            Some(id) => Ok(id),
            None => self.id(self.numeric(field)?),
        }
    }

    fn rdev(&self, header: &tar::Header, kind: ItemKind) -> Result<u64> {
        if !matches!(kind, ItemKind::CharDevice | ItemKind::BlockDevice) {
            return Ok(0);
        }
        let bytes = header.as_bytes();
        let major = u32::try_from(self.numeric(&bytes[329..337])?);
        let minor = u32::try_from(self.numeric(&bytes[337..345])?);
        match (major, minor) {
            (Ok(major), Ok(minor)) => Ok(device(major, minor)),
            _ => self.bad("a device number is too large"),
        }
    }

    /// GNU's old form: up to four pieces in the header, 21 more in each block behind it.
    fn gnu_sparse(&mut self, header: &tar::Header, item: &mut Item) -> Result<()> {
        let Some(gnu) = header.as_gnu() else {
            return self.bad("a sparse entry is not of GNU's form");
        };
        item.size = u64::try_from(self.numeric(&gnu.realsize)?).unwrap_or(0);
        let mut pieces = Vec::new();
        let mut add = |this: &Self, fields: &[tar::GnuSparseHeader]| -> Result<()> {
            for field in fields
                .iter()
                .filter(|field| field.numbytes[0] != 0 || field.offset[0] != 0)
            {
                let offset = u64::try_from(this.numeric(&field.offset)?).unwrap_or(u64::MAX);
                let length = u64::try_from(this.numeric(&field.numbytes)?).unwrap_or(u64::MAX);
                pieces.push((offset, length));
            }
            if pieces.len() > MOST_PIECES {
                return this.bad("a sparse file has too many pieces");
            }
            Ok(())
        };
        add(self, &gnu.sparse)?;
        let mut more = gnu.isextended[0] != 0;
        while more {
            let Some(block) = self.block()? else {
                return self.bad("the archive ends within a header");
            };
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            add(self, &extended.sparse)?;
            more = extended.isextended[0] != 0;
        }
        item.pieces = Some(pieces);
        Ok(())
    }

    /// PAX form 1.0: the map stands before the content, one decimal number a line, filled to a block.
    fn sparse_map(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut used = 0_u64;
        let count = self.map_number(&mut used)?;
        if count > MOST_PIECES as u64 {
            return self.bad("a sparse file has too many pieces");
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((self.map_number(&mut used)?, self.map_number(&mut used)?));
        }
        let fill = used.next_multiple_of(BLOCK as u64) - used;
        if fill > self.content {
            return self.bad("a sparse map is damaged");
        }
        self.content -= fill;
        self.skip(fill)?;
        Ok(pieces)
    }

    fn map_number(&mut self, used: &mut u64) -> Result<u64> {
        let mut text = Vec::new();
        loop {
            let mut byte = [0];
            self.read_exact(&mut byte).map_err(ArchiveError::Stream)?;
            *used += 1;
            if byte == *b"\n" {
                return self.decimal(&text);
            }
            text.push(byte[0]);
            if text.len() > 20 {
                return self.bad("a sparse map is damaged");
            }
        }
    }

    fn check_pieces(&self, item: &Item) -> Result<()> {
        let Some(pieces) = &item.pieces else {
            return Ok(());
        };
        let mut end = 0_u64;
        let mut stored = 0_u64;
        for (offset, length) in pieces {
            match offset.checked_add(*length) {
                Some(next) if *offset >= end && next <= item.size => end = next,
                _ => return self.bad("the pieces of a sparse file are not in order"),
            }
            stored += length;
        }
        if stored == self.content {
            Ok(())
        } else {
            self.bad("the pieces of a sparse file are not its content")
        }
    }
}

/// The sums that a header may tell: of its bytes with and, as some old programs have it, without sign; its own
/// field counts as blanks.
fn sums(block: &[u8; BLOCK]) -> [i128; 2] {
    let field = &block[148..156];
    let plain = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let high = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte >> 7)).sum::<u32>();
    let sum = i128::from(plain(block) + 8 * 32 - plain(field));
    [sum, sum - 256 * i128::from(high(block) - high(field))]
}

fn split_record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = text.iter().take(10).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..blank]).ok()?.parse().ok()?;
    let record = text.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &text[length..]))
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let length = self.inner.read(&mut buffer[..most])?;
        if length == 0 {
            let why = "the archive ends within its content";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.content -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numeric(field: &[u8]) -> Option<i128> {
        Reader::new(&mut io::empty()).numeric(field).ok()
    }

    #[test]
    fn numbers_in_octal_and_base_256() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   17 \0\0"), Some(15));
        assert_eq!(numeric(b"\0\0\0"), Some(0));
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(numeric(&[0xff; 12]), Some(-1));
        assert_eq!(numeric(&[0xff; 8]), Some(-1));
        assert_eq!(numeric(b"9\0"), None);
        assert_eq!(numeric(b"+7\0"), None);
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        let mut empty = io::empty();
        let reader = Reader::new(&mut empty);
        let time = reader.time(b"-12.5").unwrap();
        assert_eq!((time.seconds, time.nanos), (-13, 500_000_000));
        let time = reader.time(b"12.000000001").unwrap();
        assert_eq!((time.seconds, time.nanos), (12, 1));
        assert!(reader.time(b"x").is_err());
    }

    #[test]
    fn a_record_is_ended_by_its_length_alone() {
        let (key, value, rest) = split_record(b"11 k=a\nb=c\nrest").unwrap();
        assert_eq!((key, value, rest), (&b"k"[..], &b"a\nb=c"[..], &b"rest"[..]));
        assert!(split_record(b"99 k=v\n").is_none());
        assert!(split_record(b"0 k=v\n").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 512..2048)) {
            // With a right checksum it gets further.
            bytes[148..156].copy_from_slice(b"        ");
            let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut stream = bytes.as_slice();
            let mut reader = Reader::new(&mut stream);
            while let Ok(Some(_)) = reader.next_item() {}
        }
    }
}
