//! Who uses a directory, by the kernel's word.
//!
//! A bind mount shows in `/proc/PID/mountinfo` with the device and, as its root, the path of the mounted
//! directory on that device. So a container that has a volume mounted is found in its own mount
//! namespace, whichever engine started it and whether or not that engine still lives.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::mount::{Mount, Mounts, parse};

/// A use of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// A process of the mount namespace that has it.
    pub(crate) pid: i32,
    /// Where it is mounted there.
    pub(crate) point: PathBuf,
}

/// What a look into every mount namespace saw.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) users: Vec<User>,
    /// Processes whose mounts this one may not see.
    pub(crate) hidden: usize,
}

/// Every mount, in any mount namespace, of `directory` or of something below it; and every mount of
/// this namespace that sits on something below it. A mount on `directory` itself is ours, and so are the copies
/// of it that namespaces of the host's services have at the same place.
pub(crate) fn look_for_users(directory: &Path) -> io::Result<Sight> {
    let directory = resolve(directory)?;
    let own = parse(&std::fs::read("/proc/thread-self/mountinfo")?);
    let Some((device, root)) = locate(&own, &directory) else {
        return Err(io::Error::other("no mount covers it"));
    };
    let mut sight = Sight::default();
    let me = std::process::id().cast_signed();
    sight.users.extend(
        own.under(&directory)
            .filter(|mount| mount.target != directory)
            .map(|mount| user(mount, me)),
    );
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match mounts_of(pid, &seen) {
            Ok((namespace, mounts)) => {
                let is_ours = |mount: &&Mount| {
                    mount.device == device && shows(mount, &root) && mount.target != directory
                };
                let users = mounts.iter().filter(is_ours).map(|mount| user(mount, pid));
                sight.users.extend(users);
                seen.extend(namespace);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => sight.hidden += 1,
            // The process ended while it was looked at; if others share its namespace they come too.
            Err(_) => {}
        }
    }
    Ok(sight)
}

/// The path without symbolic links, as the kernel tells it. The directory itself is not looked at: a server that
/// may be silent can be behind it.
fn resolve(directory: &Path) -> io::Result<PathBuf> {
    match (directory.parent(), directory.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => directory.canonicalize(),
    }
}

/// The mount namespace of a process and its mounts; no mounts if the namespace was seen before.
fn mounts_of(pid: i32, seen: &BTreeSet<PathBuf>) -> io::Result<(Option<PathBuf>, Mounts)> {
    // The kernel shows the mounts of a process with more capabilities than ours, but not the name of
    // its namespace. Then it is looked through once more.
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace.as_ref().is_some_and(|name| seen.contains(name)) {
        return Ok((None, Mounts::default()));
    }
    let text = std::fs::read(format!("/proc/{pid}/mountinfo"))?;
    Ok((namespace, parse(&text)))
}

fn user(mount: &Mount, pid: i32) -> User {
    User {
        pid,
        point: mount.target.clone(),
    }
}

/// Whether a mount of the same device shows `directory` or something below it.
fn shows(mount: &Mount, directory: &Path) -> bool {
    // A directory that is gone but still mounted is marked so; one made anew under its name is another.
    let gone = mount.root.as_os_str().as_bytes().ends_with(b"//deleted");
    !gone && mount.root.starts_with(directory)
}

/// Device and path on it of an absolute path without symbolic links.
fn locate(mounts: &Mounts, path: &Path) -> Option<(String, PathBuf)> {
    let covering = mounts.iter().filter(|mount| path.starts_with(&mount.target));
    // The longest mount point covers it; of several on one point the last one mounted does.
    let mount = covering.max_by_key(|mount| mount.target.as_os_str().len())?;
    let rest = path.strip_prefix(&mount.target).ok()?;
    Some((mount.device.clone(), mount.root.join(rest)))
}

/// Shows users as `/var/lib/x by process 71`, at most three of them.
pub(crate) fn shown(users: &[User]) -> String {
    let one = |user: &User| {
        let point = user.point.as_os_str().as_bytes().escape_ascii();
        format!("{point} by process {}", user.pid)
    };
    let mut shown: Vec<String> = users.iter().take(3).map(one).collect();
    if users.len() > 3 {
        shown.push(format!("{} more", users.len() - 3));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /srv rw - tmpfs tmpfs rw
41 22 8:1 /sub /srv/a\\040b rw - ext4 /dev/sda1 rw
42 41 8:2 /other /srv/a\\040b rw - ext4 /dev/sda2 rw
50 22 254:0 /gone//deleted /mnt rw - ext4 /dev/vda rw
";

    #[test]
    fn a_path_is_located_on_its_device() {
        let mounts = parse(SAMPLE);
        let at = |path: &str| locate(&mounts, Path::new(path)).unwrap();
        assert_eq!(at("/home/x"), ("254:0".to_owned(), PathBuf::from("/home/x")));
        assert_eq!(at("/srv/y"), ("0:26".to_owned(), PathBuf::from("/y")));
        assert_eq!(at("/srvx"), ("254:0".to_owned(), PathBuf::from("/srvx")));
        // Mounted twice on one point: the last mount is what one sees.
        assert_eq!(at("/srv/a b/c"), ("8:2".to_owned(), PathBuf::from("/other/c")));
    }

    #[test]
    fn a_deleted_directory_is_not_its_successor() {
        let mounts = parse(SAMPLE);
        let shown = |directory| {
            mounts
                .iter()
                .filter(move |mount| shows(mount, Path::new(directory)))
        };
        assert_eq!(shown("/gone").count(), 0);
        assert_eq!(shown("/other").count(), 1);
        assert_eq!(shown("/oth").count(), 0);
    }

    #[test]
    fn users_are_shown_shortly() {
        let user = |pid| User {
            pid,
            point: PathBuf::from("/data"),
        };
        let users: Vec<_> = (1..=5).map(user).collect();
        let text = shown(&users);
        assert_eq!(
            text,
            "/data by process 1, /data by process 2, /data by process 3, 2 more"
        );
    }
}
