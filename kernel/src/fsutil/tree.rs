//! Whole trees: removing and measuring them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::folder::{Entry, Folder, Kind};
use crate::btrfs;
use crate::error::{Error, Result};

/// Deeper folders are first moved up, so that no tree needs more open descriptors than this.
const DEEPEST: usize = 100;

/// What a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeUsage {
    /// Sum of apparent sizes of everything but folders, an inode with many names once.
    pub bytes: u64,
    /// Number of inodes, the tree's root among them.
    pub inodes: u64,
}

/// Removes a tree, or a single file. Links are removed, never followed; at another mount it stops with
/// EXDEV or EBUSY and leaves that mount and what is above it. `false`: there was nothing.
pub fn remove_tree(path: &Path) -> Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::other(
            "remove tree",
            path.to_string_lossy(),
            "it has no name in a folder",
        ));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let folder = match Folder::open(parent) {
        Err(error) if error.is_missing() => return Ok(false),
        other => other?,
    };
    remove_tree_at(&folder, name)
}

impl Folder {
    /// Removes the tree or file of that name; see [`remove_tree`].
    pub fn remove_tree(&self, name: &OsStr) -> Result<bool> {
        remove_tree_at(self, name)
    }
}

struct Level {
    folder: Folder,
    name: OsString,
    left: Vec<Entry>,
}

impl Level {
    fn enter(parent: &Folder, name: &OsStr) -> Result<Self> {
        let folder = parent.descend(Path::new(name))?;
        let left = folder.entries()?;
        let name = name.to_owned();
        Ok(Self { folder, name, left })
    }
}

fn is_folder(folder: &Folder, entry: &Entry) -> Result<bool> {
    Ok(match entry.kind {
        Some(kind) => kind == Kind::Folder,
        None => folder
            .stat(&entry.name)?
            .is_some_and(|meta| meta.kind == Kind::Folder),
    })
}

/// Whether a folder may be the root of a subvolume; elsewhere that number is nothing special.
fn is_subvolume(folder: &Folder, entry: &Entry) -> Result<bool> {
    let meta = folder.stat(&entry.name)?;
    Ok(meta.is_some_and(|meta| meta.ino == btrfs::ROOT_INODE))
}

fn remove_tree_at(parent: &Folder, name: &OsStr) -> Result<bool> {
    let Some(meta) = parent.stat(name)? else {
        return Ok(false);
    };
    if meta.kind != Kind::Folder {
        return parent.unlink(name);
    }
    let mut levels = vec![Level::enter(parent, name)?];
    let mut moved = 0_u64;
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(true);
        };
        let Some(entry) = level.left.pop() else {
            let done = levels.pop().expect("the loop saw a level");
            let above = levels.last().map_or(parent, |level| &level.folder);
            above.remove_dir(&done.name)?;
            continue;
        };
        if !is_folder(&level.folder, &entry)? {
            level.folder.unlink(&entry.name)?;
        } else if is_subvolume(&level.folder, &entry)? && btrfs::destroy(&level.folder, &entry.name)? {
            // With everything in it, in one step.
        } else if depth < DEEPEST {
            let next = Level::enter(&level.folder, &entry.name)?;
            levels.push(next);
        } else {
            let name = OsString::from(format!(".deep-{moved}"));
            moved += 1;
            // The name is free: it is removed first, should a retry or an archive have left one.
            let (first, rest) = levels.split_first().expect("the loop saw a level");
            let last = rest.last().expect("DEEPEST is more than one");
            if first.folder.stat(&name)?.is_none() {
                last.folder.rename(&entry.name, &first.folder, &name)?;
                levels[0].left.push(Entry {
                    name,
                    kind: Some(Kind::Folder),
                });
            } else {
                levels.last_mut().expect("the loop saw a level").left.push(entry);
            }
        }
    }
}

/// Measures a tree without following links or entering other mounts.
pub fn tree_usage(path: &Path) -> Result<TreeUsage> {
    let root = Folder::open(path)?;
    let mut usage = TreeUsage { bytes: 0, inodes: 1 };
    let mut seen = HashSet::new();
    measure(&root, &mut usage, &mut seen)?;
    Ok(usage)
}

fn measure(folder: &Folder, usage: &mut TreeUsage, seen: &mut HashSet<(u64, u64)>) -> Result<()> {
    for entry in folder.entries()? {
        // A tree in use may lose names while we look.
        let Some(meta) = folder.stat(&entry.name)? else {
            continue;
        };
        if meta.kind == Kind::Folder {
            usage.inodes += 1;
            match folder.descend(Path::new(&entry.name)) {
                Ok(below) => measure(&below, usage, seen)?,
                Err(error) if error.is_missing() || error.errno() == Some(libc::EXDEV) => {}
                Err(error) => return Err(error),
            }
        } else if meta.links == 1 || seen.insert((meta.dev, meta.ino)) {
            usage.inodes += 1;
            usage.bytes += meta.size;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_and_what_its_links_point_at_stays() {
        let base = tempfile::tempdir().unwrap();
        let tree = base.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir(base.path().join("kept")).unwrap();
        fs::write(base.path().join("kept/file"), "x").unwrap();
        symlink("../../kept", tree.join("a/out")).unwrap();
        assert!(remove_tree(&tree).unwrap());
        assert!(!remove_tree(&tree).unwrap());
        assert!(base.path().join("kept/file").exists());
        symlink("kept", base.path().join("link")).unwrap();
        assert!(remove_tree(&base.path().join("link")).unwrap());
        assert!(base.path().join("kept/file").exists());
    }

    #[test]
    fn a_very_deep_tree_goes_with_few_descriptors() {
        let base = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(base.path()).unwrap();
        folder.make_dir(OsStr::new("t"), 0o755).unwrap();
        folder = folder.descend(Path::new("t")).unwrap();
        for _ in 0..1300 {
            folder.make_dir(OsStr::new("deeper"), 0o755).unwrap();
            folder.make_file(OsStr::new("f")).unwrap();
            folder = folder.descend(Path::new("deeper")).unwrap();
        }
        drop(folder);
        assert!(remove_tree(&base.path().join("t")).unwrap());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn usage_counts_hard_links_once() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("a"), vec![0; 1000]).unwrap();
        fs::hard_link(base.path().join("a"), base.path().join("b")).unwrap();
        fs::create_dir(base.path().join("d")).unwrap();
        symlink("12345", base.path().join("l")).unwrap();
        let expected = TreeUsage {
            bytes: 1005,
            inodes: 4,
        };
        assert_eq!(tree_usage(base.path()).unwrap(), expected);
    }
}
