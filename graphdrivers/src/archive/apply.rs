//! Unpacks an archive into one folder.
//!
//! Every name is resolved below the layer's root by the kernel itself (`openat2`): links inside the layer
//! are followed as a container would follow them, and none leads out. Owner, attributes, mode and times
//! are set on one name below an open folder, links never followed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::fsutil::{Folder, Kind, Meta, Time};

use super::reader::{Item, ItemKind, Reader};
use super::{ArchiveError, OPAQUE, OPAQUE_XATTR, WHITEOUT, lossy, travels};

type Result<T> = std::result::Result<T, ArchiveError>;

/// Unpacks `archive` into `root`, an empty folder. `lowers` are the layers below it, top first; without
/// any there is nothing that a whiteout could hide, and none is made.
pub fn unpack(root: &Path, lowers: &[PathBuf], archive: &mut dyn Read) -> Result<()> {
    let lowers = lowers.iter().map(|path| Folder::open(path));
    let mut unpacker = Unpacker {
        root: Folder::open(root)?,
        lowers: lowers.collect::<kernel::Result<_>>()?,
        last: None,
        times: BTreeMap::new(),
        buffer: vec![0; 1 << 17],
    };
    let mut reader = Reader::new(archive);
    while let Some(item) = reader.next_item()? {
        unpacker.item(&item, &mut reader)?;
    }
    unpacker.folder_times()
}

struct Unpacker {
    root: Folder,
    lowers: Vec<Folder>,
    /// The folder of the entry before: most entries lie beside their predecessor.
    last: Option<(PathBuf, Folder)>,
    /// Folders' times, set when nothing changes them any more.
    times: BTreeMap<PathBuf, (Time, Time)>,
    buffer: Vec<u8>,
}

fn refused<T>(path: &[u8], why: &'static str) -> Result<T> {
    Err(ArchiveError::Refused {
        path: lossy(path),
        why,
    })
}

/// The plain components of a name, without `.` and leading slashes; `..` is refused.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return refused(path, "its name leads upwards");
    }
    Ok(parts)
}

fn joined(parts: &[&[u8]]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&parts.join(&b'/')))
}

/// The folder and the name that a hard link leads to.
fn target(item: &Item) -> Result<(PathBuf, Vec<u8>)> {
    let parts = components(&item.link)?;
    match parts.split_last() {
        Some((name, above)) => Ok((joined(above), name.to_vec())),
        None => refused(&item.path, "it is a hard link to the layer's root"),
    }
}

impl Unpacker {
    fn item(&mut self, item: &Item, content: &mut Reader<'_>) -> Result<()> {
        let parts = components(&item.path)?;
        // What AUFS kept for itself.
        if parts
            .iter()
            .any(|part| part.starts_with(b".wh..wh.") && *part != OPAQUE)
        {
            return Ok(());
        }
        let Some((name, above)) = parts.split_last() else {
            return self.root_itself(item);
        };
        if above.iter().any(|part| part.starts_with(WHITEOUT)) {
            return refused(&item.path, "names beginning with .wh. are reserved");
        }
        let path = joined(above);
        let folder = self.folder(&path, &item.path)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(item, &folder, hidden);
        }
        let name = OsStr::from_bytes(name);
        self.make(item, &folder, name, content)?;
        if item.kind == ItemKind::HardLink {
            return Ok(());
        }
        dress(&folder, name, item)?;
        if item.kind == ItemKind::Folder {
            self.times.insert(joined(&parts), (item.atime, item.mtime));
        } else {
            folder.set_times(name, item.atime, item.mtime)?;
        }
        Ok(())
    }

    fn root_itself(&mut self, item: &Item) -> Result<()> {
        if item.kind != ItemKind::Folder {
            return refused(&item.path, "the layer's root is a folder");
        }
        dress(&self.root, OsStr::new("."), item)?;
        self.times.insert(PathBuf::from("."), (item.atime, item.mtime));
        Ok(())
    }

    /// The folder of an entry, made where it is missing.
    fn folder(&mut self, path: &Path, entry: &[u8]) -> Result<Folder> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.again()?);
        }
        let folder = match self.root.descend(path) {
            Ok(folder) => folder,
            Err(_) => self.make_way(path, entry)?,
        };
        self.last = Some((path.to_owned(), folder.again()?));
        Ok(folder)
    }

    fn make_way(&self, path: &Path, entry: &[u8]) -> Result<Folder> {
        let mut way = PathBuf::new();
        let mut folder = self.root.again()?;
        for part in path {
            way.push(part);
            match folder.stat(part)?.map(|meta| (meta.kind, meta.is_whiteout())) {
                None => {
                    folder.make_dir(part, 0o755)?;
                    self.dress_as_below(&folder, part, &way)?;
                }
                Some((Kind::Folder | Kind::Link, _)) => {}
                Some((_, true)) => replace_whiteout(&folder, part)?,
                Some(_) => return refused(entry, "something on its way is no folder"),
            }
            folder = match self.root.descend_in_root(&way) {
                Ok(folder) => folder,
                Err(error) if matches!(error.errno(), Some(2 | 20 | 40)) => {
                    return refused(entry, "a link on its way leads to no folder of this layer");
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(folder)
    }

    /// A folder that the archive does not describe keeps mode and owner of the one it lies over.
    fn dress_as_below(&self, folder: &Folder, name: &OsStr, path: &Path) -> Result<()> {
        for lower in &self.lowers {
            let Ok(below) = lower.descend(path) else {
                continue;
            };
            let meta = below.stat_self()?;
            folder.chown(name, meta.uid, meta.gid)?;
            folder.chmod(name, meta.mode)?;
            break;
        }
        Ok(())
    }

    fn whiteout(&mut self, item: &Item, folder: &Folder, hidden: &[u8]) -> Result<()> {
        if item.kind != ItemKind::File || item.size != 0 {
            return refused(&item.path, "names beginning with .wh. are reserved");
        }
        if self.lowers.is_empty() {
            return Ok(());
        }
        if hidden == b".wh..opq" {
            folder.set_xattr(OsStr::new("."), OsStr::new(OPAQUE_XATTR), b"y")?;
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return refused(&item.path, "it deletes no name");
        }
        let name = OsStr::from_bytes(hidden);
        // A whiteout hides what lies below, never what this archive brings, in whichever order.
        match folder.stat(name)? {
            None => folder.make_whiteout(name)?,
            Some(meta) if meta.kind == Kind::Folder => {
                folder.set_xattr(name, OsStr::new(OPAQUE_XATTR), b"y")?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn make(&mut self, item: &Item, folder: &Folder, name: &OsStr, content: &mut Reader<'_>) -> Result<()> {
        if let Some(old) = folder.stat(name)? {
            if item.kind == ItemKind::Folder && old.kind == Kind::Folder {
                return Ok(());
            }
            if item.kind == ItemKind::Folder && old.is_whiteout() {
                return replace_whiteout(folder, name);
            }
            if item.kind == ItemKind::HardLink && self.is_itself(item, &old)? {
                return Ok(());
            }
            folder.remove_tree(name)?;
            self.last = None;
        }
        match item.kind {
            ItemKind::File => return self.file(item, folder, name, content),
            ItemKind::HardLink => return self.hard_link(item, folder, name),
            ItemKind::Link => folder.make_link(name, OsStr::from_bytes(&item.link))?,
            ItemKind::Folder => {
                folder.make_dir(name, 0o700)?;
            }
            ItemKind::Fifo => folder.make_node(name, Kind::Fifo, 0)?,
            ItemKind::CharDevice if item.rdev == 0 => {
                return refused(&item.path, "device 0:0 means a deleted file to the kernel");
            }
            ItemKind::CharDevice => folder.make_node(name, Kind::CharDevice, item.rdev)?,
            ItemKind::BlockDevice => folder.make_node(name, Kind::BlockDevice, item.rdev)?,
        }
        Ok(())
    }

    fn file(&mut self, item: &Item, folder: &Folder, name: &OsStr, content: &mut Reader<'_>) -> Result<()> {
        let mut file = folder.make_file(name)?;
        let wrong = |error| {
            let subject = lossy(&item.path);
            ArchiveError::Kernel(kernel::Error::new("write", subject, error))
        };
        for &(offset, length) in item.pieces.as_deref().unwrap_or(&[(0, item.size)]) {
            file.seek(SeekFrom::Start(offset)).map_err(wrong)?;
            let mut left = length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let have = fill(content, &mut self.buffer[..most])?;
                write_sparsely(&mut file, &self.buffer[..have]).map_err(wrong)?;
                left -= have as u64;
            }
        }
        file.set_len(item.size).map_err(wrong)
    }

    fn is_itself(&self, item: &Item, old: &Meta) -> Result<bool> {
        let (path, name) = target(item)?;
        let Ok(folder) = self.root.descend_in_root(&path) else {
            return Ok(false);
        };
        let target = folder.stat(OsStr::from_bytes(&name))?;
        Ok(target.is_some_and(|target| (target.dev, target.ino) == (old.dev, old.ino)))
    }

    fn hard_link(&mut self, item: &Item, folder: &Folder, name: &OsStr) -> Result<()> {
        let (path, target) = target(item)?;
        let target = OsStr::from_bytes(&target);
        let here = match self.root.descend_in_root(&path) {
            Ok(from) => from.stat(target)?.map(|meta| (from, meta)),
            Err(_) => None,
        };
        match here {
            Some((_, meta)) if meta.kind == Kind::Folder || meta.is_whiteout() => {
                refused(&item.path, "it is a hard link to no file")
            }
            Some((from, _)) => Ok(folder.make_hard_link(name, &from, target)?),
            None => {
                let from = self.copy_up(item, &path, target)?;
                Ok(folder.make_hard_link(name, &from, target)?)
            }
        }
    }

    /// A hard link to a file of a lower layer: the file is copied into this one first.
    fn copy_up(&mut self, item: &Item, path: &Path, name: &OsStr) -> Result<Folder> {
        let mut found = None;
        for lower in &self.lowers {
            if let Ok(below) = lower.descend(path)
                && let Some(meta) = below.stat(name)?
            {
                found = Some((below, meta));
                break;
            }
        }
        let Some((below, meta)) = found.filter(|(_, meta)| meta.kind == Kind::File) else {
            return refused(&item.path, "it is a hard link to a file that is not there");
        };
        let folder = self.folder(path, &item.path)?;
        let subject = lossy(&item.link);
        let wrong = |error| ArchiveError::Kernel(kernel::Error::new("copy up", subject, error));
        let mut file = folder.make_file(name)?;
        io::copy(&mut below.read_file(name)?, &mut file).map_err(wrong)?;
        folder.chown(name, meta.uid, meta.gid)?;
        for key in below.list_xattrs(name)?.iter().filter(|key| travels(key)) {
            if let Some(value) = below.get_xattr(name, key)? {
                folder.set_xattr(name, key, &value)?;
            }
        }
        folder.chmod(name, meta.mode)?;
        folder.set_times(name, meta.mtime, meta.mtime)?;
        Ok(folder)
    }

    /// Deepest first: setting a folder's times changes nothing above it, but keep the order plain.
    fn folder_times(self) -> Result<()> {
        for (path, (accessed, modified)) in self.times.iter().rev() {
            // Gone, or replaced by something else, later in the archive.
            if let Ok(folder) = self.root.descend_in_root(path) {
                folder.set_times_self(*accessed, *modified)?;
            }
        }
        Ok(())
    }
}

/// A deleted folder that comes back is a new one: nothing of the old shines through.
fn replace_whiteout(folder: &Folder, name: &OsStr) -> Result<()> {
    folder.unlink(name)?;
    folder.make_dir(name, 0o755)?;
    folder.set_xattr(name, OsStr::new(OPAQUE_XATTR), b"y")?;
    Ok(())
}

/// Owner, then attributes (a capability dies with a change of owner), then mode (set-id bits do too).
fn dress(folder: &Folder, name: &OsStr, item: &Item) -> Result<()> {
    folder.chown(name, item.uid, item.gid)?;
    for (key, value) in &item.xattrs {
        if !travels(key) {
            tracing::debug!(path = lossy(&item.path), ?key, "attribute left out");
            continue;
        }
        match folder.set_xattr(name, key, value) {
            Ok(()) => {}
            // The file system keeps none, or none of this kind on this kind of file.
            Err(error) if matches!(error.errno(), Some(95 | 1)) => {
                tracing::warn!(
                    path = lossy(&item.path),
                    ?key,
                    "attribute not kept by this file system"
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    if item.kind != ItemKind::Link {
        folder.chmod(name, item.mode)?;
    }
    Ok(())
}

fn fill(content: &mut Reader<'_>, buffer: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match content.read(&mut buffer[have..]) {
            Ok(0) => {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(ArchiveError::Stream(error));
            }
            Ok(length) => have += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::Stream(error)),
        }
    }
    Ok(have)
}

/// Whole blocks of zeros become holes.
fn write_sparsely(file: &mut std::fs::File, bytes: &[u8]) -> io::Result<()> {
    const BLOCK: usize = 4096;
    let mut start = 0;
    while start < bytes.len() {
        let zeros = bytes[start..]
            .chunks_exact(BLOCK)
            .take_while(|block| block.iter().all(|byte| *byte == 0))
            .count();
        if zeros > 0 {
            start += zeros * BLOCK;
            file.seek_relative(i64::try_from(zeros * BLOCK).expect("a buffer is small"))?;
            continue;
        }
        let data = bytes[start..]
            .chunks(BLOCK)
            .take_while(|block| block.len() < BLOCK || block.iter().any(|byte| *byte != 0))
            .map(<[u8]>::len)
            .sum::<usize>();
        file.write_all(&bytes[start..start + data])?;
        start += data;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_never_lead_upwards() {
        assert_eq!(components(b"/./a//b/").unwrap(), [&b"a"[..], b"b"]);
        assert!(components(b"./").unwrap().is_empty());
        for path in [&b".."[..], b"a/../b", b"/..", b"a/.."] {
            assert!(components(path).is_err());
        }
    }
}
