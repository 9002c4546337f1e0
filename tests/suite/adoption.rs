//! Layers that a real dockerd made with its own driver, taken over without copying.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::requires;
use crate::world::{Dockerd, Longshore, World, configure};

/// Every file of that name below a folder, by its inode.
fn inodes(folder: &Path, name: &str) -> Vec<u64> {
    let mut all = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == name {
                all.push(entry.metadata().unwrap().ino());
            }
        }
    }
    all
}

#[test]
fn images_of_overlay2_run_on_with_their_own_files() {
    requires!("dockerd", "busybox", "runc");
    let world = World::new("adoption");
    let mut docker = Dockerd::start(&world, "overlay2");
    docker.import();
    let change = "echo cargo > /etc/manifest; rm /etc/passwd; rm -r /var; mkdir /var; touch /var/new";
    docker.ok(&[
        "run",
        "--name",
        "one",
        "--network",
        "none",
        "box:1",
        "sh",
        "-c",
        change,
    ]);
    docker.ok(&["commit", "one", "box:2"]);
    let saved = docker.ok(&["image", "inspect", "--format", "{{.RootFS.Layers}}", "box:2"]);
    docker.stop();

    configure(&world, &["graph"]);
    let (config, layers) = (world.text("longshore.toml"), world.text("data/overlay2"));
    let program = env!("CARGO_BIN_EXE_longshore");
    let adopt = [
        program,
        "adopt",
        "longshore",
        layers.as_str(),
        "--config",
        config.as_str(),
    ];
    let before = inodes(Path::new(&layers), "manifest");
    assert!(!before.is_empty());
    let dry = world.run(&[&adopt[..], &["--dry-run"]].concat()).ok();
    assert!(dry.contains("image upon -: would be moved"), "{dry}");
    assert_eq!(inodes(Path::new(&layers), "manifest"), before);
    let done = world.run(&adopt).ok();
    assert_eq!(done.replace(": moved", ": would be moved"), dry);
    assert!(inodes(Path::new(&layers), "manifest").is_empty());
    let mut after = inodes(&world.path("state/graph/longshore/layers"), "manifest");
    let mut before = before;
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(after, before, "files were copied");

    let (from, to) = (
        world.text("data/image/overlay2"),
        world.text("data/image/longshore"),
    );
    world.run(&["cp", "-a", &from, &to]).ok();
    let mut longshore = Longshore::start(&world, &["graph"]);
    let mut docker = Dockerd::start(&world, "longshore");
    let show = "cat /etc/manifest; ls /var; test -e /etc/passwd || echo none";
    let shown = docker.ok(&["run", "--rm", "--network", "none", "box:2", "sh", "-c", show]);
    assert_eq!(shown, "cargo\nnew\nnone");
    let layers = docker.ok(&["image", "inspect", "--format", "{{.RootFS.Layers}}", "box:2"]);
    assert_eq!(layers, saved);
    // Docker puts the archives together by its own notes, which hold a sum of every file.
    docker.ok(&["save", "-o", &world.text("box.tar"), "box:2"]);
    docker.ok(&["rmi", "box:2", "box:1"]);
    docker.stop();
    longshore.stop();
}
