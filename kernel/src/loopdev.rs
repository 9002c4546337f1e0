//! Loop devices: a file as a block device.
//!
//! Numbers and layouts are those of `linux/loop.h`. A device made here clears itself when its last user
//! closes it, so a death between two steps leaves none behind.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::fault;

const CONTROL: &str = "/dev/loop-control";
const GET_FREE: libc::c_ulong = 0x4C82;
const CONFIGURE: libc::c_ulong = 0x4C0A;
const SET_CAPACITY: libc::c_ulong = 0x4C07;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// How often another process may snatch the device away that was free a moment ago.
const TRIES: usize = 64;

/// `struct loop_config`, with its `struct loop_info64` spelt out.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Config>() == 304);

/// A block device over a file. It is gone when this value is dropped and nothing is mounted from it.
#[derive(Debug)]
pub struct LoopDevice {
    node: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Makes a device over the whole of `backing`, which is opened for writing unless `read_only`.
    pub fn over(backing: &Path, read_only: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(!read_only)
            .open(backing)
            .context("open", backing)?;
        let subject = backing.to_string_lossy();
        fault::point("make loop device over", &subject)?;
        let control = options.write(true).open(CONTROL).context("open", CONTROL)?;
        for _ in 0..TRIES {
            let number = ask(&control, GET_FREE, 0).context("find a free loop device for", backing)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let node = options.open(&path).context("open", &path)?;
            match configure(&node, &file, backing, read_only) {
                Ok(()) => return Ok(Self { node, path }),
                Err(Errno::BUSY) => {}
                Err(errno) => return Err(Error::new("make loop device over", subject, errno)),
            }
        }
        let why = format!("{TRIES} free devices in a row were taken by others");
        Err(Error::other("make loop device over", subject, why))
    }

    /// Where its node is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes over a new size of the file.
    pub fn grow(&self) -> Result<()> {
        fault::point("grow loop device", &self.path.to_string_lossy())?;
        ask(&self.node, SET_CAPACITY, 0)
            .map(drop)
            .context("grow loop device", &self.path)
    }
}

fn configure(node: &File, file: &File, backing: &Path, read_only: bool) -> std::result::Result<(), Errno> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let mut config = Config {
        fd,
        block_size: 0,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR | DIRECT_IO | if read_only { READ_ONLY } else { 0 },
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // For `losetup` to show; the kernel wants a final NUL.
    let name = backing.as_os_str().as_bytes();
    let shown = name.len().min(config.file_name.len() - 1);
    config.file_name[..shown].copy_from_slice(&name[..shown]);
    // SAFETY: the structure has the layout that the kernel reads and lives through the call.
    let outcome = unsafe { libc::ioctl(node.as_raw_fd(), CONFIGURE as _, &raw const config) };
    if outcome < 0 { Err(last()) } else { Ok(()) }
}

fn ask(file: &File, request: libc::c_ulong, argument: libc::c_ulong) -> std::result::Result<i32, Errno> {
    // SAFETY: the requests used here take a number, no pointer.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if outcome < 0 { Err(last()) } else { Ok(outcome) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_file_is_a_device_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = LoopDevice::over(&image, false).unwrap();
        let path = device.path().to_owned();
        let mut node = OpenOptions::new().write(true).open(&path).unwrap();
        node.write_all(&[7; 4096]).unwrap();
        node.sync_all().unwrap();
        drop(node);
        let mut first = [0; 4096];
        File::open(&image).unwrap().read_exact(&mut first).unwrap();
        assert_eq!(first, [7; 4096]);
        drop(device);
        let backing = Path::new("/sys/block")
            .join(path.file_name().unwrap())
            .join("loop/backing_file");
        let until = Instant::now() + Duration::from_secs(10);
        // The device's number may be another file's by now.
        while std::fs::read_to_string(&backing).is_ok_and(|text| text.trim_end() == image.to_string_lossy()) {
            assert!(Instant::now() < until, "the device stays");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_read_only_device_refuses_writes_and_a_missing_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let missing = LoopDevice::over(&image, true).unwrap_err();
        assert!(missing.is_missing());
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = LoopDevice::over(&image, true).unwrap();
        let refused = OpenOptions::new().write(true).open(device.path());
        assert!(refused.is_err() || refused.unwrap().write_all(&[1; 512]).is_err());
    }

    #[test]
    fn a_device_grows_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(1 << 20).unwrap();
        let device = LoopDevice::over(&image, false).unwrap();
        file.set_len(2 << 20).unwrap();
        device.grow().unwrap();
        let name = device.path().file_name().unwrap();
        let size = std::fs::read_to_string(Path::new("/sys/block").join(name).join("size")).unwrap();
        assert_eq!(size.trim(), "4096");
    }
}
