//! A folder held open: everything below it is reached by one name at a time and never through a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{mode, xattr};
use crate::error::{Context, Error, Result};
use crate::fault;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl Kind {
    fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }

    fn raw(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Folder => FileType::Directory,
            Self::Link => FileType::Symlink,
            Self::CharDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
        }
    }
}

/// Seconds since 1970, which may be negative, and nanoseconds from 0 to 999 999 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest.
    pub nanos: u32,
}

/// A file's inode, as `stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Apparent size in bytes.
    pub size: u64,
    /// Number of names.
    pub links: u64,
    /// Which device it represents, for device nodes.
    pub rdev: u64,
    /// On which device it lies.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// Content changed.
    pub mtime: Time,
}

impl Meta {
    fn of(stat: &sys::Stat) -> Option<Self> {
        Some(Self {
            kind: Kind::of(FileType::from_raw_mode(stat.st_mode))?,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            links: number(stat.st_nlink),
            rdev: number(stat.st_rdev),
            dev: number(stat.st_dev),
            ino: number(stat.st_ino),
            mtime: Time {
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        })
    }

    /// Whether this is what overlay file systems read as "deleted here": a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }
}

// The widths of `stat`'s fields differ between machines.
fn number(value: impl Into<u64>) -> u64 {
    value.into()
}

/// A device number from its major and minor part.
pub fn device(major: u32, minor: u32) -> u64 {
    sys::makedev(major, minor)
}

/// Major and minor part of a device number.
pub fn device_parts(device: u64) -> (u32, u32) {
    (sys::major(device), sys::minor(device))
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// Its kind, where the file system tells it without a `stat`.
    pub kind: Option<Kind>,
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// For messages only.
    shown: PathBuf,
}

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a folder of our own; the last component must not be a link.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = sys::open(path, OPEN, Mode::empty()).context("open folder", path)?;
        let shown = path.to_owned();
        Ok(Self { fd, shown })
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.shown.join(name)
    }

    fn text(&self, name: &OsStr) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// A path of `name` that cannot be led astray: through our own descriptor, and one component long.
    fn handle(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.fd.as_raw_fd().to_string())
            .join(name)
    }

    /// Where this folder was opened, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// A second handle of the same folder.
    pub fn again(&self) -> Result<Self> {
        let fd = self.fd.try_clone().context("open folder", &self.shown)?;
        let shown = self.shown.clone();
        Ok(Self { fd, shown })
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<Self> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let shown = self.shown.join(path);
        let fd =
            sys::openat2(&self.fd, path, flags, Mode::empty(), resolve).context("open folder", &shown)?;
        Ok(Self { fd, shown })
    }

    /// A folder below this one, on the same mount, without a link on the way (ELOOP, ENOTDIR, EXDEV).
    pub fn descend(&self, path: &Path) -> Result<Self> {
        self.resolve(
            path,
            OPEN,
            ResolveFlags::BENEATH
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_XDEV,
        )
    }

    /// A folder below this one, links followed as if this one were the root of everything.
    pub fn descend_in_root(&self, path: &Path) -> Result<Self> {
        self.resolve(
            path,
            OPEN.difference(OFlags::NOFOLLOW),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// Every name, sorted by bytes.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let folder = sys::Dir::read_from(&self.fd).context("list folder", &self.shown)?;
        let mut entries = Vec::new();
        for entry in folder {
            let entry = entry.context("list folder", &self.shown)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(Entry {
                    name: OsStr::from_bytes(name).to_owned(),
                    kind: Kind::of(entry.file_type()),
                });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The inode of a name, links not followed; nothing when there is none.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Meta>> {
        match sys::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Meta::of(&stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::new("look at", self.text(name), errno)),
        }
    }

    /// The inode of this folder itself.
    pub fn stat_self(&self) -> Result<Meta> {
        let stat = sys::fstat(&self.fd).context("look at", &self.shown)?;
        Ok(Meta::of(&stat).expect("an open folder has a known kind"))
    }

    /// Makes a folder with exactly these mode bits. `false`: a folder was there and is left as it is.
    pub fn make_dir(&self, name: &OsStr, bits: u32) -> Result<bool> {
        fault::point("make folder", &name.to_string_lossy())?;
        match sys::mkdirat(&self.fd, name, mode(bits)) {
            Ok(()) => self.descend(Path::new(name))?.chmod_self(bits).map(|()| true),
            Err(Errno::EXIST) if self.stat(name)?.is_some_and(|meta| meta.kind == Kind::Folder) => Ok(false),
            Err(errno) => Err(Error::new("make folder", self.text(name), errno)),
        }
    }

    /// Makes a file that was not there, mode 0600, for writing.
    pub fn make_file(&self, name: &OsStr) -> Result<File> {
        fault::point("make file", &name.to_string_lossy())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = sys::openat(&self.fd, name, flags, mode(0o600)).context("make file", self.path(name))?;
        Ok(File::from(fd))
    }

    /// Opens a regular file for reading; anything else is an error and is not touched.
    pub fn read_file(&self, name: &OsStr) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = sys::openat(&self.fd, name, flags, Mode::empty()).context("open file", self.path(name))?;
        let stat = sys::fstat(&fd).context("look at", self.path(name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new("open file", self.text(name), Errno::INVAL));
        }
        Ok(File::from(fd))
    }

    /// Makes a symbolic link.
    pub fn make_link(&self, name: &OsStr, target: &OsStr) -> Result<()> {
        fault::point("make link", &name.to_string_lossy())?;
        sys::symlinkat(target, &self.fd, name).context("make link", self.path(name))
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, name: &OsStr) -> Result<OsString> {
        let target = sys::readlinkat(&self.fd, name, Vec::new()).context("read link", self.path(name))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Gives the file `name` of `from` a second name here; a link is linked, not followed.
    pub fn make_hard_link(&self, name: &OsStr, from: &Self, target: &OsStr) -> Result<()> {
        fault::point("make hard link", &name.to_string_lossy())?;
        sys::linkat(&from.fd, target, &self.fd, name, AtFlags::empty())
            .context("make hard link", self.path(name))
    }

    /// Makes a device node, named pipe or socket with mode 0600.
    pub fn make_node(&self, name: &OsStr, kind: Kind, rdev: u64) -> Result<()> {
        fault::point("make node", &name.to_string_lossy())?;
        sys::mknodat(&self.fd, name, kind.raw(), mode(0o600), rdev).context("make node", self.path(name))
    }

    /// Makes an overlay whiteout: a character device 0:0.
    pub fn make_whiteout(&self, name: &OsStr) -> Result<()> {
        fault::point("make whiteout", &name.to_string_lossy())?;
        let kind = FileType::CharacterDevice;
        sys::mknodat(&self.fd, name, kind, Mode::empty(), 0).context("make whiteout", self.path(name))
    }

    /// Removes a name that is no folder; `false`: it was not there.
    pub fn unlink(&self, name: &OsStr) -> Result<bool> {
        fault::point("unlink", &name.to_string_lossy())?;
        self.unlink_with(name, AtFlags::empty())
    }

    /// Removes an empty folder; `false`: it was not there.
    pub fn remove_dir(&self, name: &OsStr) -> Result<bool> {
        fault::point("remove folder", &name.to_string_lossy())?;
        self.unlink_with(name, AtFlags::REMOVEDIR)
    }

    fn unlink_with(&self, name: &OsStr, flags: AtFlags) -> Result<bool> {
        match sys::unlinkat(&self.fd, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::new("remove", self.text(name), errno)),
        }
    }

    /// Moves a name of this folder into another one.
    pub fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        fault::point("rename", &name.to_string_lossy())?;
        sys::renameat(&self.fd, name, &to.fd, new).context("rename", self.path(name))
    }

    /// Sets owner and group of a name, links not followed. Clears set-id bits: set the mode afterwards.
    pub fn chown(&self, name: &OsStr, uid: u32, gid: u32) -> Result<()> {
        fault::point("chown", &name.to_string_lossy())?;
        let (uid, gid) = (sys::Uid::from_raw(uid), sys::Gid::from_raw(gid));
        sys::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .context("chown", self.path(name))
    }

    /// Sets owner and group of this folder.
    pub fn chown_self(&self, uid: u32, gid: u32) -> Result<()> {
        fault::point("chown", &self.shown.to_string_lossy())?;
        let (uid, gid) = (sys::Uid::from_raw(uid), sys::Gid::from_raw(gid));
        sys::fchown(&self.fd, Some(uid), Some(gid)).context("chown", &self.shown)
    }

    /// Sets the mode bits of a name; a link is an error (links have none).
    pub fn chmod(&self, name: &OsStr, bits: u32) -> Result<()> {
        fault::point("chmod", &name.to_string_lossy())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = sys::openat(&self.fd, name, flags, Mode::empty()).context("chmod", self.path(name))?;
        let stat = sys::fstat(&node).context("chmod", self.path(name))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(Error::new("chmod", self.text(name), Errno::LOOP));
        }
        // The descriptor's own entry leads to that very inode, whatever the name means by now.
        let itself = format!("/proc/self/fd/{}", node.as_raw_fd());
        sys::chmod(itself.as_str(), mode(bits)).context("chmod", self.path(name))
    }

    /// Sets the mode bits of this folder.
    pub fn chmod_self(&self, bits: u32) -> Result<()> {
        fault::point("chmod", &self.shown.to_string_lossy())?;
        sys::fchmod(&self.fd, mode(bits)).context("chmod", &self.shown)
    }

    /// Sets access and modification time of a name, links not followed.
    pub fn set_times(&self, name: &OsStr, accessed: Time, modified: Time) -> Result<()> {
        fault::point("set times of", &name.to_string_lossy())?;
        let times = timestamps(accessed, modified);
        sys::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .context("set times of", self.path(name))
    }

    /// Sets access and modification time of this folder.
    pub fn set_times_self(&self, accessed: Time, modified: Time) -> Result<()> {
        fault::point("set times of", &self.shown.to_string_lossy())?;
        sys::futimens(&self.fd, &timestamps(accessed, modified)).context("set times of", &self.shown)
    }

    /// The value of an attribute of a name (`.`: of this folder), links not followed.
    pub fn get_xattr(&self, name: &OsStr, key: &OsStr) -> Result<Option<Vec<u8>>> {
        xattr::get_xattr(&self.handle(name), key)
    }

    /// The attributes' names of a name (`.`: of this folder), sorted.
    pub fn list_xattrs(&self, name: &OsStr) -> Result<Vec<OsString>> {
        xattr::list_xattrs(&self.handle(name))
    }

    /// Removes an attribute of a name (`.`: of this folder), links not followed.
    pub fn remove_xattr(&self, name: &OsStr, key: &OsStr) -> Result<bool> {
        xattr::remove_xattr(&self.handle(name), key)
    }

    /// Sets an attribute of a name (`.`: of this folder), links not followed.
    pub fn set_xattr(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> Result<()> {
        xattr::set_xattr(&self.handle(name), key, value)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn timestamps(accessed: Time, modified: Time) -> Timestamps {
    let spec = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: spec(accessed),
        last_modification: spec(modified),
    }
}
