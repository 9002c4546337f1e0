//! Extended attributes of a path itself: a link is not followed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self as sys, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::fault;

/// The value of an attribute, or nothing where the file or its file system has none of that name.
pub fn get_xattr(path: &Path, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let mut size = 256;
    loop {
        let mut value = vec![0; size];
        match sys::lgetxattr(path, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            // It grew, or was larger than the first guess: 64 KiB is the kernel's own limit.
            Err(Errno::RANGE) if size < (1 << 16) => size = 1 << 16,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(Error::new("read attribute of", path.to_string_lossy(), errno)),
        }
    }
}

/// The names of all attributes, sorted.
pub fn list_xattrs(path: &Path) -> Result<Vec<OsString>> {
    let mut size = 1024;
    let list = loop {
        let mut list = vec![0_u8; size];
        match sys::llistxattr(path, list.as_mut_slice()) {
            Ok(length) => {
                list.truncate(length);
                break list;
            }
            Err(Errno::RANGE) if size < (1 << 16) => size = 1 << 16,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::new("list attributes of", path.to_string_lossy(), errno)),
        }
    };
    let mut names: Vec<OsString> = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// Sets an attribute, new or not.
pub fn set_xattr(path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
    fault::point("set attribute of", &path.to_string_lossy())?;
    sys::lsetxattr(path, name, value, XattrFlags::empty()).context("set attribute of", path)
}

/// Removes an attribute; `false`: it was not there.
pub fn remove_xattr(path: &Path, name: &OsStr) -> Result<bool> {
    fault::point("remove attribute of", &path.to_string_lossy())?;
    match sys::lremovexattr(path, name) {
        Ok(()) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(Error::new("remove attribute of", path.to_string_lossy(), errno)),
    }
}
