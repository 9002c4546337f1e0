//! Any file system, by the names of its options.
//!
//! Options go to the kernel one by one (Linux 5.2 and later), so that no value is split at a comma, and what the
//! kernel says about a mistake comes back in its own words.

use std::io;
use std::path::Path;

use rustix::fs as files;
use rustix::mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use super::Limits;
use super::overlay::what_it_said;
use crate::error::{Context, Error, Result};
use crate::fault;

/// A file system to be mounted.
#[derive(Debug, Clone, Copy)]
pub struct Filesystem<'a> {
    /// What the kernel calls it: `ext4`, `tmpfs`, `nfs`.
    pub kind: &'a str,
    /// Its source: a device, `HOST:/PATH`, or a word where it has none.
    pub source: &'a str,
    /// Its options: a key and its value, or a key alone.
    pub options: &'a [(String, Option<String>)],
    /// What the mount forbids.
    pub limits: Limits,
}

/// Mounts `filesystem` at `target`, a folder. Blocks as long as its server or device does.
pub fn mount_by_options(filesystem: &Filesystem<'_>, target: &Path) -> Result<()> {
    let subject = format!("{} at {}", filesystem.source, target.display());
    fault::point("mount", &subject)?;
    let context = sys::fsopen(filesystem.kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        rustix::io::Errno::NODEV => {
            let why = format!("this kernel has no file system {}", filesystem.kind);
            Error::new("mount", &subject, io::Error::new(io::ErrorKind::Unsupported, why))
        }
        errno => Error::new("mount", &subject, errno),
    })?;
    let configured = sys::fsconfig_set_string(&context, "source", filesystem.source)
        .and_then(|()| {
            filesystem
                .options
                .iter()
                .try_for_each(|(key, value)| match value {
                    Some(value) => sys::fsconfig_set_string(&context, key.as_str(), value.as_str()),
                    None => sys::fsconfig_set_flag(&context, key.as_str()),
                })
        })
        .and_then(|()| {
            // The file system itself, too: a journal is not replayed through a mount that only looks.
            let read_only = filesystem.limits.read_only;
            if read_only {
                sys::fsconfig_set_flag(&context, "ro")
            } else {
                Ok(())
            }
        })
        .and_then(|()| sys::fsconfig_create(&context))
        .and_then(|()| {
            sys::fsmount(
                &context,
                FsMountFlags::FSMOUNT_CLOEXEC,
                filesystem.limits.attributes(),
            )
        });
    let detached = configured.map_err(|errno| {
        let why = io::Error::from(errno);
        let source = match what_it_said(context) {
            Some(said) => io::Error::new(why.kind(), format!("{said} ({why})")),
            None => why,
        };
        Error::new("mount", &subject, source)
    })?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    sys::move_mount(&detached, "", files::CWD, target, flags).context("attach mount at", target)
}

impl Limits {
    fn attributes(self) -> MountAttrFlags {
        let mut attributes = MountAttrFlags::empty();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOATIME, self.no_atime);
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Mounts, private_namespace, unmount};

    fn words(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn options_limit_and_name_what_is_mounted() {
        private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = words(&[("size", Some("64k")), ("mode", Some("0710"))]);
        let limits = Limits {
            no_suid: true,
            no_dev: true,
            ..Limits::default()
        };
        let filesystem = Filesystem {
            kind: "tmpfs",
            source: "memory",
            options: &options,
            limits,
        };
        mount_by_options(&filesystem, folder.path()).unwrap();
        let mounts = Mounts::read().unwrap();
        let mount = mounts.at(folder.path()).unwrap();
        assert_eq!(mount.kind, "tmpfs");
        let full = std::fs::write(folder.path().join("big"), vec![1; 70_000]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(unmount(folder.path()).unwrap());
    }

    #[test]
    fn the_kernels_words_come_back() {
        private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let refused = |kind: &str, options: &[(&str, Option<&str>)]| {
            let options = words(options);
            let filesystem = Filesystem {
                kind,
                source: "memory",
                options: &options,
                limits: Limits::default(),
            };
            let error = mount_by_options(&filesystem, folder.path()).unwrap_err();
            error.source.to_string()
        };
        let said = refused("tmpfs", &[("no-such-option", Some("1"))]);
        assert!(said.contains("no-such-option"), "{said}");
        let said = refused("no-such-filesystem", &[]);
        assert_eq!(said, "this kernel has no file system no-such-filesystem");
    }
}
