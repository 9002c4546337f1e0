//! The plain comparison of two trees, for pairs of layers that no upper folder describes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use kernel::fsutil::{Folder, Kind, Meta, Time};
use plugin_api::graph::{Change, ChangeKind, Usage};

use super::diff::below;
use super::writer::Writer;
use super::{ArchiveError, lossy, travels};

type Result<T> = std::result::Result<T, ArchiveError>;

/// What a comparison finds, in sorted order.
trait Finds {
    fn deleted(&mut self, path: &[u8]) -> Result<()>;
    fn present(&mut self, at: (&Folder, &OsStr), meta: &Meta, path: &[u8], kind: ChangeKind) -> Result<()>;
}

/// Writes what turns `old` (nothing: an empty tree) into `new` as an archive.
pub fn archive(new: &Folder, old: Option<&Folder>, out: &mut dyn Write) -> Result<()> {
    archive_until(new, old, None, out)
}

/// As [`archive`]; `latest`: see [`Writer::new`].
pub fn archive_until(
    new: &Folder,
    old: Option<&Folder>,
    latest: Option<Time>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut writer = Writer::new(out, latest);
    run(new, old, &mut writer)?;
    writer.finish()
}

/// The paths that differ, sorted.
pub fn changes(new: &Folder, old: Option<&Folder>) -> Result<Vec<Change>> {
    let mut all = Vec::new();
    run(new, old, &mut all)?;
    all.sort();
    Ok(all)
}

/// Bytes of the difference: sizes of what is new or changed, an inode with several names once.
pub fn size(new: &Folder, old: Option<&Folder>) -> Result<u64> {
    let mut sizes = Sizes::default();
    run(new, old, &mut sizes)?;
    Ok(sizes.bytes)
}

/// As [`size`], with the number of inodes that are new or changed.
pub fn usage(new: &Folder, old: Option<&Folder>) -> Result<Usage> {
    let mut sizes = Sizes::default();
    run(new, old, &mut sizes)?;
    Ok(Usage {
        bytes: sizes.bytes,
        inodes: sizes.inodes,
    })
}

fn run(new: &Folder, old: Option<&Folder>, found: &mut dyn Finds) -> Result<()> {
    compare(new, old, b"", found)
}

fn compare(new: &Folder, old: Option<&Folder>, path: &[u8], found: &mut dyn Finds) -> Result<()> {
    let mut names: BTreeSet<OsString> = new.entries()?.into_iter().map(|entry| entry.name).collect();
    if let Some(old) = old {
        names.extend(old.entries()?.into_iter().map(|entry| entry.name));
    }
    for name in names {
        let path = below(path, &name);
        let now = new.stat(&name)?;
        let before = match old {
            Some(old) => old.stat(&name)?.map(|meta| (old, meta)),
            None => None,
        };
        let Some(meta) = now else {
            if before.is_some() {
                found.deleted(&path)?;
            }
            continue;
        };
        let same_kind = before.filter(|(_, before)| before.kind == meta.kind);
        match (before, same_kind) {
            (None, _) => found.present((new, &name), &meta, &path, ChangeKind::Added)?,
            (Some(_), Some((old, before))) if !differs(new, &meta, old, &before, &name)? => {}
            _ => found.present((new, &name), &meta, &path, ChangeKind::Modified)?,
        }
        if meta.kind == Kind::Folder {
            let inner = new.descend(Path::new(&name))?;
            let inner_old = match same_kind {
                Some((old, _)) => Some(old.descend(Path::new(&name))?),
                None => None,
            };
            compare(&inner, inner_old.as_ref(), &path, found)?;
        }
    }
    Ok(())
}

fn differs(new: &Folder, now: &Meta, old: &Folder, before: &Meta, name: &OsStr) -> Result<bool> {
    let core = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.rdev, meta.mtime);
    let sized = now.kind != Kind::Folder && now.size != before.size;
    if core(now) != core(before) || sized {
        return Ok(true);
    }
    if now.kind == Kind::Link && new.read_link(name)? != old.read_link(name)? {
        return Ok(true);
    }
    Ok(attributes(new, name)? != attributes(old, name)?)
}

fn attributes(folder: &Folder, name: &OsStr) -> Result<Vec<(OsString, Option<Vec<u8>>)>> {
    let mut all = Vec::new();
    for key in folder.list_xattrs(name)? {
        if travels(&key) {
            let value = folder.get_xattr(name, &key)?;
            all.push((key, value));
        }
    }
    Ok(all)
}

impl Finds for Writer<'_> {
    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.whiteout(path)
    }

    fn present(&mut self, at: (&Folder, &OsStr), meta: &Meta, path: &[u8], _: ChangeKind) -> Result<()> {
        self.entry(at.0, at.1, meta, path).map(drop)
    }
}

impl Finds for Vec<Change> {
    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let path = format!("/{}", lossy(path));
        self.push(Change {
            path,
            kind: ChangeKind::Deleted,
        });
        Ok(())
    }

    fn present(&mut self, _: (&Folder, &OsStr), _: &Meta, path: &[u8], kind: ChangeKind) -> Result<()> {
        let path = format!("/{}", lossy(path));
        self.push(Change { path, kind });
        Ok(())
    }
}

#[derive(Default)]
struct Sizes {
    bytes: u64,
    inodes: u64,
    seen: BTreeSet<(u64, u64)>,
}

impl Finds for Sizes {
    fn deleted(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn present(&mut self, _: (&Folder, &OsStr), meta: &Meta, _: &[u8], _: ChangeKind) -> Result<()> {
        let again = meta.kind != Kind::Folder && meta.links > 1 && !self.seen.insert((meta.dev, meta.ino));
        if again {
            return Ok(());
        }
        self.inodes += 1;
        if meta.kind != Kind::Folder {
            self.bytes = self.bytes.checked_add(meta.size).ok_or_else(|| {
                let error = io::Error::from(io::ErrorKind::FileTooLarge);
                ArchiveError::Kernel(kernel::Error::new("add sizes", "of a layer", error))
            })?;
        }
        Ok(())
    }
}
