//! What an overlay's upper folder says about the layers below it, read without a mount.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::fsutil::{Folder, Kind, Time};
use plugin_api::graph::{Change, ChangeKind};

use super::writer::Writer;
use super::{ArchiveError, OPAQUE_XATTR, WHITEOUT, lossy};

type Result<T> = std::result::Result<T, ArchiveError>;

pub(super) fn below(path: &[u8], name: &OsStr) -> Vec<u8> {
    if path.is_empty() {
        return name.as_bytes().to_vec();
    }
    [path, b"/", name.as_bytes()].concat()
}

pub(super) fn is_opaque(folder: &Folder) -> Result<bool> {
    let value = folder.get_xattr(OsStr::new("."), OsStr::new(OPAQUE_XATTR))?;
    Ok(value.is_some_and(|value| value == b"y"))
}

/// Writes `upper` as an archive, sorted. `root` is the mode and owner that a reader would assume for the
/// layer's root: it is written only if it differs.
pub fn archive(upper: &Path, root: (u32, u32, u32), out: &mut dyn Write) -> Result<()> {
    archive_until(upper, root, None, out)
}

/// As [`archive`]; `latest`: see [`Writer::new`].
pub fn archive_until(
    upper: &Path,
    root: (u32, u32, u32),
    latest: Option<Time>,
    out: &mut dyn Write,
) -> Result<()> {
    let folder = Folder::open(upper)?;
    let mut writer = Writer::new(out, latest);
    let meta = folder.stat_self()?;
    if (meta.mode, meta.uid, meta.gid) != root {
        writer.entry(&folder, OsStr::new("."), &meta, b".")?;
    }
    tree(&folder, b"", &mut writer)?;
    writer.finish()
}

fn tree(folder: &Folder, path: &[u8], writer: &mut Writer<'_>) -> Result<()> {
    for entry in folder.entries()? {
        // A container may be at work while we read.
        let Some(meta) = folder.stat(&entry.name)? else {
            continue;
        };
        let path = below(path, &entry.name);
        if entry.name.as_bytes().starts_with(WHITEOUT) {
            tracing::warn!(
                path = lossy(&path),
                "left out of the archive: its name means a deletion there"
            );
        } else if meta.is_whiteout() {
            writer.whiteout(&path)?;
        } else {
            if !writer.entry(folder, &entry.name, &meta, &path)? {
                tracing::debug!(path = lossy(&path), "a socket is left out of the archive");
            }
            if meta.kind == Kind::Folder {
                let inner = folder.descend(Path::new(&entry.name))?;
                if is_opaque(&inner)? {
                    writer.opaque(&path)?;
                }
                tree(&inner, &path, writer)?;
            }
        }
    }
    Ok(())
}

/// The changed paths of `upper` against its lowers (top first), sorted.
pub fn changes(upper: &Path, lowers: &[PathBuf]) -> Result<Vec<Change>> {
    let folder = Folder::open(upper)?;
    let lowers = lowers.iter().map(|path| Folder::open(path));
    let lowers: Vec<Folder> = lowers.collect::<kernel::Result<_>>()?;
    let mut all = Vec::new();
    compare(&folder, &lowers, b"", &mut all)?;
    all.sort();
    Ok(all)
}

fn change(path: &[u8], kind: ChangeKind) -> Change {
    Change {
        path: format!("/{}", lossy(path)),
        kind,
    }
}

fn compare(upper: &Folder, lowers: &[Folder], path: &[u8], all: &mut Vec<Change>) -> Result<()> {
    let entries = upper.entries()?;
    for entry in &entries {
        let Some(meta) = upper.stat(&entry.name)? else {
            continue;
        };
        let path = below(path, &entry.name);
        let (there, inner_lowers) = look_below(lowers, &entry.name)?;
        if meta.is_whiteout() {
            if there {
                all.push(change(&path, ChangeKind::Deleted));
            }
            continue;
        }
        let kind = if there {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        all.push(change(&path, kind));
        if meta.kind == Kind::Folder {
            let inner = upper.descend(Path::new(&entry.name))?;
            if is_opaque(&inner)? {
                deleted_by_opacity(&inner, &inner_lowers, &path, all)?;
            }
            compare(&inner, &inner_lowers, &path, all)?;
        }
    }
    Ok(())
}

/// Whether the layers below show that name, and which folders of that name lie under each other.
pub(super) fn look_below(lowers: &[Folder], name: &OsStr) -> Result<(bool, Vec<Folder>)> {
    let mut folders: Vec<Folder> = Vec::new();
    for lower in lowers {
        let Some(meta) = lower.stat(name)? else {
            continue;
        };
        if meta.kind != Kind::Folder {
            let there = !folders.is_empty() || !meta.is_whiteout();
            return Ok((there, folders));
        }
        let inner = lower.descend(Path::new(name))?;
        let opaque = is_opaque(&inner)?;
        folders.push(inner);
        if opaque {
            break;
        }
    }
    Ok((!folders.is_empty(), folders))
}

fn deleted_by_opacity(upper: &Folder, lowers: &[Folder], path: &[u8], all: &mut Vec<Change>) -> Result<()> {
    let mut names: BTreeSet<OsString> = BTreeSet::new();
    for lower in lowers {
        names.extend(lower.entries()?.into_iter().map(|entry| entry.name));
    }
    for name in names {
        if upper.stat(&name)?.is_none() && look_below(lowers, &name)?.0 {
            all.push(change(&below(path, &name), ChangeKind::Deleted));
        }
    }
    Ok(())
}
