//! Unpacks an archive into one folder.
//!
//! Every name is resolved below the layer's root by the kernel itself (`openat2`): links inside the layer
//! are followed as a container would follow them, and none leads out. Owner, attributes, mode and times
//! are set on one name below an open folder, links never followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kernel::fsutil::{Dress, Folder, Fresh, Kind, Meta, Time};

use super::diff::{is_opaque, look_below};
use super::reader::{Item, ItemKind, Reader};
use super::{ArchiveError, OPAQUE, OPAQUE_XATTR, WHITEOUT, lossy, travels};

type Result<T> = std::result::Result<T, ArchiveError>;

/// Where an archive goes.
#[derive(Debug, Clone, Copy)]
pub enum Into<'a> {
    /// Into a layer's own folder, which is empty, over the layers below it, top first. Without any there is
    /// nothing that a whiteout could hide, and none is made.
    Layer(&'a [PathBuf]),
    /// Upon a whole tree: a whiteout removes what was there before.
    Tree,
}

/// Unpacks `archive` into the folder `root`.
pub fn unpack(root: &Path, into: Into<'_>, archive: &mut dyn BufRead) -> Result<()> {
    let (lowers, brought) = match into {
        Into::Layer(lowers) => (lowers, None),
        Into::Tree => (&[][..], Some(BTreeSet::new())),
    };
    let lowers = lowers.iter().map(|path| Folder::open(path));
    let mut unpacker = Unpacker {
        root: Folder::open(root)?,
        lowers: lowers.collect::<kernel::Result<_>>()?,
        brought,
        known: HashMap::new(),
        hidden: BTreeMap::new(),
        last: BTreeMap::new(),
    };
    let mut reader = Reader::new(archive);
    while let Some(item) = reader.next_item()? {
        unpacker.item(&item, &mut reader)?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: Folder,
    lowers: Vec<Folder>,
    /// What came from this archive, where that must be told from what was there before.
    brought: Option<BTreeSet<PathBuf>>,
    /// Open folders by their names as the archive spells them: most entries lie beside their predecessor.
    /// Forgotten as soon as anything is removed, for then a name may mean something else.
    known: HashMap<Vec<u8>, Rc<Place>>,
    /// Whiteouts that were made, by the folder in which they lie.
    hidden: BTreeMap<PathBuf, Vec<OsString>>,
    /// What folders get when nothing changes in them any more.
    last: BTreeMap<PathBuf, Last>,
}

/// An open folder and its plain path.
#[derive(Debug)]
struct Place {
    folder: Folder,
    path: PathBuf,
}

/// So many folders are kept open at a time.
const MOST_KNOWN: usize = 128;

/// The last of what a folder gets.
#[derive(Debug)]
struct Last {
    accessed: Time,
    modified: Time,
    /// What new entries would inherit, which is not what the archive says of them.
    inherited: Option<Vec<u8>>,
}

impl Last {
    fn of(item: &Item) -> Self {
        let inherited = item.xattrs.iter().find(|(key, _)| key == INHERITED);
        Self {
            accessed: item.atime,
            modified: item.mtime,
            inherited: inherited.map(|(_, value)| value.clone()),
        }
    }
}

/// Folder and name of a plain path; nothing if its last component needs a closer look.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let path = &path[..end];
    let at = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let (above, name) = path.split_at(at);
    (!matches!(name, b"." | b"..")).then_some((above, name))
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
        let Some((above, name)) = split(&item.path) else {
            return self.item_closely(item, content);
        };
        // What AUFS kept for itself.
        if name.starts_with(b".wh..wh.") && name != OPAQUE {
            return Ok(());
        }
        let place = match self.known.get(above) {
            Some(place) => Rc::clone(place),
            None => match self.place(above, &item.path)? {
                Some(place) => place,
                None => return Ok(()),
            },
        };
        self.entry(item, &place, name, content)
    }

    /// An entry whose name ends in `.` or `..`, or has none.
    fn item_closely(&mut self, item: &Item, content: &mut Reader<'_>) -> Result<()> {
        let parts = components(&item.path)?;
        let Some((name, above)) = parts.split_last() else {
            return self.root_itself(item);
        };
        match self.place(&above.join(&b'/'), &item.path)? {
            Some(place) => self.entry(item, &place, name, content),
            None => Ok(()),
        }
    }

    fn entry(&mut self, item: &Item, place: &Place, name: &[u8], content: &mut Reader<'_>) -> Result<()> {
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(item, place, hidden);
        }
        let name = OsStr::from_bytes(name);
        if let Some(brought) = &mut self.brought {
            brought.insert(place.path.join(name));
        }
        match item.kind {
            ItemKind::File => self.file(item, &place.folder, name, content),
            ItemKind::Folder => self.make_folder(item, place, name),
            _ => self.node(item, &place.folder, name),
        }
    }

    fn root_itself(&mut self, item: &Item) -> Result<()> {
        if item.kind != ItemKind::Folder {
            return refused(&item.path, "the layer's root is a folder");
        }
        let root = self.root.as_fresh(OsStr::new("."))?;
        dress_folder(&root, &self.root, OsStr::new("."), item)?;
        self.last.insert(PathBuf::from("."), Last::of(item));
        Ok(())
    }

    /// The folder of an entry, made where it is missing; nothing where AUFS kept things for itself.
    fn place(&mut self, above: &[u8], entry: &[u8]) -> Result<Option<Rc<Place>>> {
        let parts = components(above)?;
        if parts.iter().any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(None);
        }
        if parts.iter().any(|part| part.starts_with(WHITEOUT)) {
            return refused(entry, "names beginning with .wh. are reserved");
        }
        let path = joined(&parts);
        let folder = match self.root.descend(&path) {
            Ok(folder) => folder,
            Err(_) => self.make_way(&path, entry)?,
        };
        Ok(Some(self.remember(above.to_vec(), folder, path)))
    }

    fn remember(&mut self, spelt: Vec<u8>, folder: Folder, path: PathBuf) -> Rc<Place> {
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let place = Rc::new(Place { folder, path });
        self.known.insert(spelt, Rc::clone(&place));
        place
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

    fn whiteout(&mut self, item: &Item, place: &Place, hidden: &[u8]) -> Result<()> {
        let folder = &place.folder;
        if item.kind != ItemKind::File || item.size != 0 {
            return refused(&item.path, "names beginning with .wh. are reserved");
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return refused(&item.path, "it deletes no name");
        }
        if self.brought.is_some() {
            return self.remove_older(place, hidden);
        }
        if self.lowers.is_empty() {
            return Ok(());
        }
        if hidden == b".wh..opq" {
            folder.set_xattr(OsStr::new("."), OsStr::new(OPAQUE_XATTR), b"y")?;
            return Ok(());
        }
        let name = OsStr::from_bytes(hidden);
        // A whiteout hides what lies below, never what this archive brings, in whichever order.
        match folder.stat(name)? {
            None => {
                folder.make_whiteout(name)?;
                self.hidden
                    .entry(place.path.clone())
                    .or_default()
                    .push(name.to_owned());
            }
            Some(meta) if meta.kind == Kind::Folder => {
                folder.set_xattr(name, OsStr::new(OPAQUE_XATTR), b"y")?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Removes what a whiteout means from a whole tree, and nothing that this archive has brought.
    fn remove_older(&mut self, place: &Place, hidden: &[u8]) -> Result<()> {
        let (path, folder) = (&place.path, &place.folder);
        let Some(brought) = self.brought.take() else {
            return Ok(());
        };
        self.known.clear();
        let outcome = if hidden == b".wh..opq" {
            clear(path, folder, &brought)
        } else {
            remove_unless(path, folder, OsStr::from_bytes(hidden), &brought)
        };
        self.brought = Some(brought);
        outcome
    }

    /// Takes away what an entry replaces.
    fn replace(&mut self, folder: &Folder, name: &OsStr) -> Result<()> {
        self.known.clear();
        folder.remove_tree(name)?;
        Ok(())
    }

    fn make_folder(&mut self, item: &Item, place: &Place, name: &OsStr) -> Result<()> {
        let folder = &place.folder;
        let made = match folder.fresh_dir(name)? {
            Some(made) => made,
            None => self.old_folder(folder, name)?,
        };
        dress_folder(&made, folder, name, item)?;
        let path = place.path.join(name);
        self.last.insert(path.clone(), Last::of(item));
        let end = item
            .path
            .iter()
            .rposition(|byte| *byte != b'/')
            .map_or(0, |last| last + 1);
        // As the names of what lies in it will begin.
        let spelt = [&item.path[..end], b"/"].concat();
        self.remember(spelt, made.it, path);
        Ok(())
    }

    /// The folder that has the name already, or a new one in the place of something else.
    fn old_folder(&mut self, folder: &Folder, name: &OsStr) -> Result<Fresh<Folder>> {
        match folder.stat(name)? {
            Some(old) if old.kind == Kind::Folder => {}
            Some(old) if old.is_whiteout() => {
                self.known.clear();
                replace_whiteout(folder, name)?;
            }
            _ => {
                self.replace(folder, name)?;
                folder.make_dir(name, 0o700)?;
            }
        }
        Ok(folder.as_fresh(name)?)
    }

    fn node(&mut self, item: &Item, folder: &Folder, name: &OsStr) -> Result<()> {
        if let Some(old) = folder.stat(name)? {
            if item.kind == ItemKind::HardLink && self.is_itself(item, &old)? {
                return Ok(());
            }
            self.replace(folder, name)?;
        }
        match item.kind {
            ItemKind::HardLink => return self.hard_link(item, folder, name),
            ItemKind::Link => folder.make_link(name, OsStr::from_bytes(&item.link))?,
            ItemKind::Fifo => folder.make_node(name, Kind::Fifo, 0)?,
            ItemKind::CharDevice if item.rdev == 0 => {
                return refused(&item.path, "device 0:0 means a deleted file to the kernel");
            }
            ItemKind::CharDevice => folder.make_node(name, Kind::CharDevice, item.rdev)?,
            ItemKind::BlockDevice => folder.make_node(name, Kind::BlockDevice, item.rdev)?,
            ItemKind::File | ItemKind::Folder => return refused(&item.path, "it is no node"),
        }
        folder.chown(name, item.uid, item.gid)?;
        give(folder, name, item)?;
        if item.kind != ItemKind::Link {
            folder.chmod(name, item.mode)?;
        }
        Ok(folder.set_times(name, item.atime, item.mtime)?)
    }

    fn file(&mut self, item: &Item, folder: &Folder, name: &OsStr, content: &mut Reader<'_>) -> Result<()> {
        let mut made = folder.fresh_file(name, item.mode)?;
        if made.is_none() {
            self.replace(folder, name)?;
            made = folder.fresh_file(name, item.mode)?;
        }
        let Some(mut made) = made else {
            return refused(&item.path, "its name is taken while it is unpacked");
        };
        fill(&mut made.it, item, content)?;
        made.dress(dress(item), || give(folder, name, item))?;
        Ok(made.set_times(item.atime, item.mtime)?)
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
                Ok(folder.make_hard_link(name, &from.folder, target)?)
            }
        }
    }

    /// A hard link to a file of a lower layer: the file is copied into this one first.
    fn copy_up(&mut self, item: &Item, path: &Path, name: &OsStr) -> Result<Rc<Place>> {
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
        let Some(place) = self.place(path.as_os_str().as_bytes(), &item.path)? else {
            return refused(&item.path, "names beginning with .wh. are reserved");
        };
        let folder = &place.folder;
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
        Ok(place)
    }

    /// Deepest first: setting a folder's times changes nothing above it, but keep the order plain.
    /// Removes whiteouts from folders under which nothing lies: the kernel lists such a folder as it is, and
    /// so names that cannot be found.
    fn drop_idle_whiteouts(&self) -> Result<()> {
        for (path, names) in &self.hidden {
            let Ok(folder) = self.root.descend(path) else {
                continue;
            };
            if self.lies_upon_something(path)? {
                continue;
            }
            for name in names {
                // Something else may have taken its place since.
                if folder.stat(name)?.is_some_and(|meta| meta.is_whiteout()) {
                    folder.unlink(name)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the folder `path` of this layer is seen together with one of a layer below.
    fn lies_upon_something(&self, path: &Path) -> Result<bool> {
        let mut below: Vec<Folder> = Vec::new();
        for lower in &self.lowers {
            below.push(lower.again()?);
        }
        let mut own = self.root.again()?;
        for name in path.components() {
            let name = name.as_os_str();
            own = own.descend(Path::new(name))?;
            below = if is_opaque(&own)? {
                Vec::new()
            } else {
                look_below(&below, name)?.1
            };
        }
        Ok(!below.is_empty())
    }

    fn finish(mut self) -> Result<()> {
        self.known.clear();
        self.drop_idle_whiteouts()?;
        for (path, last) in self.last.iter().rev() {
            // Gone, or replaced by something else, later in the archive.
            let Ok(folder) = self.root.descend_in_root(path) else {
                continue;
            };
            if let Some(value) = &last.inherited {
                give_one(
                    &folder,
                    OsStr::new("."),
                    OsStr::new(INHERITED),
                    value,
                    &lossy_path(path),
                )?;
            }
            folder.set_times_self(last.accessed, last.modified)?;
        }
        Ok(())
    }
}

fn lossy_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Removes what is in a folder, but for what was brought.
fn clear(path: &Path, folder: &Folder, brought: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in folder.entries()? {
        remove_unless(path, folder, &entry.name, brought)?;
    }
    Ok(())
}

fn remove_unless(path: &Path, folder: &Folder, name: &OsStr, brought: &BTreeSet<PathBuf>) -> Result<()> {
    let full = path.join(name);
    // The first path that is not before this one lies in it, if any does.
    let kept = brought
        .range(full.clone()..)
        .next()
        .is_some_and(|first| first.starts_with(&full));
    if !kept {
        folder.remove_tree(name)?;
        return Ok(());
    }
    let meta = folder.stat(name)?;
    if meta.is_some_and(|meta| meta.kind == Kind::Folder) {
        clear(&full, &folder.descend(Path::new(name))?, brought)?;
    }
    Ok(())
}

/// A deleted folder that comes back is a new one: nothing of the old shines through.
fn replace_whiteout(folder: &Folder, name: &OsStr) -> Result<()> {
    folder.unlink(name)?;
    folder.make_dir(name, 0o755)?;
    folder.set_xattr(name, OsStr::new(OPAQUE_XATTR), b"y")?;
    Ok(())
}

fn dress(item: &Item) -> Dress {
    Dress {
        uid: item.uid,
        gid: item.gid,
        mode: item.mode,
    }
}

/// Owner, then attributes, then mode.
fn dress_folder(made: &Fresh<Folder>, folder: &Folder, name: &OsStr, item: &Item) -> Result<()> {
    made.dress(dress(item), || give(folder, name, item))
}

/// What a folder's new entries inherit.
const INHERITED: &str = "system.posix_acl_default";

/// Sets attributes: a capability dies with a change of owner, so this comes after that. `true`: there were
/// some.
fn give(folder: &Folder, name: &OsStr, item: &Item) -> Result<bool> {
    for (key, value) in &item.xattrs {
        if !travels(key) {
            tracing::debug!(path = lossy(&item.path), ?key, "attribute left out");
        } else if key != INHERITED {
            give_one(folder, name, key, value, &lossy(&item.path))?;
        }
    }
    Ok(!item.xattrs.is_empty())
}

fn give_one(folder: &Folder, name: &OsStr, key: &OsStr, value: &[u8], shown: &str) -> Result<()> {
    match folder.set_xattr(name, key, value) {
        Ok(()) => Ok(()),
        // The file system keeps none, or none of this kind on this kind of file.
        Err(error) if matches!(error.errno(), Some(95 | 1)) => {
            tracing::warn!(path = shown, ?key, "attribute not kept by this file system");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes an entry's content.
fn fill(file: &mut File, item: &Item, content: &mut Reader<'_>) -> Result<()> {
    let wrong = |error| {
        let subject = lossy(&item.path);
        ArchiveError::Kernel(kernel::Error::new("write", subject, error))
    };
    let whole = [(0, item.size)];
    // How far the file is written, and where the next byte goes.
    let (mut end, mut at) = (0, 0);
    for &(offset, length) in item.pieces.as_deref().unwrap_or(&whole) {
        if offset != at {
            file.seek(SeekFrom::Start(offset)).map_err(wrong)?;
            at = offset;
        }
        let mut left = length;
        while left > 0 {
            let bytes = content.content(left)?;
            let length = bytes.len();
            if write_sparsely(file, bytes).map_err(wrong)? {
                end = at + length as u64;
            }
            at += length as u64;
            content.used(length);
            left -= length as u64;
        }
    }
    if end < item.size {
        file.set_len(item.size).map_err(wrong)?;
    }
    Ok(())
}

/// Whole blocks of zeros become holes; `false`: the last one did.
fn write_sparsely(file: &mut File, bytes: &[u8]) -> io::Result<bool> {
    const BLOCK: usize = 4096;
    let hole = |block: &&[u8]| block.len() == BLOCK && block.iter().all(|byte| *byte == 0);
    let mut start = 0;
    let mut written = true;
    while start < bytes.len() {
        let zeros = bytes[start..].chunks(BLOCK).take_while(hole).count() * BLOCK;
        if zeros > 0 {
            start += zeros;
            file.seek_relative(i64::try_from(zeros).expect("a buffer is small"))?;
            written = false;
            continue;
        }
        let data = bytes[start..].chunks(BLOCK).take_while(|block| !hole(block));
        let data = data.map(<[u8]>::len).sum::<usize>();
        file.write_all(&bytes[start..start + data])?;
        start += data;
        written = true;
    }
    Ok(written)
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
