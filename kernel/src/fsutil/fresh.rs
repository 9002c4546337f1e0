//! Files and folders that were just made, at the price of few system calls: layers have tens of thousands.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self as sys, OFlags};
use rustix::io::Errno;

use super::folder::{Folder, Time, timestamps};
use super::mode;
use crate::error::{Context, Error, Result};
use crate::fault;

/// Owner, group and mode bits that an inode is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dress {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, 12 of them.
    pub mode: u32,
}

/// Something open for writing that nobody else knows yet.
#[derive(Debug)]
pub struct Fresh<F> {
    /// What was made.
    pub it: F,
    name: Box<OsStr>,
}

impl<F: AsFd> Fresh<F> {
    /// Sets the owner, runs `between` (what a change of owner would undo), and sets the mode; only what differs
    /// is changed. `between` says whether it did something, which may have changed the mode.
    pub fn dress<E: From<Error>>(
        &self,
        dress: Dress,
        between: impl FnOnce() -> std::result::Result<bool, E>,
    ) -> std::result::Result<(), E> {
        let path = Path::new(&*self.name);
        let is = sys::fstat(&self.it).context("look at", path)?;
        let bits = is.st_mode & 0o7777;
        // A change of the owner takes set-id bits away, but not from every folder.
        let mut surely = bits & 0o6000 != 0;
        if (is.st_uid, is.st_gid) != (dress.uid, dress.gid) {
            fault::point("chown", &self.name.to_string_lossy())?;
            let (uid, gid) = (sys::Uid::from_raw(dress.uid), sys::Gid::from_raw(dress.gid));
            sys::fchown(&self.it, Some(uid), Some(gid)).context("chown", path)?;
        }
        surely |= between()?;
        if surely || bits != dress.mode {
            fault::point("chmod", &self.name.to_string_lossy())?;
            sys::fchmod(&self.it, mode(dress.mode)).context("chmod", path)?;
        }
        Ok(())
    }

    /// Sets access and modification time.
    pub fn set_times(&self, accessed: Time, modified: Time) -> Result<()> {
        fault::point("set times of", &self.name.to_string_lossy())?;
        let path = Path::new(&*self.name);
        sys::futimens(&self.it, &timestamps(accessed, modified)).context("set times of", path)
    }
}

impl Folder {
    /// Makes a file, for writing, with at most these mode bits; nothing: the name is taken.
    pub fn fresh_file(&self, name: &OsStr, bits: u32) -> Result<Option<Fresh<File>>> {
        fault::point("make file", &name.to_string_lossy())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Set-id bits come last, when the content and the owner are there.
        match sys::openat(self, name, flags, mode(bits & 0o777)) {
            Ok(fd) => Ok(Some(Fresh {
                it: File::from(fd),
                name: name.into(),
            })),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(errno).context("make file", self.shown().join(name)),
        }
    }

    /// Makes a folder of mode 0700; nothing: the name is taken.
    pub fn fresh_dir(&self, name: &OsStr) -> Result<Option<Fresh<Folder>>> {
        fault::point("make folder", &name.to_string_lossy())?;
        match sys::mkdirat(self, name, mode(0o700)) {
            Ok(()) => self.as_fresh(name).map(Some),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(errno).context("make folder", self.shown().join(name)),
        }
    }

    /// A folder that is there, to be dressed anew.
    pub fn as_fresh(&self, name: &OsStr) -> Result<Fresh<Folder>> {
        Ok(Fresh {
            it: self.descend(Path::new(name))?,
            name: name.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_fresh_gets_its_mode_and_a_taken_name_is_told() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::open(base.path()).unwrap();
        let own = std::fs::metadata(base.path()).unwrap();
        let dress = |mode| Dress {
            uid: own.uid(),
            gid: own.gid(),
            mode,
        };
        let file = folder.fresh_file(OsStr::new("f"), 0o6777).unwrap().unwrap();
        let before = file.it.metadata().unwrap().mode() & 0o7777;
        assert_eq!(before & 0o7000, 0, "set-id bits are not there from the start");
        file.dress::<Error>(dress(0o6751), || Ok(false)).unwrap();
        let time = Time {
            seconds: -5,
            nanos: 7,
        };
        file.set_times(time, time).unwrap();
        let meta = std::fs::metadata(base.path().join("f")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
            (0o6751, -5, 7)
        );
        assert!(folder.fresh_file(OsStr::new("f"), 0o600).unwrap().is_none());

        let inner = folder.fresh_dir(OsStr::new("d")).unwrap().unwrap();
        inner.dress::<Error>(dress(0o1777), || Ok(false)).unwrap();
        let meta = std::fs::metadata(base.path().join("d")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o1777);
        assert!(folder.fresh_dir(OsStr::new("f")).unwrap().is_none());
        assert!(folder.as_fresh(OsStr::new("f")).is_err());
    }
}
