//! Subvolumes of btrfs: folders that are snapshot and removed in a time that does not depend on their size.
//!
//! Numbers and structures are those of `linux/btrfs.h`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fault;
use crate::fsutil::Folder;

/// The inode of every subvolume's root: `BTRFS_FIRST_FREE_OBJECTID`.
pub(crate) const ROOT_INODE: u64 = 256;

/// Both `btrfs_ioctl_vol_args` and its second version are as long as a page.
const LENGTH: usize = 4096;
const LENGTH_IN_REQUEST: u32 = 4096;
/// Where the name stands in the one and in the other.
const NAME: usize = 8;
const NAME_V2: usize = 56;
/// Longest name of a subvolume.
const LONGEST: usize = 255;

/// `_IOW(0x94, NUMBER, 4096 bytes)`.
const fn request(number: u32) -> u32 {
    (1 << 30) | (LENGTH_IN_REQUEST << 16) | (0x94 << 8) | number
}

const DESTROY: u32 = request(15);
const SNAPSHOT: u32 = request(23);
const CREATE: u32 = request(24);

/// Makes an empty subvolume, whose root has mode 0755 before the umask.
pub fn create(folder: &Folder, name: &OsStr) -> Result<()> {
    fault::point("make subvolume", &name.to_string_lossy())?;
    call("make subvolume", CREATE, folder, None, name)
}

/// Makes a subvolume `name` that shows what the subvolume `origin` shows now, and can be written.
pub fn snapshot(origin: &Folder, folder: &Folder, name: &OsStr) -> Result<()> {
    fault::point("snapshot subvolume", &name.to_string_lossy())?;
    call("snapshot subvolume", SNAPSHOT, folder, Some(origin), name)
}

/// Removes a subvolume with everything in it; its space comes free later. `false`: it is none, or another
/// one lies in it.
pub fn destroy(folder: &Folder, name: &OsStr) -> Result<bool> {
    fault::point("remove subvolume", &name.to_string_lossy())?;
    match call("remove subvolume", DESTROY, folder, None, name) {
        Ok(()) => Ok(true),
        Err(error) => match error.errno() {
            // Another file system has no such call, another folder is no subvolume.
            Some(libc::ENOTTY | libc::EINVAL | libc::ENOTEMPTY | libc::EPERM) => Ok(false),
            _ => Err(error),
        },
    }
}

fn call(
    operation: &'static str,
    request: u32,
    folder: &Folder,
    origin: Option<&Folder>,
    name: &OsStr,
) -> Result<()> {
    let subject = || folder.shown().join(name).to_string_lossy().into_owned();
    let bytes = name.as_bytes();
    if bytes.len() > LONGEST || Path::new(name).file_name() != Some(name) {
        return Err(Error::new(operation, subject(), rustix::io::Errno::INVAL));
    }
    // As numbers, so that it is aligned as the kernel's structure is.
    let mut words = [0_u64; LENGTH / 8];
    let at = if request == DESTROY { NAME } else { NAME_V2 };
    for (number, byte) in bytes.iter().enumerate() {
        let (word, shift) = ((at + number) / 8, (at + number) % 8);
        let mut whole = words[word].to_ne_bytes();
        whole[shift] = *byte;
        words[word] = u64::from_ne_bytes(whole);
    }
    if let Some(origin) = origin {
        let fd = i64::from(origin.as_fd().as_raw_fd());
        words[0] = u64::from_ne_bytes(fd.to_ne_bytes());
    }
    #[allow(
        clippy::cast_possible_wrap,
        clippy::cast_lossless,
        reason = "the type differs between C libraries; only the bits count"
    )]
    let request = request as libc::Ioctl;
    // SAFETY: each of the three requests reads, and may write, at most `LENGTH` bytes from the pointer, which
    // is where `words` lies; they end in zeros, so that the name does too. Descriptors are open meanwhile.
    let outcome = unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), request, words.as_mut_ptr()) };
    if outcome < 0 {
        return Err(Error::new(operation, subject(), std::io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_has_no_subvolumes() {
        let base = tempfile::tempdir().unwrap();
        if crate::fsutil::filesystem_name(base.path()).unwrap() == "btrfs" {
            return;
        }
        let folder = Folder::open(base.path()).unwrap();
        std::fs::create_dir(base.path().join("plain")).unwrap();
        std::fs::write(base.path().join("plain/file"), "").unwrap();
        assert!(create(&folder, OsStr::new("new")).is_err());
        assert!(!destroy(&folder, OsStr::new("plain")).unwrap());
        assert!(base.path().join("plain/file").exists());
        for name in ["", "..", "a/b", "/", &"x".repeat(256)] {
            let refused = create(&folder, OsStr::new(name)).unwrap_err();
            assert_eq!(refused.errno(), Some(libc::EINVAL), "{name}");
        }
    }
}
