//! Who uses a directory, by the kernel's word.
//!
//! A bind mount shows in `/proc/PID/mountinfo` with the device and, as its root, the path of the mounted
//! directory on that device. So a container that has a volume mounted is found in its own mount
//! namespace, whichever engine started it and whether or not that engine still lives.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A use of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// A process of the mount namespace that has it.
    pub(super) pid: i32,
    /// Where it is mounted there.
    pub(super) point: PathBuf,
}

/// What a look into every mount namespace saw.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) users: Vec<User>,
    /// Processes whose mounts this one may not see.
    pub(super) hidden: usize,
}

/// A line of mountinfo, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// `major:minor`.
    device: String,
    /// Path on the device.
    root: PathBuf,
    point: PathBuf,
}

/// Every mount, in any mount namespace, of `directory` or of something below it; and every mount of
/// this namespace that sits on something below it.
pub(super) fn look_for_users(directory: &Path) -> io::Result<Sight> {
    // The caller's path may lead through symbolic links; the kernel's do not.
    let directory = directory.canonicalize()?;
    let own = parse(&std::fs::read("/proc/self/mountinfo")?);
    let Some((device, root)) = locate(&own, &directory) else {
        return Err(io::Error::other("no mount covers it"));
    };
    let mut sight = Sight::default();
    let me = std::process::id().cast_signed();
    let below = own.iter().filter(|mount| mount.point.starts_with(&directory));
    sight.users.extend(below.map(|mount| mount.user(me)));
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match mounts_of(pid, &seen) {
            Ok((namespace, mounts)) => {
                let is_ours = |mount: &&Mount| mount.device == device && mount.root.starts_with(&root);
                let users = mounts.iter().filter(is_ours).map(|mount| mount.user(pid));
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

/// The mount namespace of a process and its mounts; no mounts if the namespace was seen before.
fn mounts_of(pid: i32, seen: &BTreeSet<PathBuf>) -> io::Result<(Option<PathBuf>, Vec<Mount>)> {
    // The kernel shows the mounts of a process with more capabilities than ours, but not the name of
    // its namespace. Then it is looked through once more.
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace.as_ref().is_some_and(|name| seen.contains(name)) {
        return Ok((None, Vec::new()));
    }
    let text = std::fs::read(format!("/proc/{pid}/mountinfo"))?;
    Ok((namespace, parse(&text)))
}

impl Mount {
    fn user(&self, pid: i32) -> User {
        User {
            pid,
            point: self.point.clone(),
        }
    }
}

/// Device and path on it of an absolute path without symbolic links.
fn locate(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    let covering = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    // The longest mount point covers it; of several on one point the last one mounted does.
    let mount = covering.max_by_key(|mount| mount.point.as_os_str().len())?;
    let rest = path.strip_prefix(&mount.point).ok()?;
    Some((mount.device.clone(), mount.root.join(rest)))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime …`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
    // A directory that is gone but still mounted; one made anew under its name is another one.
    if root.ends_with(b"//deleted") {
        return None;
    }
    Some(Mount {
        device: String::from_utf8(device.to_vec()).ok()?,
        root: unescape(root),
        point: unescape(point),
    })
}

/// Undoes the kernel's `\040` for a space and its like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Shows users as `/var/lib/x by process 71`, at most three of them.
pub(super) fn shown(users: &[User]) -> String {
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
    fn escapes_are_undone_and_what_is_deleted_is_left_out() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts[2].point, Path::new("/srv/a b"));
        assert_eq!(mounts.len(), 4);
        assert_eq!(unescape(b"a\\134b\\9"), Path::new("a\\b\\9"));
        assert_eq!(parse(b"\nhalf a line\n"), []);
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
