//! Layers through Docker's door, on the real kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;

use common::{alone, diff, fill, folder, id, layer, mounted_below, open, picture};
use plugin_api::graph::{Change, ChangeKind, GraphInit, GraphPlugin};
use plugin_api::{Done, FaultKind};

fn base(plugin: &dyn GraphPlugin) {
    let bytes = common::archive(&[
        folder("etc/"),
        common::file("etc/passwd", "root"),
        common::file("etc/hosts", "local"),
        folder("gone/"),
        common::file("gone/one", "1"),
        common::file("gone/two", "2"),
    ]);
    assert_eq!(fill(plugin, "base", "", &bytes).unwrap(), 11);
}

fn change(path: &str, kind: ChangeKind) -> Change {
    Change {
        path: path.into(),
        kind,
    }
}

#[test]
fn a_container_writes_and_its_image_stays() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        assert_eq!(
            plugin.create_read_write(&layer("c", "base")).unwrap(),
            Done::Changed
        );
        assert_eq!(
            plugin.create_read_write(&layer("c", "base")).unwrap(),
            Done::AlreadySo
        );
        let path = plugin.get(&id("c"), "").unwrap();
        assert_eq!(plugin.get(&id("c"), "").unwrap(), path);
        fs::write(path.join("etc/passwd"), "changed").unwrap();
        fs::write(path.join("new"), "x").unwrap();
        fs::remove_file(path.join("etc/hosts")).unwrap();
        fs::remove_dir_all(path.join("gone")).unwrap();
        fs::create_dir(path.join("gone")).unwrap();
        fs::write(path.join("gone/two"), "again").unwrap();
        let expected = [
            change("/etc", ChangeKind::Modified),
            change("/etc/hosts", ChangeKind::Deleted),
            change("/etc/passwd", ChangeKind::Modified),
            change("/gone", ChangeKind::Modified),
            change("/gone/one", ChangeKind::Deleted),
            change("/gone/two", ChangeKind::Modified),
            change("/new", ChangeKind::Added),
        ];
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(plugin.changes(&id("c"), Some(&id("base"))).unwrap(), expected);
        assert_eq!(plugin.remove(&id("c")).unwrap_err().kind, FaultKind::InUse);
        assert_eq!(plugin.put(&id("c")).unwrap(), Done::Changed);
        assert!(path.join("new").exists());
        assert_eq!(plugin.put(&id("c")).unwrap(), Done::Changed);
        assert!(!path.exists());
        assert_eq!(plugin.put(&id("c")).unwrap(), Done::AlreadySo);
        let image = plugin.get(&id("base"), "").unwrap();
        assert_eq!(fs::read_to_string(image.join("etc/passwd")).unwrap(), "root");
        plugin.put(&id("base")).unwrap();
        assert_eq!(plugin.remove(&id("base")).unwrap_err().kind, FaultKind::InUse);
        assert_eq!(plugin.remove(&id("c")).unwrap(), Done::Changed);
        assert_eq!(plugin.remove(&id("c")).unwrap(), Done::AlreadySo);
        assert_eq!(plugin.remove(&id("base")).unwrap(), Done::Changed);
        assert_eq!(mounted_below(state), 0);
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 0);
    });
}

#[test]
fn an_image_with_a_parent_is_shown_read_only() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        fill(
            &*plugin,
            "next",
            "base",
            &common::archive(&[common::file("b", "b")]),
        )
        .unwrap();
        let path = plugin.get(&id("next"), "").unwrap();
        assert!(path.join("b").exists() && path.join("etc/passwd").exists());
        let refused = fs::write(path.join("x"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        plugin.put(&id("next")).unwrap();
    });
}

#[test]
fn a_chain_of_120_layers_shows_every_layer() {
    alone(|state| {
        let plugin = open(state);
        let mut parent = String::new();
        for number in 0..120 {
            let name = format!("{number:064}");
            let path = format!("file{number}");
            let bytes = common::archive(&[common::file(&path, "x"), common::file("all", &path)]);
            fill(&*plugin, &name, &parent, &bytes).unwrap();
            parent = name;
        }
        plugin.create_read_write(&layer("c", &parent)).unwrap();
        let path = plugin.get(&id("c"), "").unwrap();
        for number in 0..120 {
            assert!(
                path.join(format!("file{number}")).exists(),
                "layer {number} is missing"
            );
        }
        assert_eq!(fs::read_to_string(path.join("all")).unwrap(), "file119");
        fs::write(path.join("all"), "mine").unwrap();
        plugin.put(&id("c")).unwrap();
    });
}

/// A tree with something of everything.
fn furnish(root: &Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};
    let set = |name: &str, key: &str, value: &[u8]| {
        kernel::fsutil::set_xattr(&root.join(name), key.as_ref(), value).unwrap();
    };
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/suid"), "s").unwrap();
    std::os::unix::fs::chown(root.join("d/suid"), Some(3_000_000), Some(7)).unwrap();
    fs::set_permissions(root.join("d/suid"), fs::Permissions::from_mode(0o6755)).unwrap();
    let capability = [1, 0, 0, 2, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("d/suid", "security.capability", &capability);
    set("d", "user.note", b"line\nline=\xff");
    fs::set_permissions(root.join("d/e"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("first"), "linked").unwrap();
    fs::hard_link(root.join("first"), root.join("d/second")).unwrap();
    symlink("../first", root.join("d/link")).unwrap();
    symlink("x".repeat(180), root.join("long-link")).unwrap();
    let name = "n".repeat(200);
    fs::create_dir_all(root.join(&name).join(&name)).unwrap();
    fs::write(root.join(&name).join(&name).join("böse\nname"), "deep").unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 5 << 20).unwrap();
    let handle = kernel::fsutil::Folder::open(root).unwrap();
    handle
        .make_node("pipe".as_ref(), kernel::fsutil::Kind::Fifo, 0)
        .unwrap();
    let null = kernel::fsutil::device(1, 3);
    handle
        .make_node("null".as_ref(), kernel::fsutil::Kind::CharDevice, null)
        .unwrap();
    let time = kernel::fsutil::Time {
        seconds: -5,
        nanos: 123_456_789,
    };
    handle.set_times("first".as_ref(), time, time).unwrap();
    let file = fs::File::open(root.join("d/e")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(1_000_000_000, 42))
        .unwrap();
}

#[test]
fn what_diff_writes_apply_reads_back_the_same() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        plugin.create_read_write(&layer("c", "base")).unwrap();
        let path = plugin.get(&id("c"), "").unwrap();
        furnish(&path);
        fs::remove_dir_all(path.join("gone")).unwrap();
        fs::create_dir(path.join("gone")).unwrap();
        fs::remove_file(path.join("etc/hosts")).unwrap();
        let bytes = diff(&*plugin, "c", "base");
        assert_eq!(
            bytes,
            diff(&*plugin, "c", "base"),
            "the same tree gave other bytes"
        );
        let size = fill(&*plugin, "copy", "base", &bytes).unwrap();
        assert_eq!(size, plugin.diff_size(&id("copy"), Some(&id("base"))).unwrap());
        assert_eq!(size, plugin.diff_size(&id("c"), Some(&id("base"))).unwrap());
        let copy = plugin.get(&id("copy"), "").unwrap();
        assert_eq!(picture(&copy), picture(&path));
        assert_eq!(diff(&*plugin, "copy", "base"), bytes);
        let upper = &plugin.metadata(&id("copy")).unwrap()["UpperDir"];
        let sparse = fs::metadata(Path::new(upper).join("sparse")).unwrap();
        assert!(
            std::os::unix::fs::MetadataExt::blocks(&sparse) < 100,
            "holes were filled"
        );
        let both = |name| plugin.changes(&id(name), Some(&id("base"))).unwrap();
        assert_eq!(both("c"), both("copy"));
    });
}

#[test]
fn a_comparison_with_another_layer_walks_both_trees() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        fill(
            &*plugin,
            "mid",
            "base",
            &common::archive(&[common::file("etc/mid", "m")]),
        )
        .unwrap();
        let bytes = common::archive(&[common::file("gone/.wh.one", ""), common::file("top", "t")]);
        fill(&*plugin, "top", "mid", &bytes).unwrap();
        let changes = plugin.changes(&id("top"), Some(&id("base"))).unwrap();
        for wanted in [
            change("/etc/mid", ChangeKind::Added),
            change("/gone/one", ChangeKind::Deleted),
            change("/top", ChangeKind::Added),
        ] {
            assert!(changes.contains(&wanted), "{wanted:?} is not in {changes:?}");
        }
        assert!(!changes.iter().any(|change| change.path == "/etc/passwd"));
        fill(&*plugin, "flat", "base", &diff(&*plugin, "top", "base")).unwrap();
        let (flat, top) = (
            plugin.get(&id("flat"), "").unwrap(),
            plugin.get(&id("top"), "").unwrap(),
        );
        assert_eq!(picture(&flat), picture(&top));
        fill(&*plugin, "whole", "", &diff(&*plugin, "top", "")).unwrap();
        let whole = plugin.get(&id("whole"), "").unwrap();
        assert_eq!(picture(&whole), picture(&top));
        let missing = plugin.changes(&id("top"), Some(&id("nothing"))).unwrap_err();
        assert_eq!(missing.kind, FaultKind::NotFound);
        assert_eq!(fs::read_dir(state.join("views")).unwrap().count(), 0);
    });
}

#[test]
fn a_commit_reads_one_layer_while_it_writes_the_next() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        plugin.create_read_write(&layer("c", "base")).unwrap();
        let path = plugin.get(&id("c"), "").unwrap();
        fs::write(path.join("large"), vec![7; 3 << 20]).unwrap();
        let (mut from, mut to) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            let reader = &plugin;
            let read = scope.spawn(move || reader.diff(&id("c"), Some(&id("base")), &mut to));
            plugin.create(&layer("image", "base")).unwrap();
            let size = plugin
                .apply_diff(&id("image"), Some(&id("base")), &mut from)
                .unwrap();
            assert_eq!(size, 3 << 20);
            read.join().unwrap().unwrap();
        });
        plugin.put(&id("c")).unwrap();
    });
}

#[test]
fn holds_and_mounts_survive_a_restart() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        plugin.create_read_write(&layer("c", "base")).unwrap();
        let path = plugin.get(&id("c"), "").unwrap();
        plugin.get(&id("c"), "").unwrap();
        let twice = graphdrivers::open_store(state, "overlay").map(drop).unwrap_err();
        assert_eq!(twice.kind, FaultKind::InUse);
        assert!(
            twice.sentence().contains("another longshore"),
            "{}",
            twice.sentence()
        );
        drop(plugin);
        let plugin = open(state);
        assert!(path.join("etc").exists());
        plugin.put(&id("c")).unwrap();
        assert!(path.join("etc").exists());
        plugin.put(&id("c")).unwrap();
        assert!(!path.exists());
        assert_eq!(mounted_below(state), 0);
    });
}

#[test]
fn a_new_engine_finds_its_mounts_and_no_old_counts() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        for name in ["c", "d"] {
            plugin.create_read_write(&layer(name, "base")).unwrap();
            plugin.get(&id(name), "").unwrap();
            plugin.get(&id(name), "").unwrap();
        }
        assert_eq!(plugin.init(&GraphInit::default()).unwrap(), Done::Changed);
        let path = plugin.get(&id("c"), "").unwrap();
        assert_eq!(mounted_below(state), 2);
        // A live-restoring engine looks once, and its container runs on.
        plugin.put(&id("c")).unwrap();
        assert!(path.join("etc").exists());
        // Then it stops the container.
        plugin.put(&id("c")).unwrap();
        assert!(!path.exists());
        assert_eq!(plugin.remove(&id("d")).unwrap(), Done::Changed);
        assert_eq!(mounted_below(state), 0);
        plugin.get(&id("c"), "").unwrap();
        assert_eq!(plugin.cleanup().unwrap(), Done::Changed);
        assert_eq!(plugin.cleanup().unwrap(), Done::AlreadySo);
        assert_eq!(mounted_below(state), 0);
    });
}

#[test]
fn an_opening_repairs_what_a_death_left() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        for name in ["c", "d"] {
            plugin.create_read_write(&layer(name, "base")).unwrap();
        }
        let shown = plugin.get(&id("c"), "").unwrap();
        drop(plugin);
        // Recorded and not mounted; mounted and not recorded; half a layer; forgotten and not moved.
        kernel::mount::unmount(&shown).unwrap();
        let stray = state.join("mounts/d");
        fs::create_dir(&stray).unwrap();
        let limits = kernel::mount::Limits::default();
        kernel::mount::mount_tmpfs(&stray, 1 << 20, 0o700, limits).unwrap();
        fs::create_dir_all(state.join("staging/zz/fs/half")).unwrap();
        fs::create_dir_all(state.join("layers/zz/fs")).unwrap();
        fs::create_dir_all(state.join("trash/9/deep/er")).unwrap();
        let plugin = open(state);
        assert_eq!(mounted_below(state), 0);
        assert_eq!(plugin.put(&id("c")).unwrap(), Done::AlreadySo);
        assert_eq!(fs::read_dir(state.join("mounts")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(state.join("staging")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 3);
        assert!(plugin.get(&id("d"), "").unwrap().join("etc/passwd").exists());
        plugin.put(&id("d")).unwrap();
        for _ in 0..500 {
            if fs::read_dir(state.join("trash")).unwrap().count() == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the trash is not emptied");
    });
}

#[test]
fn a_broken_archive_leaves_an_empty_layer_and_a_retry_fills_it() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        let whole = common::archive(&[common::file("a", "a"), common::file("b", &"b".repeat(5000))]);
        let broken = fill(&*plugin, "x", "base", &whole[..2000]).unwrap_err();
        assert_eq!(broken.kind, FaultKind::Invalid);
        let path = plugin.metadata(&id("x")).unwrap()["UpperDir"].clone();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert_eq!(fill(&*plugin, "x", "base", &whole).unwrap(), 5001);
        assert_eq!(fill(&*plugin, "x", "base", &whole).unwrap(), 5001);
        let path = plugin.metadata(&id("x")).unwrap()["UpperDir"].clone();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 2);
        assert_eq!(fs::read_dir(state.join("staging")).unwrap().count(), 0);
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    alone(|state| {
        let plugin = open(state);
        let mut sized = layer("c", "");
        sized.options.insert("size".into(), "1G".into());
        let refused = plugin.create_read_write(&sized).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Unsupported);
        assert_eq!(
            plugin.create(&layer("a", "none")).unwrap_err().kind,
            FaultKind::NotFound
        );
        assert_eq!(
            plugin.create(&layer("a", "a")).unwrap_err().kind,
            FaultKind::Invalid
        );
        assert_eq!(plugin.get(&id("a"), "").unwrap_err().kind, FaultKind::NotFound);
        assert!(!plugin.exists(&id("a")).unwrap());
        assert_eq!(plugin.remove(&id("a")).unwrap(), Done::AlreadySo);
        plugin.create(&layer("a", "")).unwrap();
        assert_eq!(
            plugin.create_read_write(&layer("a", "")).unwrap_err().kind,
            FaultKind::AlreadyExists
        );
        assert!(plugin.exists(&id("a")).unwrap());
        let maps = GraphInit {
            uid_maps: vec![(0, 100_000, 65_536)],
            ..GraphInit::default()
        };
        assert_eq!(plugin.init(&maps).unwrap_err().kind, FaultKind::Unsupported);
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 1);
    });
}

#[test]
fn many_at_once_agree() {
    alone(|state| {
        let plugin = open(state);
        base(&*plugin);
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let plugin = &plugin;
                scope.spawn(move || {
                    for turn in 0..5 {
                        let own = format!("w{worker}t{turn}");
                        for name in [own.as_str(), "shared"] {
                            plugin.create_read_write(&layer(name, "base")).unwrap();
                            let path = plugin.get(&id(name), "").unwrap();
                            assert!(path.join("etc/passwd").exists());
                            plugin.put(&id(name)).unwrap();
                        }
                        plugin.remove(&id(&own)).unwrap();
                    }
                });
            }
        });
        assert_eq!(mounted_below(state), 0);
        assert_eq!(plugin.put(&id("shared")).unwrap(), Done::AlreadySo);
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 2);
    });
}
