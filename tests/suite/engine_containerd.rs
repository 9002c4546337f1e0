//! containerd with longshore as its snapshotter: import, run, commit, death, removal.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use crate::requires;
use crate::world::{Containerd, Longshore, Suite, World, eventually, saved_busybox};

const IMAGE: &str = "example.org/box:1";
const LS: &str = "longshore";

/// `ctr run` in this world with more words, what it printed.
fn run(world: &World, containerd: &Containerd<'_>, words: &[&str]) -> String {
    let cgroup = format!("{}/run", world.cgroup());
    let mut all = vec![
        "run",
        "--rm",
        "--snapshotter",
        LS,
        "--cgroup",
        &cgroup,
        "--env",
        "PATH=/bin",
    ];
    all.extend([IMAGE]);
    all.extend(words);
    containerd.ok(&all)
}

/// Kills longshore and starts it again. containerd tries its connection again after a pause that grows.
fn die(containerd: &Containerd<'_>, longshore: &mut Longshore<'_>) {
    longshore.kill();
    longshore.again();
    eventually("containerd has connected anew", || {
        let list = containerd.ctr(&["snapshots", "--snapshotter", LS, "ls"]);
        list.succeeded().then_some(())
    });
}

#[test]
fn containerd_imports_runs_and_removes_images_over_our_snapshots() {
    images_live_over_our_snapshots(Suite::Own);
}

#[test]
fn containerd_1_7_imports_runs_and_removes_images_over_our_snapshots() {
    images_live_over_our_snapshots(Suite::Trixie);
}

#[test]
fn containerd_2_imports_runs_and_removes_images_over_our_snapshots() {
    images_live_over_our_snapshots(Suite::Forky);
}

fn images_live_over_our_snapshots(suite: Suite) {
    requires!(of suite; "containerd", "ctr", "runc");
    requires!("busybox", "sha256sum");
    let world = World::of(suite, "containerd");
    let mut longshore = Longshore::start(&world, &["graph", "snapshot"]);
    let socket = world.path("snapshots/longshore.sock");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    let mut containerd = Containerd::start(&world, &socket);
    let file = saved_busybox(&world);

    containerd.ok(&["images", "import", "--snapshotter", LS, &file]);
    assert_eq!(containerd.snapshots().len(), 2);
    let greeting = run(
        &world,
        &containerd,
        &["r1", "/bin/busybox", "cat", "/etc/greeting"],
    );
    assert_eq!(greeting, "ahoy from the second layer");
    // The whiteout of the second layer has taken the first one's file away.
    let listed = run(&world, &containerd, &["r2", "/bin/busybox", "ls", "/etc"]);
    assert!(listed.contains("passwd") && !listed.contains("motd"), "{listed}");

    die(&containerd, &mut longshore);
    assert_eq!(containerd.snapshots().len(), 2);
    let out = run(&world, &containerd, &["r3", "/bin/busybox", "echo", "still here"]);
    assert_eq!(out, "still here");

    containerd.kill();
    containerd.again();
    assert_eq!(containerd.snapshots().len(), 2);
    let out = run(&world, &containerd, &["r4", "/bin/busybox", "echo", "still here"]);
    assert_eq!(out, "still here");

    snapshots_by_hand(&world, &containerd, &mut longshore);

    containerd.ok(&["images", "rm", "--sync", IMAGE]);
    for key in containerd.snapshots() {
        containerd.ctr(&["snapshots", "--snapshotter", LS, "rm", &key]);
    }
    containerd.ok(&["content", "prune", "references"]);
    eventually("containerd's collector has removed every snapshot", || {
        let layers = world.path("state/graph/longshore/layers");
        let left = fs::read_dir(layers).unwrap().count();
        (containerd.snapshots().is_empty() && left == 1).then_some(())
    });
    let trash = world.path("state/graph/longshore/trash");
    eventually("the trash is empty", || {
        (fs::read_dir(&trash).unwrap().count() == 0).then_some(())
    });
    containerd.stop();
    longshore.stop();
    assert!(!socket.exists());
    let mounts = world.run(&["cat", "/proc/self/mountinfo"]).ok();
    assert!(!mounts.contains("/state/graph/"), "{mounts}");
}

/// Prepares, mounts, writes, dies, commits, looks, removes.
fn snapshots_by_hand(world: &World, containerd: &Containerd<'_>, longshore: &mut Longshore<'_>) {
    let snapshots = |words: &[&str]| {
        let mut all = vec!["snapshots", "--snapshotter", LS];
        all.extend(words);
        containerd.ctr(&all)
    };
    let top = containerd
        .snapshots()
        .into_iter()
        .find(|key| {
            let info = snapshots(&["info", key]).ok();
            info.contains("\"Parent\": \"sha256:")
        })
        .expect("one layer stands upon the other");
    let target = world.text("mnt");
    fs::create_dir(&target).unwrap();
    // containerd mounts by mount(2); newer programs by fsconfig, which takes 255 bytes of lower layers.
    let mount = |words: &str| {
        let envs = [("LIBMOUNT_FORCE_MOUNT2", "always")];
        world.run_with(&["sh", "-c", words], &envs).ok();
    };
    let write = snapshots(&["prepare", "--target", &target, "hand made", &top]).ok();
    mount(&write);
    let file = world.text("mnt/etc/greeting");
    world
        .run(&["sh", "-c", "echo by hand > \"$1\"", "sh", &file])
        .ok();
    world.run(&["umount", &target]).ok();
    die(containerd, longshore);
    snapshots(&["commit", "committed", "hand made"]).ok();
    die(containerd, longshore);
    snapshots(&["commit", "committed", "hand made"]).refused();
    let refused = snapshots(&["rm", &top]).refused();
    assert!(refused.contains("failed precondition"), "{refused}");
    let look = snapshots(&["view", "--target", &target, "look", "committed"]).ok();
    // Nothing refers to a view, so containerd's collector takes it when it likes.
    snapshots(&["label", "look", "containerd.io/gc.root=now"]).ok();
    mount(&look);
    assert_eq!(world.run(&["cat", &file]).ok(), "by hand");
    assert!(!world.run(&["touch", &file]).succeeded(), "a view was written");
    world.run(&["umount", &target]).ok();
    snapshots(&["rm", "look"]).ok();
    snapshots(&["rm", "committed"]).ok();
    assert_eq!(containerd.snapshots().len(), 2);
}
