//! Mounts: overlays, binds, memory file systems, and the kernel's own list of them.

mod info;
mod options;
mod overlay;

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{self as sys, MountFlags, MountPropagationFlags, UnmountFlags};

pub use info::{Mount, Mounts, parse};
pub use options::{Filesystem, mount_by_options};
pub use overlay::{Overlay, has_layer_options, mount_overlay};

use crate::error::{Context, Error, Result};
use crate::fault;

/// What a mount forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the kernel")]
pub struct Limits {
    /// No writing.
    pub read_only: bool,
    /// Set-id bits and file capabilities have no effect.
    pub no_suid: bool,
    /// Device nodes have no effect.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Reading leaves no time of access.
    pub no_atime: bool,
}

impl Limits {
    fn flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, self.no_suid);
        flags.set(MountFlags::NODEV, self.no_dev);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags.set(MountFlags::NOATIME, self.no_atime);
        flags
    }
}

/// Mounts a file system by mount(2); `data` as its kernel driver reads it, without a NUL.
pub fn mount_filesystem(kind: &str, source: &str, target: &Path, limits: Limits, data: &str) -> Result<()> {
    fault::point("mount", &target.to_string_lossy())?;
    let data = CString::new(data).map_err(|_| Error::new("mount", target.to_string_lossy(), Errno::INVAL))?;
    sys::mount(source, target, kind, limits.flags(), data.as_c_str()).context("mount", target)
}

/// Mounts an empty file system in memory of at most `bytes` (0: the kernel's default, half the memory).
pub fn mount_tmpfs(target: &Path, bytes: u64, mode: u32, limits: Limits) -> Result<()> {
    let data = format!("mode={:o},size={bytes}", mode & 0o7777);
    mount_filesystem("tmpfs", "tmpfs", target, limits, &data)
}

/// Shows `source` (a folder or file) at `target` too, without the mounts below it.
pub fn bind(source: &Path, target: &Path, limits: Limits) -> Result<()> {
    fault::point("bind", &target.to_string_lossy())?;
    sys::mount_bind(source, target).context("bind", target)?;
    if limits == Limits::default() {
        return Ok(());
    }
    // A bind takes its flags only from a second call.
    let flags = limits.flags() | MountFlags::BIND;
    let result = sys::mount_remount(target, flags, c"").context("limit bind", target);
    if result.is_err() {
        let _ = sys::unmount(target, UnmountFlags::DETACH);
    }
    result
}

/// Cuts a mount off from the mounts and unmounts of other namespaces; with `below`, those below it too.
pub fn make_private(target: &Path, below: bool) -> Result<()> {
    change(target, MountPropagationFlags::PRIVATE, below)
}

/// Lets mounts below `target` appear in the namespaces that share it.
pub fn make_shared(target: &Path, below: bool) -> Result<()> {
    change(target, MountPropagationFlags::SHARED, below)
}

fn change(target: &Path, kind: MountPropagationFlags, below: bool) -> Result<()> {
    fault::point("change propagation of", &target.to_string_lossy())?;
    let mut flags = kind;
    flags.set(MountPropagationFlags::REC, below);
    sys::mount_change(target, flags).context("change propagation of", target)
}

/// Unmounts what is on top at `target`; `false`: nothing was. EBUSY while somebody uses it.
pub fn unmount(target: &Path) -> Result<bool> {
    unmount_with(target, UnmountFlags::NOFOLLOW)
}

/// As [`unmount`], also while somebody uses it: it leaves the tree now and dies with its last user.
pub fn unmount_detached(target: &Path) -> Result<bool> {
    unmount_with(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// As [`unmount`], also while its server is silent: what waits for it fails.
pub fn unmount_forced(target: &Path) -> Result<bool> {
    unmount_with(target, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE)
}

fn unmount_with(target: &Path, flags: UnmountFlags) -> Result<bool> {
    fault::point("unmount", &target.to_string_lossy())?;
    match sys::unmount(target, flags) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::new("unmount", target.to_string_lossy(), errno)),
    }
}

/// Gives the calling thread, and the threads it starts from now on, mounts of their own: what they mount
/// is seen by nobody else and is gone when the last of them ends.
pub fn private_namespace() -> Result<()> {
    let flags = rustix::thread::UnshareFlags::NEWNS;
    // SAFETY: only the mount namespace (and with it the working directory) is unshared; the descriptor
    // table, on which Rust's I/O safety rests, stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.context("unshare", "mounts")?;
    make_private(Path::new("/"), true)
}

/// A path that stands for an open descriptor.
fn descriptor_path(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// Runs a test in mounts of its own.
    fn alone(test: impl FnOnce(&Path) + Send) {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                private_namespace().unwrap();
                let base = tempfile::tempdir().unwrap();
                let path = base.path().to_owned();
                test(&path);
            });
            if let Err(panic) = run.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn folders(base: &Path, names: &[&str]) -> Vec<PathBuf> {
        names
            .iter()
            .map(|name| {
                let path = base.join(name);
                fs::create_dir(&path).unwrap();
                path
            })
            .collect()
    }

    #[test]
    fn mounts_in_an_own_namespace_are_seen_by_nobody_else() {
        alone(|base| {
            let target = base.join("a b");
            fs::create_dir(&target).unwrap();
            mount_tmpfs(&target, 1 << 20, 0o750, Limits::default()).unwrap();
            let mounts = Mounts::read().unwrap();
            assert_eq!(mounts.at(&target).unwrap().kind, "tmpfs");
            let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!outside.contains("a\\040b"));
            assert!(unmount(&target).unwrap());
            assert!(!unmount(&target).unwrap());
            assert!(!unmount(&base.join("nowhere")).unwrap());
            assert!(Mounts::read().unwrap().at(&target).is_none());
        });
    }

    #[test]
    fn a_read_only_bind_takes_no_writes() {
        alone(|base| {
            let paths = folders(base, &["from", "to"]);
            let limits = Limits {
                read_only: true,
                ..Limits::default()
            };
            bind(&paths[0], &paths[1], limits).unwrap();
            let refused = fs::write(paths[1].join("x"), "").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
            unmount(&paths[1]).unwrap();
        });
    }

    #[test]
    fn a_removal_stops_at_a_mount() {
        alone(|base| {
            let paths = folders(base, &["tree", "other", "tree/mount"]);
            fs::write(paths[1].join("kept"), "").unwrap();
            bind(&paths[1], &paths[2], Limits::default()).unwrap();
            let refused = crate::fsutil::remove_tree(&paths[0]).unwrap_err();
            assert!(
                matches!(refused.errno(), Some(libc::EXDEV | libc::EBUSY)),
                "{refused:?}"
            );
            assert!(paths[1].join("kept").exists());
            unmount(&paths[2]).unwrap();
        });
    }

    fn overlay_works(base: &Path, mount: fn(&Overlay<'_>, &Path) -> Result<()>) {
        let paths = folders(base, &["low:1", "low,2", "up", "work", "all"]);
        fs::write(paths[0].join("one"), "1").unwrap();
        fs::write(paths[1].join("two"), "2").unwrap();
        let overlay = Overlay {
            lowers: &paths[..2],
            upper: Some((&paths[2], &paths[3])),
            label: None,
        };
        mount(&overlay, &paths[4]).unwrap();
        assert!(paths[4].join("one").exists() && paths[4].join("two").exists());
        fs::write(paths[4].join("three"), "3").unwrap();
        fs::remove_file(paths[4].join("one")).unwrap();
        assert!(paths[2].join("three").exists() && !paths[4].join("one").exists());
        unmount(&paths[4]).unwrap();
        let overlay = Overlay {
            upper: None,
            ..overlay
        };
        mount(&overlay, &paths[4]).unwrap();
        assert!(paths[4].join("one").exists());
        assert!(fs::write(paths[4].join("x"), "").is_err());
        unmount(&paths[4]).unwrap();
    }

    #[test]
    fn an_overlay_writes_to_its_upper_only() {
        alone(|base| overlay_works(base, mount_overlay));
    }

    #[test]
    fn an_old_kernel_gets_the_same_overlay_in_one_page() {
        alone(|base| overlay_works(base, overlay::mount_classic));
    }

    #[test]
    fn a_refused_overlay_says_what_the_kernel_said() {
        alone(|base| {
            let paths = folders(base, &["low", "all"]);
            let lowers = vec![paths[0].clone(); 501];
            let overlay = Overlay {
                lowers: &lowers,
                upper: None,
                label: None,
            };
            let refused = mount_overlay(&overlay, &paths[1]).unwrap_err();
            assert!(refused.source.to_string().contains("limit is 500"), "{refused:?}");
        });
    }
}
