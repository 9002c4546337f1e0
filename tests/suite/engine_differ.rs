//! containerd with longshore as its differ too: it unpacks nothing itself. The installed one knows no such
//! plugins; the next suite's does.

use std::fs;

use crate::requires;
use crate::world::{Containerd, Longshore, Which, World, saved_busybox, unpacked};

const IMAGE: &str = "example.org/box:1";
const LS: &str = "longshore";

/// Only our differ is asked: what it cannot do fails.
fn start<'w>(world: &'w World, program: &str) -> Containerd<'w> {
    let socket = world.path("snapshots/longshore.sock");
    let folder = program.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let more = format!(
        "[proxy_plugins.longshore-diff]\ntype = \"diff\"\naddress = {:?}\n\
         [plugins.\"io.containerd.service.v1.diff-service\"]\ndefault = [\"longshore-diff\"]\n",
        world.text("snapshots/longshore.sock")
    );
    Containerd::start_one(world, &socket, &Which { folder, more })
}

/// Packs the layers of the image in the folder `saved`, and the image anew.
fn pack(world: &World, program: &str) {
    for layer in ["one.tar", "two.tar"] {
        let path = world.path("saved").join(layer);
        let packed = crate::world::program(program)
            .arg("-c")
            .arg(&path)
            .output()
            .unwrap();
        assert!(packed.status.success(), "{program}");
        fs::write(path, packed.stdout).unwrap();
    }
    let (file, folder) = (world.text("box.tar"), world.text("saved"));
    world.run(&["tar", "-cf", &file, "-C", &folder, "."]).ok();
}

fn run(world: &World, containerd: &Containerd<'_>, name: &str, words: &[&str]) -> String {
    let cgroup = format!("{}/run", world.cgroup());
    let mut all = vec![
        "run",
        "--snapshotter",
        LS,
        "--cgroup",
        &cgroup,
        "--env",
        "PATH=/bin",
    ];
    all.extend([IMAGE, name, "/bin/busybox"]);
    all.extend(words);
    containerd.ok(&all)
}

/// The blobs of containerd with the label that tells what is in them: digest, then that label.
fn labelled(containerd: &Containerd<'_>) -> Vec<(String, String)> {
    let table = containerd.ok(&["content", "ls"]);
    let rows = table.lines().skip(1).filter_map(|row| {
        let (_, label) = row.split_once("containerd.io/uncompressed=")?;
        let label = label.split([',', ' ']).next()?;
        Some((row.split_whitespace().next()?.to_owned(), label.to_owned()))
    });
    rows.collect()
}

fn imported_and_run(program: Option<&str>) {
    let Some(containerd) = unpacked("containerd") else {
        return;
    };
    let world = World::new("differ");
    let mut longshore = Longshore::start(&world, &["graph", "snapshot"]);
    let mut containerd = start(&world, &containerd);
    let file = saved_busybox(&world);
    if let Some(program) = program {
        pack(&world, program);
    }
    containerd.ok(&["images", "import", "--snapshotter", LS, &file]);
    let listed = run(&world, &containerd, "r1", &["ls", "/etc"]);
    assert!(
        listed.contains("passwd") && listed.contains("greeting"),
        "{listed}"
    );
    assert!(!listed.contains("motd"), "the whiteout was lost: {listed}");
    let log = fs::read_to_string(world.path("longshore.log")).unwrap();
    let applied = log.lines().filter(|line| line.contains("Diff.Apply")).count();
    assert_eq!(applied, 2, "{log}");
    differences(&world, &containerd);
    containerd.stop();
    longshore.stop();
}

/// What a container has changed comes out, in every packing, with its label and the same content.
fn differences(world: &World, containerd: &Containerd<'_>) {
    let script = "echo new > /etc/new; rm /etc/passwd; chmod 700 /etc/greeting";
    run(world, containerd, "r2", &["sh", "-c", script]);
    let mut archives = Vec::new();
    for (kind, unpack) in [("", "cat"), ("+gzip", "gzip -dc"), ("+zstd", "zstd -dc")] {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{kind}");
        let out = world.text("diff");
        let address = world.text("containerd.sock");
        let script = format!(
            "set -o pipefail; \"$CTR\" --address \"$A\" snapshots --snapshotter {LS} diff --keep \
             --label keep=1 --media-type {media_type} r2 | {unpack} > {out}"
        );
        let ctr = containerd.program();
        let command = format!("export CTR={ctr} A={address}; {script}");
        world.run(&["bash", "-c", &command]).ok();
        let names = world.run(&["tar", "-tf", &out]).ok();
        // runc makes folders to mount upon.
        let mut names: Vec<&str> = names.lines().filter(|name| name.starts_with("etc/")).collect();
        names.sort_unstable();
        assert_eq!(names, ["etc/", "etc/.wh.passwd", "etc/greeting", "etc/new"]);
        archives.push(fs::read(&out).unwrap());
    }
    assert!(archives[0] == archives[1] && archives[0] == archives[2]);
    fs::write(world.path("diff"), &archives[0]).unwrap();
    let sum = world.run(&["sha256sum", &world.text("diff")]).ok();
    let digest = format!("sha256:{}", sum.split_whitespace().next().unwrap());
    let labels = labelled(containerd);
    let ours = labels.iter().filter(|(_, inner)| *inner == digest).count();
    assert_eq!(ours, 2, "gzip and zstd are labelled: {labels:?} {digest}");
}

#[test]
fn containerd_leaves_plain_layers_to_us() {
    requires!("runc", "busybox", "sha256sum", "gzip", "zstd");
    imported_and_run(None);
}

#[test]
fn containerd_leaves_gzip_layers_to_us() {
    requires!("runc", "busybox", "sha256sum", "gzip", "zstd");
    imported_and_run(Some("gzip"));
}

#[test]
fn containerd_leaves_zstd_layers_to_us() {
    requires!("runc", "busybox", "sha256sum", "gzip", "zstd");
    imported_and_run(Some("zstd"));
}

#[test]
fn containerd_is_told_what_is_wrong_with_a_layer() {
    requires!("runc", "busybox", "sha256sum", "gzip");
    let Some(program) = unpacked("containerd") else {
        return;
    };
    let world = World::new("differ");
    let mut longshore = Longshore::start(&world, &["graph", "snapshot"]);
    let mut containerd = start(&world, &program);
    saved_busybox(&world);
    let layer = world.path("saved/two.tar");
    let mut bytes = fs::read(&layer).unwrap();
    // The checksum of the first header.
    bytes[0] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let (file, folder) = (world.text("box.tar"), world.text("saved"));
    world.run(&["tar", "-cf", &file, "-C", &folder, "."]).ok();
    let told = containerd
        .ctr(&["images", "import", "--snapshotter", LS, &file])
        .refused();
    assert!(told.contains("its checksum is wrong"), "{told}");
    let left = containerd.snapshots().len();
    assert!(left <= 1, "the broken layer's snapshot is still there");
    containerd.stop();
    longshore.stop();
}
