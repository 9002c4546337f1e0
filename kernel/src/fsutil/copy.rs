//! Whole trees, copied: by sharing blocks where the file system can, by reading and writing where not.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, SeekFrom};
use rustix::io::Errno;

use super::folder::{Folder, Kind, Meta};
use crate::error::{Context, Result};
use crate::fault;

/// Copies what lies below `from` into the empty folder `to`: content, holes, modes, owners, attributes,
/// times of change and which names share an inode; `to` itself becomes like `from`. Links are copied, never
/// followed; another mount is an error (EXDEV).
pub fn copy_tree(from: &Folder, to: &Folder) -> Result<()> {
    let mut copier = Copier {
        root: to,
        first: HashMap::new(),
    };
    copier.folder(from, to, Path::new(""))?;
    dress_self(from, to)
}

struct Copier<'a> {
    root: &'a Folder,
    /// Where the first name of an inode with several was copied to, below the root.
    first: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    fn folder(&mut self, from: &Folder, to: &Folder, path: &Path) -> Result<()> {
        for entry in from.entries()? {
            // A tree in use may lose names while we look.
            let Some(meta) = from.stat(&entry.name)? else {
                continue;
            };
            let path = path.join(&entry.name);
            if meta.kind == Kind::Folder {
                let inner = from.descend(Path::new(&entry.name))?;
                to.make_dir(&entry.name, 0o700)?;
                let copy = to.descend(Path::new(&entry.name))?;
                self.folder(&inner, &copy, &path)?;
                dress_self(&inner, &copy)?;
            } else if !self.linked(&meta, to, &entry.name, &path)? {
                one(from, &meta, to, &entry.name)?;
                dress(from, &meta, to, &entry.name)?;
            }
        }
        Ok(())
    }

    /// Whether the inode was there already under another name.
    fn linked(&mut self, meta: &Meta, to: &Folder, name: &OsStr, path: &Path) -> Result<bool> {
        if meta.links == 1 {
            return Ok(false);
        }
        let Some(first) = self.first.get(&(meta.dev, meta.ino)) else {
            self.first.insert((meta.dev, meta.ino), path.to_owned());
            return Ok(false);
        };
        let above = first.parent().unwrap_or(Path::new(""));
        let folder = self.root.descend(above)?;
        to.make_hard_link(name, &folder, first.file_name().unwrap_or_default())?;
        Ok(true)
    }
}

fn one(from: &Folder, meta: &Meta, to: &Folder, name: &OsStr) -> Result<()> {
    match meta.kind {
        Kind::File => {
            let source = from.read_file(name)?;
            let copy = to.make_file(name)?;
            content(&source, &copy, meta.size, &to.shown().join(name))
        }
        Kind::Link => to.make_link(name, &from.read_link(name)?),
        kind => to.make_node(name, kind, meta.rdev),
    }
}

/// Makes the empty file `copy` like `source` without using room for it. `false`: not here, or not between
/// these two, and nothing was done.
pub fn share_blocks(source: &File, copy: &File) -> Result<bool> {
    match sys::ioctl_ficlone(copy, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) => Ok(false),
        Err(errno) => Err(crate::Error::new("share blocks of", "a file", errno)),
    }
}

fn content(source: &File, copy: &File, size: u64, shown: &Path) -> Result<()> {
    fault::point("copy", &shown.to_string_lossy())?;
    if share_blocks(source, copy)? {
        return Ok(());
    }
    sys::ftruncate(copy, size).context("copy", shown)?;
    let mut at = 0;
    while at < size {
        // What lies between is holes, and stays so.
        let data = match sys::seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(crate::Error::new("copy", shown.to_string_lossy(), errno)),
        };
        let end = sys::seek(source, SeekFrom::Hole(data)).context("copy", shown)?;
        extent(source, copy, (data, end), shown)?;
        at = end;
    }
    Ok(())
}

fn extent(source: &File, copy: &File, (start, end): (u64, u64), shown: &Path) -> Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX);
        let moved = sys::copy_file_range(source, Some(&mut read), copy, Some(&mut written), left);
        if moved.context("copy", shown)? == 0 {
            // It became shorter meanwhile.
            break;
        }
    }
    Ok(())
}

/// Gives `name` the owner, attributes, mode and time of its original, in the order that keeps them.
fn dress(from: &Folder, meta: &Meta, to: &Folder, name: &OsStr) -> Result<()> {
    if (meta.uid, meta.gid) != (0, 0) {
        to.chown(name, meta.uid, meta.gid)?;
    }
    attributes(from, to, name)?;
    if meta.kind != Kind::Link {
        to.chmod(name, meta.mode)?;
    }
    to.set_times(name, meta.mtime, meta.mtime)
}

fn dress_self(from: &Folder, to: &Folder) -> Result<()> {
    let meta = from.stat_self()?;
    to.chown_self(meta.uid, meta.gid)?;
    attributes(from, to, OsStr::new("."))?;
    to.chmod_self(meta.mode)?;
    to.set_times_self(meta.mtime, meta.mtime)
}

fn attributes(from: &Folder, to: &Folder, name: &OsStr) -> Result<()> {
    let keys = from.list_xattrs(name)?;
    // A new entry may have inherited some that its original lacks.
    let strange = |key: &OsString| !keys.contains(key);
    for key in to.list_xattrs(name)?.into_iter().filter(strange) {
        to.remove_xattr(name, &key)?;
    }
    for key in keys {
        if let Some(value) = from.get_xattr(name, &key)? {
            to.set_xattr(name, &key, &value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_copy_is_like_its_original() {
        let base = tempfile::tempdir().unwrap();
        let (old, new) = (base.path().join("old"), base.path().join("new"));
        fs::create_dir_all(old.join("dir/inner")).unwrap();
        fs::create_dir(&new).unwrap();
        fs::write(old.join("dir/file"), "text").unwrap();
        fs::set_permissions(old.join("dir/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        fs::hard_link(old.join("dir/file"), old.join("dir/inner/same")).unwrap();
        symlink("nowhere", old.join("link")).unwrap();
        let sparse = File::create(old.join("sparse")).unwrap();
        sparse.write_all_at(b"start", 0).unwrap();
        sparse.write_all_at(b"end", 8 << 20).unwrap();
        fs::set_permissions(&old, PermissionsExt::from_mode(0o1751)).unwrap();
        let (from, to) = (Folder::open(&old).unwrap(), Folder::open(&new).unwrap());
        copy_tree(&from, &to).unwrap();
        let meta = |path: &Path, name: &str| fs::symlink_metadata(path.join(name)).unwrap();
        for name in [
            "",
            "dir",
            "dir/file",
            "dir/inner",
            "dir/inner/same",
            "link",
            "sparse",
        ] {
            let (old, new) = (meta(&old, name), meta(&new, name));
            let told = |meta: &fs::Metadata| {
                (
                    meta.mode(),
                    meta.uid(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.len(),
                )
            };
            assert_eq!(told(&old), told(&new), "{name}");
        }
        assert_eq!(fs::read(new.join("dir/inner/same")).unwrap(), b"text");
        assert_eq!(meta(&new, "dir/file").ino(), meta(&new, "dir/inner/same").ino());
        assert_ne!(meta(&new, "dir/file").ino(), meta(&old, "dir/file").ino());
        assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("nowhere"));
        assert_eq!(
            fs::read(new.join("sparse")).unwrap(),
            fs::read(old.join("sparse")).unwrap()
        );
        assert!(meta(&new, "sparse").blocks() <= meta(&old, "sparse").blocks());
        // Whatever is shared, it is two files.
        fs::write(new.join("dir/file"), "other").unwrap();
        assert_eq!(fs::read(old.join("dir/file")).unwrap(), b"text");
    }
}
