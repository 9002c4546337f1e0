//! What the tests of layers share. They need root: real mounts, in a namespace of their own.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod disk_image;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::mount::{Limits, mount_tmpfs};
use plugin_api::Fault;
use plugin_api::graph::{GraphPlugin, NewLayer};
use plugin_api::id::LayerId;
use plugin_api::snapshot::Snapshotter;

/// The back ends over which a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackEnd {
    Overlay,
    Vfs,
    Btrfs,
}

impl BackEnd {
    fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Vfs => "vfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Behind Docker's door.
    pub(crate) fn graph(self, state: &Path) -> Result<Arc<dyn GraphPlugin>, Fault> {
        graphdrivers::graph_door(&graphdrivers::open_store(state, self.name())?)
    }

    /// Behind containerd's door.
    pub(crate) fn snapshots(self, state: &Path) -> Result<Arc<dyn Snapshotter>, Fault> {
        graphdrivers::snapshot_door(&graphdrivers::open_store(state, self.name())?)
    }

    /// The file system on which it is tried, where that of the machine may not do.
    pub(crate) fn file_system(self) -> &'static str {
        match self {
            Self::Overlay | Self::Vfs => "ext4",
            Self::Btrfs => "btrfs",
        }
    }

    /// Bytes of a small disk that suits.
    pub(crate) fn disk_size(self) -> usize {
        match self {
            Self::Overlay | Self::Vfs => 64 << 20,
            // btrfs makes none of less than 109 MiB.
            Self::Btrfs => 128 << 20,
        }
    }

    /// Runs a test in mounts of its own, over an empty state folder on a file system that suits.
    pub(crate) fn alone(self, test: impl FnOnce(&Path) + Send) {
        match self {
            Self::Overlay | Self::Vfs => alone(test),
            Self::Btrfs => alone_on("btrfs", 1 << 30, test),
        }
    }
}

/// Runs a test in mounts of its own, over an empty state folder.
pub(crate) fn alone(test: impl FnOnce(&Path) + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            kernel::mount::private_namespace().unwrap();
            let base = tempfile::tempdir().unwrap();
            let state = base.path().join("state");
            kernel::fsutil::make_dir(&state, 0o700).unwrap();
            test(&state);
            let mounts = kernel::mount::Mounts::read().unwrap();
            for mount in mounts.under(base.path()) {
                kernel::mount::unmount_detached(&mount.target).unwrap();
            }
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Docker's door to a store of overlays.
pub(crate) fn try_open(state: &Path) -> Result<Arc<dyn GraphPlugin>, Fault> {
    BackEnd::Overlay.graph(state)
}

/// As [`alone`], on a new file system of that kind and size.
pub(crate) fn alone_on(kind: &str, size: usize, test: impl FnOnce(&Path) + Send) {
    alone(|outside| on_new_disk(outside, kind, size, test));
}

/// A state folder on a new file system of that kind, beside another state folder.
pub(crate) fn beside(state: &Path, kind: &str, test: impl FnOnce(&Path)) {
    on_new_disk(state, kind, 1 << 30, test);
}

fn on_new_disk(outside: &Path, kind: &str, size: usize, test: impl FnOnce(&Path)) {
    let base = outside.parent().unwrap();
    let (target, memory) = (base.join("disk"), base.join("memory"));
    for folder in [&target, &memory] {
        std::fs::create_dir(folder).unwrap();
    }
    // Flushes of the one are to cost nothing below it.
    mount_tmpfs(&memory, 0, 0o700, Limits::default()).unwrap();
    let image = memory.join("disk.img");
    disk_image::make(kind, size, &image);
    disk_image::mount(kind, &image, &target).unwrap();
    let state = target.join("state");
    kernel::fsutil::make_dir(&state, 0o700).unwrap();
    test(&state);
}

/// What lies in a folder of a state, after what is being unlinked has had its time.
pub(crate) fn left_in(folder: &Path) -> Vec<PathBuf> {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        if left.is_empty() || Instant::now() > patience {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn open(state: &Path) -> Arc<dyn GraphPlugin> {
    try_open(state).unwrap()
}

/// containerd's door to a store of overlays.
pub(crate) fn try_open_snapshots(state: &Path) -> Result<Arc<dyn Snapshotter>, Fault> {
    BackEnd::Overlay.snapshots(state)
}

pub(crate) fn id(text: &str) -> LayerId {
    LayerId::new(text).unwrap()
}

pub(crate) fn layer(name: &str, parent: &str) -> NewLayer {
    NewLayer {
        id: id(name),
        parent: (!parent.is_empty()).then(|| id(parent)),
        mount_label: String::new(),
        options: plugin_api::Options::new(),
    }
}

pub(crate) fn mounted_below(state: &Path) -> usize {
    kernel::mount::Mounts::read().unwrap().under(state).count()
}

/// One entry of an archive written by hand.
#[derive(Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) flag: u8,
    pub(crate) path: &'a str,
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) content: &'a [u8],
    pub(crate) pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self {
            flag: b'0',
            path: "",
            link: "",
            mode: 0o644,
            content: b"",
            pax: &[],
        }
    }
}

fn block(raw: &Raw<'_>, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..raw.path.len()].copy_from_slice(raw.path.as_bytes());
    block[100..107].copy_from_slice(format!("{:07o}", raw.mode).as_bytes());
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000012");
    block[148..156].copy_from_slice(b"        ");
    block[156] = raw.flag;
    block[157..157 + raw.link.len()].copy_from_slice(raw.link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    block
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive of entries written by hand, without any care for what they say.
pub(crate) fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    for raw in entries {
        let mut text = Vec::new();
        for (key, value) in raw.pax {
            let rest = key.len() + value.len() + 3;
            let digits = if rest + 2 < 100 { 2 } else { 3 };
            text.extend(format!("{} {key}=", rest + digits).bytes());
            text.extend(*value);
            text.push(b'\n');
        }
        if !text.is_empty() {
            let pax = Raw {
                flag: b'x',
                path: "pax",
                ..Raw::default()
            };
            all.extend(block(&pax, text.len()));
            all.extend(padded(text));
        }
        all.extend(block(raw, raw.content.len()));
        all.extend(padded(raw.content.to_vec()));
    }
    all.extend([0; 1024]);
    all
}

pub(crate) fn file<'a>(path: &'a str, content: &'a str) -> Raw<'a> {
    Raw {
        path,
        content: content.as_bytes(),
        ..Raw::default()
    }
}

pub(crate) fn folder(path: &str) -> Raw<'_> {
    Raw {
        flag: b'5',
        path,
        mode: 0o755,
        ..Raw::default()
    }
}

pub(crate) fn link<'a>(flag: u8, path: &'a str, link: &'a str) -> Raw<'a> {
    Raw {
        flag,
        path,
        link,
        ..Raw::default()
    }
}

/// A layer filled by an archive.
pub(crate) fn fill(plugin: &dyn GraphPlugin, name: &str, parent: &str, bytes: &[u8]) -> Result<u64, Fault> {
    plugin.create(&layer(name, parent))?;
    let parent = (!parent.is_empty()).then(|| id(parent));
    plugin.apply_diff(&id(name), parent.as_ref(), &mut &bytes[..])
}

pub(crate) fn diff(plugin: &dyn GraphPlugin, name: &str, parent: &str) -> Vec<u8> {
    let parent = (!parent.is_empty()).then(|| id(parent));
    let mut out = Vec::new();
    plugin.diff(&id(name), parent.as_ref(), &mut out).unwrap();
    out
}

/// Everything a tree holds, one line a name: kind, mode, owner, time, content, links, attributes.
pub(crate) fn picture(root: &Path) -> Vec<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
        let mut names: Vec<PathBuf> = std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        for path in names {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let content = if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let sum = bytes
                    .iter()
                    .fold(7_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
                format!("{} bytes {sum:x}", bytes.len())
            } else if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_char_device() || kind.is_block_device() {
                format!("device {}", meta.rdev())
            } else {
                String::new()
            };
            let mut attributes = String::new();
            for key in kernel::fsutil::list_xattrs(&path).unwrap() {
                let value = kernel::fsutil::get_xattr(&path, &key).unwrap();
                if !key.to_string_lossy().starts_with("trusted.overlay.") {
                    attributes.extend([format!(" {}={value:?}", key.display())]);
                }
            }
            let count = if kind.is_dir() { 0 } else { meta.nlink() };
            lines.push(format!(
                "{shown} {:o} {}:{} {}.{:09} links {count} {content}{attributes}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
            if kind.is_dir() {
                walk(root, &path, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines
}
