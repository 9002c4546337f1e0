//! Writes tar: ustar, with a PAX header before an entry that needs one. The same tree gives the same bytes.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use kernel::fsutil::{Folder, Kind, Meta, Time, device_parts};

use super::{ArchiveError, OPAQUE, WHITEOUT, travels};

type Result<T> = std::result::Result<T, ArchiveError>;

/// An archive being written. Only [`Writer::finish`] makes it a whole one.
pub struct Writer<'a> {
    out: io::BufWriter<&'a mut dyn Write>,
    /// The first name of each inode with several.
    names: HashMap<(u64, u64), Vec<u8>>,
    latest: Option<Time>,
}

struct Head<'a> {
    flag: u8,
    path: &'a [u8],
    link: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    mtime: Time,
    size: u64,
    rdev: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    let text = format!("{number:0width$o}");
    field[..width].copy_from_slice(&text.as_bytes()[text.len() - width..]);
}

fn fits(number: u64, digits: u32) -> bool {
    number < 1 << (3 * digits)
}

impl<'a> Writer<'a> {
    /// Begins an archive. With `latest`, no time in it is later, and deletions have this one.
    pub fn new(out: &'a mut dyn Write, latest: Option<Time>) -> Self {
        Self {
            out: io::BufWriter::with_capacity(1 << 17, out),
            names: HashMap::new(),
            latest,
        }
    }

    /// Writes the end of the archive and flushes.
    pub fn finish(mut self) -> Result<()> {
        self.write(&[0; 1024])?;
        self.out.flush().map_err(ArchiveError::Receiver)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(ArchiveError::Receiver)
    }

    /// Says that `path` is deleted.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let at = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        let marked = [&path[..at], WHITEOUT, &path[at..]].concat();
        self.marker(&marked)
    }

    /// Says that nothing from below shines through in the folder `path`.
    pub fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.marker(&[path, b"/", OPAQUE].concat())
    }

    fn marker(&mut self, path: &[u8]) -> Result<()> {
        self.head(&Head {
            flag: b'0',
            path,
            link: b"",
            mode: 0,
            owner: (0, 0),
            mtime: self.latest.unwrap_or_default(),
            size: 0,
            rdev: 0,
            xattrs: Vec::new(),
        })
    }

    /// Writes what `name` of `folder` is, as `path`. Sockets have no place in an archive: `false`.
    pub fn entry(&mut self, folder: &Folder, name: &OsStr, meta: &Meta, path: &[u8]) -> Result<bool> {
        let mut xattrs = Vec::new();
        for key in folder.list_xattrs(name)? {
            if travels(&key)
                && let Some(value) = folder.get_xattr(name, &key)?
            {
                xattrs.push((key.as_bytes().to_vec(), value));
            }
        }
        let mut head = Head {
            flag: b'0',
            path,
            link: b"",
            mode: meta.mode,
            owner: (meta.uid, meta.gid),
            mtime: self.latest.map_or(meta.mtime, |latest| meta.mtime.min(latest)),
            size: 0,
            rdev: 0,
            xattrs,
        };
        if meta.kind != Kind::Folder && meta.links > 1 {
            if let Some(first) = self.names.get(&(meta.dev, meta.ino)).cloned() {
                (head.flag, head.link) = (b'1', &first);
                head.xattrs.clear();
                return self.head(&head).map(|()| true);
            }
            self.names.insert((meta.dev, meta.ino), path.to_vec());
        }
        let target;
        let folder_path;
        match meta.kind {
            Kind::Socket => return Ok(false),
            Kind::File => return self.file(folder, name, head),
            Kind::Folder => {
                folder_path = [path, b"/"].concat();
                (head.flag, head.path) = (b'5', &folder_path);
            }
            Kind::Link => {
                target = folder.read_link(name)?;
                (head.flag, head.link, head.mode) = (b'2', target.as_bytes(), 0o777);
            }
            Kind::CharDevice => (head.flag, head.rdev) = (b'3', meta.rdev),
            Kind::BlockDevice => (head.flag, head.rdev) = (b'4', meta.rdev),
            Kind::Fifo => head.flag = b'6',
        }
        self.head(&head).map(|()| true)
    }

    fn file(&mut self, folder: &Folder, name: &OsStr, mut head: Head<'_>) -> Result<bool> {
        let mut file = folder.read_file(name)?;
        let size = file.metadata().map_err(ArchiveError::Stream)?.len();
        head.size = size;
        self.head(&head)?;
        let copied = io::copy(&mut (&mut file).take(size), &mut self.out).map_err(ArchiveError::Receiver)?;
        // It shrank while we read: what is missing reads as zeros, and the next entry is where it belongs.
        let missing = size - copied + (size.next_multiple_of(512) - size);
        io::copy(&mut io::repeat(0).take(missing), &mut self.out).map_err(ArchiveError::Receiver)?;
        Ok(true)
    }

    fn head(&mut self, head: &Head<'_>) -> Result<()> {
        let extension = extension(head);
        if !extension.is_empty() {
            let text = records(&extension);
            let pax = block(&Head {
                flag: b'x',
                path: b"PaxHeaders/entry",
                link: b"",
                mode: 0o644,
                owner: (0, 0),
                mtime: Time::default(),
                size: text.len() as u64,
                rdev: 0,
                xattrs: Vec::new(),
            });
            self.write(&pax)?;
            self.write(&text)?;
            let fill = text.len().next_multiple_of(512) - text.len();
            self.write(&[0; 512][..fill])?;
        }
        self.write(&block(head))
    }
}

/// What does not fit the header.
fn extension(head: &Head<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut add = |key: &str, value: Vec<u8>| all.insert(key.as_bytes().to_vec(), value);
    if head.path.len() > 100 || !head.path.is_ascii() {
        add("path", head.path.to_vec());
    }
    if head.link.len() > 100 || !head.link.is_ascii() {
        add("linkpath", head.link.to_vec());
    }
    if !fits(head.size, 11) {
        add("size", head.size.to_string().into_bytes());
    }
    for (key, id) in [("uid", head.owner.0), ("gid", head.owner.1)] {
        if !fits(id.into(), 7) {
            add(key, id.to_string().into_bytes());
        }
    }
    let Time { seconds, nanos } = head.mtime;
    if nanos != 0 || !u64::try_from(seconds).is_ok_and(|seconds| fits(seconds, 11)) {
        add("mtime", decimal_time(head.mtime).into_bytes());
    }
    for (key, value) in &head.xattrs {
        all.insert([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone());
    }
    all
}

fn decimal_time(time: Time) -> String {
    if time.seconds < 0 && time.nanos > 0 {
        let (seconds, nanos) = (time.seconds + 1, 1_000_000_000 - time.nanos);
        return format!("-{}.{nanos:09}", seconds.unsigned_abs());
    }
    format!("{}.{:09}", time.seconds, time.nanos)
}

fn records(extension: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in extension {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        text.extend(format!("{length} ").bytes());
        text.extend(key);
        text.push(b'=');
        text.extend(value);
        text.push(b'\n');
    }
    text
}

fn block(head: &Head<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    let clipped = |text: &[u8]| text[..text.len().min(100)].to_vec();
    let path = clipped(head.path);
    block[..path.len()].copy_from_slice(&path);
    octal(&mut block[100..108], head.mode.into());
    octal(&mut block[108..116], clamp(head.owner.0.into(), 7));
    octal(&mut block[116..124], clamp(head.owner.1.into(), 7));
    octal(&mut block[124..136], clamp(head.size, 11));
    octal(
        &mut block[136..148],
        clamp(u64::try_from(head.mtime.seconds).unwrap_or(0), 11),
    );
    block[156] = head.flag;
    let link = clipped(head.link);
    block[157..157 + link.len()].copy_from_slice(&link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    let (major, minor) = device_parts(head.rdev);
    octal(&mut block[329..337], major.into());
    octal(&mut block[337..345], minor.into());
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    octal(&mut block[148..155], sum.into());
    block[154] = 0;
    block
}

fn clamp(number: u64, digits: u32) -> u64 {
    if fits(number, digits) { number } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_the_digits_of_its_own_length() {
        for length in [1, 3, 4, 5, 88, 89, 90, 91, 92, 93, 94, 95, 988, 992, 995] {
            let extension = BTreeMap::from([(b"k".to_vec(), vec![b'v'; length])]);
            let text = records(&extension);
            let told: usize = std::str::from_utf8(&text)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(told, text.len());
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        let time = |seconds, nanos| decimal_time(Time { seconds, nanos });
        assert_eq!(time(-13, 500_000_000), "-12.500000000");
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(7, 1), "7.000000001");
    }
}
