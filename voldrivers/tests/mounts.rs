//! Volumes of the local driver that are mounted, in a mount namespace of the test's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::exec::Tool;
use kernel::mount::{Mounts, private_namespace};
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::VolumeDriver;
use plugin_api::{Done, EnginePeer, Fault, FaultKind, Options};

struct World {
    folder: tempfile::TempDir,
    driver: Option<Arc<dyn VolumeDriver>>,
}

impl World {
    fn new() -> Self {
        private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let mut world = Self { folder, driver: None };
        world.restart();
        world
    }

    fn restart(&mut self) {
        self.driver = None;
        self.driver = Some(voldrivers::open_local(&self.state()).unwrap());
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn driver(&self) -> &dyn VolumeDriver {
        self.driver.as_deref().unwrap()
    }

    fn create(&self, volume: &str, options: &[(&str, &str)]) -> Result<Done, Fault> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let options: Options = options.iter().map(owned).collect();
        self.driver().create(&name(volume), &options)
    }

    fn mount(&self, volume: &str, by: &str) -> Result<PathBuf, Fault> {
        self.driver().mount(&name(volume), &holder(by), EnginePeer::own())
    }

    fn unmount(&self, volume: &str, by: &str) -> Done {
        self.driver().unmount(&name(volume), &holder(by)).unwrap()
    }

    fn remove(&self, volume: &str) -> Result<Done, Fault> {
        self.driver().remove(&name(volume))
    }

    fn mounted(&self) -> Vec<PathBuf> {
        let mounts = Mounts::read().unwrap();
        let state = self.state();
        mounts.under(&state).map(|mount| mount.target.clone()).collect()
    }

    fn assert_idle(&self) {
        let mounted = self.mounted();
        assert!(mounted.is_empty(), "still mounted: {mounted:?}");
    }
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn holder(text: &str) -> HolderId {
    HolderId::new(text).unwrap()
}

/// A process with mounts of its own that has `from` at `on`.
struct Container(Child);

impl Container {
    fn start(from: &Path, on: &Path) -> Self {
        std::fs::create_dir_all(on).unwrap();
        let ready = on.with_extension("ready");
        let script = r#"mount --bind "$1" "$2" && umount "$1" 2>/dev/null; : > "$3" && exec sleep 120"#;
        let tool = Tool::new("unshare").args(["--mount", "--propagation", "private"]);
        let tool = tool.args(["sh", "-c", script, "sh"]).args([from, on, &ready]);
        let child = tool.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !ready.exists() {
            assert!(Instant::now() < until, "the container does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn stop(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn memory_is_mounted_while_it_is_held() {
    let world = World::new();
    let options = [
        ("type", "tmpfs"),
        ("device", "tmpfs"),
        ("o", "size=64k,uid=1000,mode=0750"),
    ];
    assert_eq!(world.create("mem", &options).unwrap(), Done::Changed);
    assert_eq!(world.create("mem", &options).unwrap(), Done::AlreadySo);
    world.assert_idle();
    let path = world.mount("mem", "c1").unwrap();
    assert_eq!(world.mount("mem", "c2").unwrap(), path);
    assert_eq!(world.mounted(), std::slice::from_ref(&path));
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (1000, 0o750));
    let full = std::fs::write(path.join("big"), vec![1; 70_000]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    world.unmount("mem", "c1");
    assert_eq!(world.mounted(), [path]);
    assert_eq!(world.remove("mem").unwrap_err().kind, FaultKind::InUse);
    world.unmount("mem", "c2");
    world.assert_idle();
    assert_eq!(world.remove("mem").unwrap(), Done::Changed);
}

#[test]
fn an_image_has_the_size_that_was_asked_for() {
    let world = World::new();
    let options = [("size", "32M"), ("uid", "7"), ("mode", "0700")];
    world.create("db", &options).unwrap();
    let path = world.mount("db", "c1").unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (7, 0o700));
    assert_eq!(
        std::fs::read_dir(&path).unwrap().count(),
        0,
        "a database wants an empty folder"
    );
    std::fs::write(path.join("kept"), "text").unwrap();
    let full = std::fs::write(path.join("big"), vec![1; 40 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    world.unmount("db", "c1");
    world.assert_idle();
    // What a container left there stays, with the folder's owner as it was made or changed since.
    let path = world.mount("db", "c2").unwrap();
    assert_eq!(std::fs::read(path.join("kept")).unwrap(), b"text");
    world.unmount("db", "c2");
    world.remove("db").unwrap();
    assert_eq!(
        world.create("db", &[("size", "1M")]).unwrap_err().kind,
        FaultKind::Invalid
    );
}

#[test]
fn an_image_of_xfs_is_made_and_mounted() {
    let world = World::new();
    world
        .create("db", &[("size", "300M"), ("fstype", "xfs")])
        .unwrap();
    let path = world.mount("db", "c1").unwrap();
    std::fs::write(path.join("kept"), "text").unwrap();
    let mounts = Mounts::read().unwrap();
    assert_eq!(mounts.at(path.parent().unwrap()).unwrap().kind, "xfs");
    world.unmount("db", "c1");
    world.remove("db").unwrap();
}

#[test]
fn a_damaged_image_is_told_and_left_as_it_is() {
    let world = World::new();
    world.create("db", &[("size", "32M")]).unwrap();
    let image = world.state().join("volumes/db/image");
    let mut bytes = std::fs::read(&image).unwrap();
    // The state says that there are errors, and what follows the superblock is nonsense.
    bytes[1024 + 58] = 2;
    bytes[2048..1 << 20].fill(0xa5);
    std::fs::write(&image, &bytes).unwrap();
    let refused = world.mount("db", "c1").unwrap_err();
    assert_eq!(refused.kind, FaultKind::Corrupt, "{}", refused.sentence());
    let told = format!("run e2fsck {}", image.display());
    assert!(refused.message.contains(&told), "{}", refused.message);
    world.assert_idle();
    assert!(world.driver().get(&name("db")).unwrap().mountpoint.is_none());
    // It can still be removed.
    world.remove("db").unwrap();
}

#[test]
fn a_folder_of_the_host_is_shown_and_never_removed() {
    let world = World::new();
    let precious = world.folder.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "text").unwrap();
    let device = precious.to_str().unwrap();
    world
        .create("data", &[("type", "none"), ("device", device), ("o", "bind,ro")])
        .unwrap();
    let path = world.mount("data", "c1").unwrap();
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"text");
    let refused = std::fs::write(path.join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    world.unmount("data", "c1");
    world.remove("data").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(std::fs::read(precious.join("file")).unwrap(), b"text");
}

#[test]
fn what_is_not_there_or_ours_is_not_bound() {
    let world = World::new();
    let state = world.state();
    for (device, kind) in [
        ("/no/such/folder", FaultKind::NotFound),
        ("/etc/hostname", FaultKind::Invalid),
        (state.to_str().unwrap(), FaultKind::Invalid),
        ("/", FaultKind::Invalid),
    ] {
        let options = [("type", "none"), ("device", device), ("o", "bind")];
        let refused = world.create("x", &options).unwrap_err();
        assert_eq!(refused.kind, kind, "{device}: {}", refused.sentence());
    }
    assert!(world.driver().list().unwrap().is_empty());
}

#[test]
fn a_volume_with_a_mount_below_it_is_not_emptied_through_it() {
    let world = World::new();
    let precious = world.folder.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "text").unwrap();
    world.create("db", &[]).unwrap();
    let inside = world.mount("db", "c1").unwrap().join("inside");
    std::fs::create_dir(&inside).unwrap();
    kernel::mount::bind(&precious, &inside, kernel::mount::Limits::default()).unwrap();
    world.unmount("db", "c1");
    assert_eq!(world.remove("db").unwrap_err().kind, FaultKind::InUse);
    assert_eq!(std::fs::read(precious.join("file")).unwrap(), b"text");
    assert!(kernel::mount::unmount(&inside).unwrap());
    world.remove("db").unwrap();
    assert_eq!(std::fs::read(precious.join("file")).unwrap(), b"text");
}

#[test]
fn a_restart_leaves_held_mounts_and_takes_up_the_others() {
    let mut world = World::new();
    let memory = [("type", "tmpfs"), ("device", "tmpfs")];
    for volume in ["held", "left"] {
        world.create(volume, &memory).unwrap();
    }
    let path = world.mount("held", "c1").unwrap();
    std::fs::write(path.join("file"), "text").unwrap();
    world.mount("left", "c1").unwrap();
    world.restart();
    assert_eq!(world.mounted().len(), 2);
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"text");
    // As after a death between the record of an unmount and the unmount itself.
    let left = world.mount("left", "c2").unwrap();
    world.unmount("left", "c1");
    world.unmount("left", "c2");
    assert_eq!(world.mounted(), std::slice::from_ref(&path));
    kernel::mount::mount_tmpfs(&left, 0, 0o755, kernel::mount::Limits::default()).unwrap();
    world.restart();
    assert_eq!(world.mounted(), [path]);
    world.unmount("held", "c1");
    world.assert_idle();
}

#[test]
fn a_container_keeps_its_memory_after_the_last_unmount() {
    let world = World::new();
    world
        .create("mem", &[("type", "tmpfs"), ("device", "tmpfs")])
        .unwrap();
    let path = world.mount("mem", "c1").unwrap();
    let container = Container::start(&path, &world.folder.path().join("container"));
    world.unmount("mem", "c1");
    assert_eq!(
        world.mounted(),
        [path],
        "it was detached while a container has it"
    );
    let refused = world.remove("mem").unwrap_err();
    assert!(refused.message.contains("mounted on"), "{}", refused.message);
    container.stop();
    assert_eq!(world.remove("mem").unwrap(), Done::Changed);
    world.assert_idle();
}

#[test]
fn what_the_kernel_refuses_is_told_in_its_words() {
    let world = World::new();
    world
        .create(
            "odd",
            &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "nonsense=1")],
        )
        .unwrap();
    let refused = world.mount("odd", "c1").unwrap_err().sentence();
    assert!(refused.contains("nonsense"), "{refused}");
    world
        .create("none", &[("type", "nosuchfs"), ("device", "x")])
        .unwrap();
    let refused = world.mount("none", "c1").unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unsupported);
    let refused = refused.sentence();
    assert!(
        refused.contains("this kernel has no file system nosuchfs"),
        "{refused}"
    );
    world.assert_idle();
}
