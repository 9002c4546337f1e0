//! Attaching and detaching: loop devices, mounts, and servers that may never answer.
//!
//! Whatever may wait for a server runs in a helper process, this program once more, which is killed at its
//! deadline: a thread that waits for a dead server could not be.

use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::exec::{ExecError, Tool};
use kernel::loopdev::LoopDevice;
use kernel::mount::{self, Filesystem, Limits, mount_by_options};
use plugin_api::id::VolumeName;
use plugin_api::{Fault, FaultKind};

use super::disk::Disk;
use super::options::{ImageKind, Kind, Settings};
use super::words::Given;
use crate::backend::{Detached, told};

/// The argument by which this program knows that it is the helper.
pub const HELPER: &str = "volume-helper";
/// How long a server may take to answer a mount: the verb's answer is to come within 20 seconds.
const MOUNT_LIMIT: Duration = Duration::from_secs(18);
/// How long each rung of the ladder of unmounting may take: three of them are to end within 15 seconds.
const UNMOUNT_LIMIT: Duration = Duration::from_millis(4500);
/// A check of a file system that was killed may leave it worse, so this is only short of for ever.
const CHECK_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// NFS as a server would be asked by mount(8): the newest first.
const NFS_VERSIONS: [&str; 4] = ["4.2", "4.1", "4.0", "3"];

// === before it is made ===

/// Refuses a folder to bind that is not there, or that is ours.
pub(super) fn admit(disk: &Disk, name: &VolumeName, given: &Given) -> Result<(), Fault> {
    if !given.is_bind() {
        return Ok(());
    }
    bind_source(disk, name, given).map(drop)
}

fn bind_source(disk: &Disk, name: &VolumeName, given: &Given) -> Result<PathBuf, Fault> {
    let shown = plugin_api::id::quoted(&given.device);
    let source = Path::new(&given.device).canonicalize().map_err(|error| {
        Fault::new(
            FaultKind::NotFound,
            format!("volume {name}: look for device={shown}"),
        )
        .because(error)
    })?;
    if disk.is_ours(&source) {
        return Err(Fault::invalid(format!(
            "volume {name}: device={shown} leads into the state of longshore"
        )));
    }
    if !source.is_dir() {
        return Err(Fault::invalid(format!(
            "volume {name}: device={shown} is no folder"
        )));
    }
    Ok(source)
}

// === attach ===

/// Mounts an image, whole or not at all. What needs a human is left as it is.
pub(super) fn image(disk: &Disk, name: &VolumeName, spec: &Settings, kind: ImageKind) -> Result<(), Fault> {
    let what = || format!("mount volume {name}");
    let (image, point) = (disk.image(name), disk.point(name, &spec.kind));
    if kind == ImageKind::Ext4 {
        check(name, &image)?;
    }
    let device = LoopDevice::over(&image, false).map_err(told(what()))?;
    let limits = Limits {
        no_suid: true,
        no_dev: true,
        ..Limits::default()
    };
    let remount_ro = [("errors".to_owned(), Some("remount-ro".to_owned()))];
    let source = device.path().to_string_lossy();
    let filesystem = Filesystem {
        kind: kind.as_str(),
        source: &source,
        options: if kind == ImageKind::Ext4 { &remount_ro } else { &[] },
        limits,
    };
    mount_by_options(&filesystem, &point).map_err(told(what()))?;
    // From here the mount keeps the device.
    disk.make_data(name, spec).map_err(|error| {
        if let Err(error) = mount::unmount(&point) {
            tracing::warn!(volume = %name, error = plugin_api::fault::chain(&error), "unmount again");
        }
        told(what())(error)
    })
}

/// Lets e2fsck repair what needs no decision. A journal is not replayed here, that is the kernel's part.
fn check(name: &VolumeName, image: &Path) -> Result<(), Fault> {
    let checked = Tool::new("e2fsck").args(["-p"]).arg(image).run(CHECK_LIMIT);
    match checked {
        Ok(_) => Ok(()),
        // Errors were found and corrected.
        Err(error) if error.code() == Some(1) => {
            tracing::warn!(volume = %name, "its file system was repaired");
            Ok(())
        }
        Err(error @ ExecError::Status { .. }) => {
            let image = image.display();
            let text = format!(
                "mount volume {name}: its file system needs a decision; nothing was changed; run e2fsck {image}"
            );
            Err(Fault::new(FaultKind::Corrupt, text).because(error))
        }
        Err(error) => Err(Fault::new(FaultKind::Unavailable, format!("check volume {name}")).because(error)),
    }
}

/// Mounts what the user named.
pub(super) fn given(disk: &Disk, name: &VolumeName, spec: &Settings, given: &Given) -> Result<(), Fault> {
    let point = disk.point(name, &spec.kind);
    if given.is_bind() {
        let source = bind_source(disk, name, given)?;
        return mount::bind(&source, &point, given.limits).map_err(told(format!("mount volume {name}")));
    }
    if given.is_network() {
        let order = Order::mount(given, &point);
        return order.carry_out(MOUNT_LIMIT).map_err(|fault| {
            let kind = fault.kind;
            Fault::new(kind, format!("mount volume {name}")).because(fault)
        });
    }
    let filesystem = Filesystem {
        kind: &given.kind,
        source: &given.device,
        options: &given.options,
        limits: given.limits,
    };
    mount_by_options(&filesystem, &point).map_err(told(format!("mount volume {name}")))
}

// === detach ===

/// Unmounts what is on top at `point`, however long its server is silent.
pub(super) fn detach(name: &VolumeName, point: &Path, kind: &Kind) -> Result<Detached, Fault> {
    let is_network = matches!(kind, Kind::Mounted(given) if given.is_network());
    if !is_network {
        return match mount::unmount(point) {
            Ok(_) => Ok(Detached::Idle),
            Err(error) if error.is_busy() => Ok(Detached::InUse),
            Err(error) => Err(told(format!("unmount volume {name}"))(error)),
        };
    }
    for verb in [Verb::Unmount, Verb::Force] {
        match Order::unmount(verb, point).carry_out(UNMOUNT_LIMIT) {
            Ok(()) => return Ok(Detached::Idle),
            Err(fault) if fault.kind == FaultKind::InUse => return Ok(Detached::InUse),
            Err(fault) => tracing::warn!(volume = %name, "{}", fault.sentence()),
        }
    }
    // Out of everybody's sight now; the kernel is rid of it when the server answers or is given up.
    tracing::warn!(volume = %name, "its server does not answer: the mount is left to die");
    Order::unmount(Verb::Leave, point).carry_out(UNMOUNT_LIMIT)?;
    Ok(Detached::Idle)
}

// === the helper ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Mount,
    Unmount,
    Force,
    Leave,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Mount, Self::Unmount, Self::Force, Self::Leave];

    fn as_str(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Unmount => "unmount",
            Self::Force => "force",
            Self::Leave => "leave",
        }
    }
}

/// What the helper shall do: words, each ended by a NUL, and one more NUL at the end, on its standard input.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    verb: Verb,
    point: PathBuf,
    kind: String,
    source: String,
    limits: Limits,
    options: Vec<(String, Option<String>)>,
}

impl Order {
    fn mount(given: &Given, point: &Path) -> Self {
        Self {
            verb: Verb::Mount,
            point: point.to_owned(),
            kind: given.kind.clone(),
            source: given.device.clone(),
            limits: given.limits,
            options: given.options.clone(),
        }
    }

    fn unmount(verb: Verb, point: &Path) -> Self {
        Self {
            verb,
            point: point.to_owned(),
            kind: String::new(),
            source: String::new(),
            limits: Limits::default(),
            options: Vec::new(),
        }
    }

    /// Has the helper do it, and kills it at `limit`.
    fn carry_out(&self, limit: Duration) -> Result<(), Fault> {
        let program =
            std::env::current_exe().map_err(|error| Fault::internal("find this program").because(error))?;
        let done = Tool::new(program).arg(HELPER).input(&self.encode()).run(limit);
        let Err(error) = done else { return Ok(()) };
        let what = format!(
            "{} {} at {}",
            self.verb.as_str(),
            self.source,
            self.point.display()
        );
        match error {
            ExecError::Deadline { .. } => {
                let text = format!(
                    "{what}: no answer within {} s; is its server up?",
                    limit.as_secs()
                );
                Err(Fault::new(FaultKind::Timeout, text))
            }
            error if error.code() == Some(BUSY.into()) => Err(Fault::in_use(what).because(error)),
            ExecError::Status { complaint, .. } if !complaint.is_empty() => {
                Err(Fault::new(FaultKind::Unavailable, complaint))
            }
            error => Err(Fault::internal(what).because(error)),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let limits = self.limits;
        let flags: String = [
            (limits.read_only, 'r'),
            (limits.no_suid, 's'),
            (limits.no_dev, 'd'),
            (limits.no_exec, 'x'),
            (limits.no_atime, 'a'),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, flag)| *flag)
        .collect();
        let mut words = vec![
            self.verb.as_str().to_owned(),
            self.point.to_string_lossy().into_owned(),
            self.kind.clone(),
            self.source.clone(),
            flags,
        ];
        words.extend(self.options.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        }));
        let mut text = words.join("\0").into_bytes();
        text.extend([0, 0]);
        text
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix("\0\0")?;
        let mut words = text.split('\0');
        let verb = words.next()?;
        let verb = Verb::ALL.into_iter().find(|one| one.as_str() == verb)?;
        let (point, kind, source, flags) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let options = words.map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        });
        Some(Self {
            verb,
            point: PathBuf::from(point),
            kind: kind.to_owned(),
            source: source.to_owned(),
            limits: Limits {
                read_only: flags.contains('r'),
                no_suid: flags.contains('s'),
                no_dev: flags.contains('d'),
                no_exec: flags.contains('x'),
                no_atime: flags.contains('a'),
            },
            options: options.collect(),
        })
    }
}

/// The helper's exit code for a mount that somebody uses.
const BUSY: u8 = 16;

/// The helper: does one order that `input` brings, and answers the exit code with what to complain.
pub fn help(mut input: impl Read) -> Result<(), (u8, String)> {
    let mut bytes = Vec::new();
    input
        .read_to_end(&mut bytes)
        .map_err(|error| (1, format!("read the order: {error}")))?;
    let Some(order) = Order::decode(&bytes) else {
        return Err((
            2,
            "the order is not understood: this is for longshore itself to call".to_owned(),
        ));
    };
    let done = match order.verb {
        Verb::Mount => return mount_far(order).map_err(|text| (1, text)),
        Verb::Unmount => mount::unmount(&order.point),
        Verb::Force => mount::unmount_forced(&order.point),
        Verb::Leave => mount::unmount_detached(&order.point),
    };
    match done {
        Ok(_) => Ok(()),
        Err(error) => {
            let code = if error.is_busy() { BUSY } else { 1 };
            Err((code, plugin_api::fault::chain(&error)))
        }
    }
}

/// Mounts from a server: its name becomes an address, and NFS tries its versions from the newest on.
fn mount_far(mut order: Order) -> Result<(), String> {
    let is_nfs = matches!(order.kind.as_str(), "nfs" | "nfs4");
    if is_nfs {
        prepare_nfs(&mut order).map_err(|error| format!("find the server of {}: {error}", order.source))?;
    }
    let has_version = order
        .options
        .iter()
        .any(|(key, _)| key == "vers" || key == "nfsvers");
    let versions: &[&str] = if is_nfs && !has_version {
        &NFS_VERSIONS
    } else {
        &[""]
    };
    let mut last = String::new();
    for version in versions {
        let mut options = order.options.clone();
        if !version.is_empty() {
            options.push(("vers".to_owned(), Some((*version).to_owned())));
        }
        let filesystem = Filesystem {
            kind: &order.kind,
            source: &order.source,
            options: &options,
            limits: order.limits,
        };
        match mount_by_options(&filesystem, &order.point) {
            Ok(()) => return Ok(()),
            Err(error) => {
                let is_last = !matches!(
                    error.source.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
                ) && error.errno() != Some(PROTOCOL_NOT_SUPPORTED);
                last = plugin_api::fault::chain(&error);
                if is_last {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// `EPROTONOSUPPORT`: the server does not speak that version.
const PROTOCOL_NOT_SUPPORTED: i32 = 93;

/// The kernel wants `HOST:/PATH` and the host's address apart.
fn prepare_nfs(order: &mut Order) -> io::Result<()> {
    let position = order.options.iter().position(|(key, _)| key == "addr");
    let said = position.and_then(|at| order.options.remove(at).1);
    let (host, path) = match order.source.rfind(":/") {
        Some(at) => (order.source[..at].to_owned(), order.source[at + 1..].to_owned()),
        None => return Err(io::Error::other("device is not HOST:/PATH or :/PATH")),
    };
    let host = if host.is_empty() {
        said.clone().unwrap_or_default()
    } else {
        host
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    if host.is_empty() {
        return Err(io::Error::other("neither device nor o=addr=… names a server"));
    }
    let address = resolve(said.as_deref().unwrap_or(&host))?;
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    order.source = format!("{shown}:{path}");
    order.options.push(("addr".to_owned(), Some(address.to_string())));
    Ok(())
}

fn resolve(host: &str) -> io::Result<IpAddr> {
    let host = host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let mut found = (host, 0).to_socket_addrs()?;
    let address = found.next().map(|address| address.ip());
    address.ok_or_else(|| io::Error::other("its name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(source: &str, options: &[(&str, Option<&str>)]) -> Order {
        let owned = |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(str::to_owned));
        Order {
            verb: Verb::Mount,
            point: PathBuf::from("/mnt/x y"),
            kind: "nfs".to_owned(),
            source: source.to_owned(),
            limits: Limits {
                no_dev: true,
                no_atime: true,
                ..Limits::default()
            },
            options: options.iter().map(owned).collect(),
        }
    }

    #[test]
    fn orders_round_trip_and_garbage_is_refused() {
        let whole = order(
            ":/a",
            &[("addr", Some("10.0.0.1")), ("soft", None), ("empty", Some(""))],
        );
        let bytes = whole.encode();
        assert_eq!(Order::decode(&bytes), Some(whole));
        for cut in 0..bytes.len() {
            let decoded = Order::decode(&bytes[..cut]);
            assert!(decoded.is_none(), "{cut} bytes were understood as {decoded:?}");
        }
        assert_eq!(help(&b"rm\0/\0\0\0\0\0"[..]).unwrap_err().0, 2);
    }

    #[test]
    fn servers_are_named_in_every_way() {
        for (source, options, wanted, address) in [
            (":/a", vec![("addr", Some("10.0.0.1"))], "10.0.0.1:/a", "10.0.0.1"),
            ("10.0.0.2:/b/c", vec![], "10.0.0.2:/b/c", "10.0.0.2"),
            ("[fd00::1]:/b", vec![], "[fd00::1]:/b", "fd00::1"),
            ("localhost:/b", vec![("addr", Some("::1"))], "localhost:/b", "::1"),
        ] {
            let mut order = order(source, &options);
            prepare_nfs(&mut order).unwrap();
            assert_eq!(order.source, wanted);
            let addr = ("addr".to_owned(), Some(address.to_owned()));
            assert_eq!(order.options, [addr]);
        }
        assert!(prepare_nfs(&mut order(":/a", &[])).is_err());
        assert!(prepare_nfs(&mut order("nowhere", &[])).is_err());
    }
}
