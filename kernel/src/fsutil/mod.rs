//! Files and folders: durable writes, trees that are removed without following anything, and a folder
//! handle ([`Folder`]) whose operations never leave it.
//!
//! What comes from outside (archives, volumes) is only ever touched through [`Folder`]: by one name
//! below an open directory, links never followed, magic links never, other mounts only where said.

mod copy;
mod flusher;
mod folder;
mod fresh;
mod trash;
mod tree;
mod xattr;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as sys, FlockOperation, Mode, OFlags, ResolveFlags};

pub use copy::{copy_tree, share_blocks};
pub use flusher::Flusher;
pub use folder::{Entry, Folder, Kind, Meta, Time, device, device_parts};
pub use fresh::{Dress, Fresh};
pub use trash::Trash;
pub use tree::{TreeUsage, remove_tree, tree_usage};
pub use xattr::{get_xattr, list_xattrs, remove_xattr, set_xattr};

use crate::error::{Context, Error, Result};
use crate::fault;

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

/// Makes a folder with exactly these mode bits, whatever the umask. `false`: it was there already, and
/// is left as it is. Something else of that name is an error, and so is a missing parent.
pub fn make_dir(path: &Path, bits: u32) -> Result<bool> {
    fault::point("make folder", &path.to_string_lossy())?;
    match sys::mkdir(path, mode(bits)) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            let kind = std::fs::symlink_metadata(path).context("look at", path)?;
            if kind.is_dir() {
                return Ok(false);
            }
            return Err(Error::new("make folder", shown(path), rustix::io::Errno::NOTDIR));
        }
        Err(errno) => return Err(Error::new("make folder", shown(path), errno)),
    }
    Folder::open(path)?.chmod_self(bits)?;
    Ok(true)
}

/// As [`make_dir`], with every missing parent; parents get the same mode.
pub fn make_dirs(path: &Path, bits: u32) -> Result<bool> {
    match make_dir(path, bits) {
        Err(error) if error.is_missing() => {
            let Some(parent) = path.parent() else {
                return Err(error);
            };
            make_dirs(parent, bits)?;
            make_dir(path, bits)
        }
        other => other,
    }
}

/// Flushes a folder: names made, removed or renamed in it survive a power cut afterwards.
pub fn fsync_dir(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::open(path, flags, Mode::empty()).context("open folder", path)?;
    sys::fsync(&folder).context("flush folder", path)
}

/// Flushes the whole file system on which `path` lies.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    fault::point("flush file system of", &path.to_string_lossy())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::open(path, flags, Mode::empty()).context("open folder", path)?;
    sys::syncfs(&folder).context("flush file system of", path)
}

fn sync_parents(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fsync_dir(parent)?;
    }
    if from.parent() != to.parent()
        && let Some(parent) = from.parent()
    {
        fsync_dir(parent)?;
    }
    Ok(())
}

/// Renames, replacing a file or an empty folder. A power cut may undo it.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fault::point("rename", &from.to_string_lossy())?;
    sys::rename(from, to).context("rename", from)
}

/// As [`rename`], and flushes both parents.
pub fn rename_synced(from: &Path, to: &Path) -> Result<()> {
    rename(from, to)?;
    sync_parents(from, to)
}

/// Swaps two names in one step and flushes both parents.
pub fn exchange_synced(one: &Path, other: &Path) -> Result<()> {
    fault::point("exchange", &one.to_string_lossy())?;
    sys::renameat_with(sys::CWD, one, sys::CWD, other, sys::RenameFlags::EXCHANGE)
        .context("exchange", one)?;
    sync_parents(one, other)
}

/// Writes a whole file so that a reader, or a power cut, sees the old or the new content, never a part.
pub fn atomic_write(path: &Path, content: &[u8], bits: u32) -> Result<()> {
    fault::point("write", &path.to_string_lossy())?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(sys::open(&draft, flags, mode(bits)).context("write", &draft)?);
    file.write_all(content).context("write", &draft)?;
    sys::fchmod(&file, mode(bits)).context("chmod", &draft)?;
    file.sync_all().context("flush", &draft)?;
    rename_synced(&draft, path)
}

/// Writes a small file from its beginning, without emptying or flushing it: content that is always of one
/// length survives the death of this process wholly or not at all, and a power cut maybe not.
pub fn write_in_place(path: &Path, content: &[u8], bits: u32) -> Result<()> {
    fault::point("write", &path.to_string_lossy())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(sys::open(path, flags, mode(bits)).context("write", path)?);
    file.write_all(content).context("write", path)
}

/// A folder that belongs to this process while the value lives.
#[derive(Debug)]
pub struct Lock {
    _folder: OwnedFd,
}

/// Takes the folder for this process; a second taker is refused at once, also within one process.
/// The kernel lets go when the process ends, however it ends.
pub fn lock_dir(path: &Path) -> Result<Lock> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::open(path, flags, Mode::empty()).context("open folder", path)?;
    match sys::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _folder: folder }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            "lock state folder",
            shown(path),
            std::io::Error::new(std::io::ErrorKind::ResourceBusy, "another longshore uses it"),
        )),
        Err(errno) => Err(Error::new("lock state folder", shown(path), errno)),
    }
}

/// Opens a file for reading below `root`: neither `..`, nor a link, nor an absolute path leads out of it.
/// Links inside that stay inside are followed; `/proc` magic links never.
pub fn open_beneath(root: &Path, path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = sys::open(root, flags, Mode::empty()).context("open folder", root)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = sys::openat2(folder.as_fd(), path, flags, Mode::empty(), resolve).context("open", path)?;
    Ok(File::from(fd))
}

/// The type and sizes of the file system on which `path` lies.
pub fn filesystem_name(path: &Path) -> Result<String> {
    let stat = sys::statfs(path).context("ask file system of", path)?;
    // `f_type` is signed on some machines; the magic numbers are 32 bits wide.
    let magic = i128::from(stat.f_type) & 0xffff_ffff;
    Ok(match magic {
        0xef53 => "extfs".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0xf2f5_2010 => "f2fs".into(),
        0x6969 => "nfs".into(),
        other => format!("0x{other:x}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_made_twice_is_already_so() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a");
        assert!(make_dir(&path, 0o1777).unwrap());
        assert!(!make_dir(&path, 0o700).unwrap());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o1777
        );
        std::fs::write(base.path().join("f"), "").unwrap();
        assert!(make_dir(&base.path().join("f"), 0o700).is_err());
        std::os::unix::fs::symlink(&path, base.path().join("l")).unwrap();
        assert!(make_dir(&base.path().join("l"), 0o700).is_err());
        assert!(make_dirs(&base.path().join("x/y/z"), 0o755).unwrap());
    }

    #[test]
    fn a_second_lock_of_a_folder_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let first = lock_dir(base.path()).unwrap();
        let refused = lock_dir(base.path()).unwrap_err();
        assert!(refused.source.to_string().contains("another longshore"));
        drop(first);
        lock_dir(base.path()).unwrap();
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_draft() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("f");
        atomic_write(&path, b"one", 0o600).unwrap();
        atomic_write(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_leads_out_of_a_root() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        make_dir(&root, 0o755).unwrap();
        std::fs::write(base.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("mine"), "m").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("mine", root.join("in")).unwrap();
        for path in ["../secret", "out", "/etc/passwd"] {
            assert!(open_beneath(&root, Path::new(path)).is_err(), "{path} was opened");
        }
        open_beneath(&root, Path::new("in")).unwrap();
    }
}
