//! Network namespaces: make, open, remove, and work inside one.
//!
//! Only throw-away threads change their namespace, so that no thread of a pool is ever left in the
//! wrong one.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Context, Error, Result};
use crate::fault;

/// What `statfs` calls a namespace file.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where this thread's own namespace is.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open namespace; it lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The namespace pinned at a path, such as `/proc/PID/ns/net` or a file made by [`create`].
    /// Fails with ENOENT if there is none; a file that is no namespace is refused.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context("open namespace", path)?;
        if is_namespace(&file)? {
            Ok(Self(file.into()))
        } else {
            Err(Error::other(
                "open namespace",
                path.to_string_lossy(),
                "it is no namespace",
            ))
        }
    }

    /// A new namespace that lives as long as it is open or used. Its loopback device is down.
    pub fn unnamed() -> Result<Self> {
        on_new_thread(|| {
            leave_namespace()?;
            Self::current()
        })?
    }

    /// Device and inode: two handles of one namespace answer the same.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.0).context("stat", "network namespace")?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Runs a closure inside, on a throw-away thread; see [`run_in`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        run_in(self.as_fd(), work)
    }
}

fn is_namespace(file: &File) -> Result<bool> {
    let kind = rustix::fs::fstatfs(file).context("stat", "network namespace")?;
    Ok(kind.f_type == NSFS_MAGIC)
}

/// Makes a namespace and pins it at `path` (a file in an existing folder). A file left there by a
/// death between the two steps is used; a namespace that is pinned there already is EEXIST.
pub fn create(path: &Path) -> Result<Namespace> {
    fault::point("create namespace", &path.to_string_lossy())?;
    match File::options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let file = File::open(path).context("open file", path)?;
            if is_namespace(&file)? {
                let exists = std::io::Error::from_raw_os_error(libc::EEXIST);
                return Err(Error::new("create namespace", path.to_string_lossy(), exists));
            }
        }
        other => drop(other.context("create file", path)?),
    }
    let pinned = on_new_thread(|| {
        leave_namespace()?;
        rustix::mount::mount_bind(OWN, path).context("pin namespace at", path)?;
        Namespace::current()
    })?;
    if pinned.is_err() {
        let _ = std::fs::remove_file(path);
    }
    pinned
}

/// Unpins a namespace and removes its file; nothing there is no error (`false`).
pub fn delete(path: &Path) -> Result<bool> {
    fault::point("delete namespace", &path.to_string_lossy())?;
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        // EINVAL: not mounted, as after a death between the two steps.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error).context("unpin namespace at", path),
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("remove file", path),
    }
}

/// Runs a closure in a namespace, on a thread that ends with it. Sockets opened inside stay there.
pub fn run_in<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    on_new_thread(move || {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .context("enter", "network namespace")?;
        Ok(work())
    })?
}

/// Runs a closure in a new namespace of its own that dies with the closure's sockets.
pub fn run_in_new<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = Namespace::unnamed()?;
    namespace.run(work)
}

fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        let thread = thread.spawn_scoped(scope, work).context("start", "thread")?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into a new, empty network namespace.
fn leave_namespace() -> Result<()> {
    // SAFETY: only the network namespace is unshared; the file table stays shared with other threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("make", "network namespace")
}

/// Writes a network sysctl of the calling thread's namespace: `ipv4/ip_forward` is
/// `/proc/sys/net/ipv4/ip_forward`. A value that is there already is not written again (`false`).
pub fn set_sysctl(name: &str, value: &str) -> Result<bool> {
    if sysctl(name)? == value {
        return Ok(false);
    }
    fault::point("set sysctl", name)?;
    std::fs::write(sysctl_path(name)?, value).context("set sysctl", name)?;
    Ok(true)
}

/// Reads a network sysctl of the calling thread's namespace, without its line end.
pub fn sysctl(name: &str) -> Result<String> {
    let value = std::fs::read_to_string(sysctl_path(name)?).context("read sysctl", name)?;
    Ok(value.trim_end().to_owned())
}

/// Writes a network sysctl of another namespace.
pub fn set_sysctl_in(namespace: BorrowedFd<'_>, name: &str, value: &str) -> Result<bool> {
    run_in(namespace, || set_sysctl(name, value))?
}

fn sysctl_path(name: &str) -> Result<std::path::PathBuf> {
    if name.starts_with('/') || name.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(Error::other("name sysctl", name, "it is no plain relative path"));
    }
    Ok(Path::new("/proc/sys/net").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_runs_inside_and_the_caller_stays_outside() {
        let before = Namespace::current().unwrap().identity().unwrap();
        let made = Namespace::unnamed().unwrap();
        let inside = made
            .run(|| Namespace::current().unwrap().identity().unwrap())
            .unwrap();
        assert_eq!(inside, made.identity().unwrap());
        assert_ne!(inside, before);
        assert_eq!(Namespace::current().unwrap().identity().unwrap(), before);
    }

    #[test]
    fn sysctls_are_those_of_the_namespace() {
        let made = Namespace::unnamed().unwrap();
        assert!(set_sysctl_in(made.as_fd(), "ipv4/ip_forward", "1").unwrap());
        assert!(!set_sysctl_in(made.as_fd(), "ipv4/ip_forward", "1").unwrap());
        let other = run_in_new(|| sysctl("ipv4/ip_forward").unwrap()).unwrap();
        assert_eq!(made.run(|| sysctl("ipv4/ip_forward").unwrap()).unwrap(), "1");
        assert_eq!(
            other, "0",
            "the host's own forwarding is inherited or ours leaked"
        );
        assert!(set_sysctl("../kernel/hostname", "x").is_err());
    }

    #[test]
    fn a_pinned_namespace_outlives_its_handle_until_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blue");
        // A mount namespace of the thread's own keeps the pin off the machine.
        on_new_thread(|| {
            // SAFETY: only the mount namespace and the file-system attributes of this thread change.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            std::fs::write(&path, "").unwrap();
            let identity = create_here(&path);
            assert_eq!(Namespace::open(&path).unwrap().identity().unwrap(), identity);
            assert!(delete(&path).unwrap());
            assert!(!delete(&path).unwrap());
            assert!(Namespace::open(&path).unwrap_err().is_missing());
        })
        .unwrap();
    }

    fn create_here(path: &Path) -> (u64, u64) {
        // Threads inherit the mount namespace of the one that starts them.
        let made = create(path).unwrap();
        assert!(create(path).unwrap_err().is_exists());
        made.identity().unwrap()
    }
}
