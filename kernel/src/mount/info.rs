//! The kernel's list of mounts, as `/proc/thread-self/mountinfo` tells it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id, unique while it lives.
    pub id: u64,
    /// The id of the mount it sits on.
    pub parent: u64,
    /// `major:minor` of its file system.
    pub device: String,
    /// Which folder of the file system is shown.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// Options of this mount: `rw,relatime`.
    pub options: String,
    /// Whether its mounts and unmounts go to other namespaces.
    pub shared: bool,
    /// Type of the file system: `overlay`.
    pub kind: String,
    /// What was mounted, in the file system's own words.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

/// Every mount the calling thread sees, in the order they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the list of the calling thread's mount namespace.
    pub fn read() -> Result<Self> {
        let path = "/proc/thread-self/mountinfo";
        std::fs::read(path).map(|text| parse(&text)).context("read", path)
    }

    /// What is on top at exactly this path.
    pub fn at(&self, target: &Path) -> Option<&Mount> {
        self.0.iter().rev().find(|mount| mount.target == target)
    }

    /// Mounts at or below a path, the last made first: the order to unmount them in.
    pub fn under<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.0
            .iter()
            .rev()
            .filter(move |mount| mount.target.starts_with(folder))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }
}

/// Reads a list; a line that is no mount is passed over.
pub fn parse(text: &[u8]) -> Mounts {
    Mounts(text.split(|byte| *byte == b'\n').filter_map(line).collect())
}

fn line(text: &[u8]) -> Option<Mount> {
    let mut fields = text.split(|byte| *byte == b' ');
    let mut next = || fields.next().map(unescaped);
    let id = number(&next()?)?;
    let parent = number(&next()?)?;
    let device = words(next()?);
    let root = PathBuf::from(OsString::from_vec(next()?));
    let target = PathBuf::from(OsString::from_vec(next()?));
    let options = words(next()?);
    let mut shared = false;
    loop {
        let field = next()?;
        if field == b"-" {
            break;
        }
        shared |= field.starts_with(b"shared:");
    }
    let kind = words(next()?);
    let source = words(next()?);
    let super_options = words(next()?);
    Some(Mount {
        id,
        parent,
        device,
        root,
        target,
        options,
        shared,
        kind,
        source,
        super_options,
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn words(text: Vec<u8>) -> String {
    String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The kernel writes blank, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'\\'
            && let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = after
        {
            out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            out.push(byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &[u8] =
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
        99 36 0:52 / /a\\040b\\011c\\134d ro - overlay overlay ro,lowerdir=/x\\072y:/z\n\
        broken line\n\
        100 36 0:53 / /a\\040b\\011c\\134d rw - tmpfs  rw\n";

    #[test]
    fn real_lines_with_escapes_options_and_an_empty_source() {
        let mounts = parse(REAL);
        assert_eq!(mounts.iter().count(), 3);
        let first = mounts.at(Path::new("/mnt2")).unwrap();
        assert!(first.shared);
        assert_eq!((first.id, first.parent, first.kind.as_str()), (36, 35, "ext3"));
        let top = mounts.at(Path::new("/a b\tc\\d")).unwrap();
        assert_eq!((top.kind.as_str(), top.source.as_str()), ("tmpfs", ""));
    }

    #[test]
    fn the_mounts_below_a_path_come_last_made_first_and_by_whole_names() {
        let mounts = parse(
            b"1 0 0:1 / / rw - x x rw\n2 1 0:2 / /s rw - x x rw\n3 2 0:3 / /s/t rw - x x rw\n4 1 0:3 / /st rw - x x rw\n",
        );
        let below: Vec<u64> = mounts.under(Path::new("/s")).map(|mount| mount.id).collect();
        assert_eq!(below, [3, 2]);
    }

    #[test]
    fn the_list_of_this_machine_reads() {
        assert!(Mounts::read().unwrap().at(Path::new("/")).is_some());
    }

    fn escape(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for byte in path {
            if b" \t\n\\#".contains(byte) {
                out.extend(format!("\\{byte:03o}").bytes());
            } else {
                out.push(*byte);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_path_survives_its_escape(name in proptest::collection::vec(1_u8.., 0..64)) {
            prop_assert_eq!(unescaped(&escape(&name)), name);
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&text);
        }
    }
}
