//! The store below both doors: what they share, how deep it goes, and what an earlier layout left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;

use common::{alone, fill, id, layer, mounted_below};
use graphdrivers::adopt::{Fate, Found, adopt};
use kernel::record::{Batch, Encoder, Records};
use plugin_api::FaultKind;
use plugin_api::graph::GraphInit;
use plugin_api::snapshot::{Labels, SnapshotKey, SnapshotKind};

fn k(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

#[test]
fn both_doors_stand_before_one_store_and_leave_each_others_layers_alone() {
    alone(|state| {
        let none = Labels::new();
        {
            let store = graphdrivers::open_store(state, "overlay").unwrap();
            let graph = graphdrivers::graph_door(&store).unwrap();
            let snapshots = graphdrivers::snapshot_door(&store).unwrap();
            fill(&*graph, "base", "", &common::archive(&[common::file("a", "a")])).unwrap();
            graph.create_read_write(&layer("s1", "base")).unwrap();
            snapshots.prepare(&k("base"), None, &none).unwrap();
            snapshots.commit(&k("s1"), &k("base"), &none).unwrap();
            assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 4);
        }
        let store = graphdrivers::open_store(state, "overlay").unwrap();
        let graph = graphdrivers::graph_door(&store).unwrap();
        let snapshots = graphdrivers::snapshot_door(&store).unwrap();
        graph.init(&GraphInit::default()).unwrap();
        snapshots.cleanup().unwrap();
        assert!(graph.get(&id("s1"), "").unwrap().join("a").exists());
        graph.put(&id("s1")).unwrap();
        graph.remove(&id("s1")).unwrap();
        assert_eq!(snapshots.list().unwrap().len(), 1);
        snapshots.remove(&k("s1")).unwrap();
        graph.remove(&id("base")).unwrap();
        // The empty layer below all snapshots stays.
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 1);
    });
}

#[test]
fn five_hundred_layers_are_mounted_and_one_more_is_refused() {
    alone(|state| {
        let plugin = common::open(state);
        let mut parent = String::new();
        for number in 0..500 {
            let name = format!("l{number}");
            plugin.create(&layer(&name, &parent)).unwrap();
            parent = name;
        }
        plugin.create_read_write(&layer("c", &parent)).unwrap();
        match plugin.get(&id("c"), "") {
            Ok(path) => {
                fs::write(path.join("new"), "x").unwrap();
                plugin.put(&id("c")).unwrap();
            }
            // Kernels before 6.8 read one page of names.
            Err(fault) => {
                assert!(!kernel::mount::has_layer_options(), "{}", fault.sentence());
                assert!(fault.sentence().contains("do not fit"), "{}", fault.sentence());
            }
        }
        let deeper = plugin.create(&layer("deeper", &parent)).unwrap_err();
        assert_eq!(deeper.kind, FaultKind::Unsupported);
        assert!(deeper.sentence().contains("stacks 500"), "{}", deeper.sentence());
        assert_eq!(mounted_below(state), 0);
    });
}

/// An open layer's folders are not flushed when it is made.
#[test]
fn folders_that_a_power_cut_took_are_made_anew() {
    alone(|state| {
        let plugin = common::open(state);
        fill(&*plugin, "base", "", &common::archive(&[common::file("a", "a")])).unwrap();
        plugin.create(&layer("i", "base")).unwrap();
        plugin.create_read_write(&layer("c", "i")).unwrap();
        for name in ["i", "c"] {
            let tree = plugin.metadata(&id(name)).unwrap()["UpperDir"].clone();
            fs::remove_dir_all(Path::new(&tree).parent().unwrap()).unwrap();
        }
        drop(plugin);
        let plugin = common::open(state);
        let path = plugin.get(&id("c"), "").unwrap();
        fs::write(path.join("b"), "b").unwrap();
        assert!(path.join("a").exists());
        plugin.put(&id("c")).unwrap();
    });
}

/// A layer's row as versions before the common store wrote it.
fn old_layer(short: &str, parent: Option<&str>, container: bool, state: u64, bytes: u64) -> Vec<u8> {
    Encoder::new(1)
        .text(short)
        .maybe(parent)
        .flag(container)
        .maybe(None)
        .number(state)
        .number(bytes)
        .number(1)
        .finish()
}

fn old_snapshot(layer: Option<&str>, parent: Option<&str>, kind: u64) -> Vec<u8> {
    let value = Encoder::new(1).maybe(layer).maybe(parent).number(kind);
    let value = value.number(7).number(8).number(9).number(10);
    value
        .list([("k", "v")].iter(), |value, (key, text)| {
            value.text(key).text(text)
        })
        .finish()
}

fn old_store(state: &Path, batch: &Batch, files: &[&str]) {
    let counter = Encoder::new(1).number(64).finish();
    let records = Records::open(&state.join("state.redb")).unwrap();
    records
        .commit(&batch.clone().put("counter", "next", counter))
        .unwrap();
    for file in files {
        let path = state.join("layers").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "old").unwrap();
    }
}

#[test]
fn dockers_layers_of_the_earlier_layout_are_taken_over() {
    alone(|state| {
        let batch = Batch::new()
            .put("layers", "base", old_layer("1", None, false, 2, 3))
            .put("layers", "half", old_layer("3", Some("base"), false, 1, 0))
            .put("layers", "c", old_layer("2", Some("base"), true, 0, 0));
        old_store(state, &batch, &["1/fs/a", "2/fs/b", "2/work/x", "3/fs/torn"]);
        for _ in 0..2 {
            let plugin = common::open(state);
            assert_eq!(plugin.diff_size(&id("base"), None).unwrap(), 3);
            let path = plugin.get(&id("c"), "").unwrap();
            assert!(path.join("a").exists() && path.join("b").exists());
            plugin.put(&id("c")).unwrap();
            let half = plugin.metadata(&id("half")).unwrap()["UpperDir"].clone();
            assert_eq!(fs::read_dir(half).unwrap().count(), 0);
        }
    });
}

#[test]
fn snapshots_of_the_earlier_layout_are_taken_over() {
    alone(|state| {
        let batch = Batch::new()
            .put("layers", "base", old_layer("1", None, false, 0, 0))
            .put("layers", "s1", old_layer("2", Some("base"), true, 0, 0))
            .put("layers", "s2", old_layer("3", Some("s1"), true, 0, 0))
            .put("layers", "s3", old_layer("4", Some("s1"), true, 0, 0))
            .put("snapshots", "one", old_snapshot(Some("s1"), None, 3))
            .put("snapshots", "two", old_snapshot(Some("s2"), Some("one"), 2))
            .put("snapshots", "look", old_snapshot(None, Some("one"), 1));
        old_store(
            state,
            &batch,
            &["1/fs/.k", "2/fs/a", "3/fs/b", "3/work/x", "4/fs/orphan"],
        );
        fs::remove_file(state.join("layers/1/fs/.k")).unwrap();
        for _ in 0..2 {
            let snapshots = common::try_open_snapshots(state).unwrap();
            let all = snapshots.list().unwrap();
            let shown: Vec<_> = all.iter().map(|one| (one.key.as_str(), one.kind)).collect();
            let expected = [
                ("look", SnapshotKind::View),
                ("one", SnapshotKind::Committed),
                ("two", SnapshotKind::Active),
            ];
            assert_eq!(shown, expected);
            assert_eq!(all[1].labels["k"], "v");
            let mounts = snapshots.mounts(&k("two")).unwrap();
            let lowers = format!("lowerdir={0}/layers/2/fs:{0}/layers/1/fs", state.display());
            assert!(mounts[0].options.contains(&lowers), "{mounts:?}");
            assert_eq!(snapshots.usage(&k("one")).unwrap().bytes, 3);
            // What no snapshot spoke of is gone.
            assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 3);
        }
        let snapshots = common::try_open_snapshots(state).unwrap();
        snapshots.commit(&k("three"), &k("two"), &Labels::new()).unwrap();
    });
}

#[test]
fn a_snapshot_prepared_upon_nothing_is_committed_upon_a_parent() {
    alone(|state| {
        let none = Labels::new();
        let snapshots = common::try_open_snapshots(state).unwrap();
        let upper = |key: &str| -> std::path::PathBuf {
            let mounts = snapshots.mounts(&k(key)).unwrap();
            let mut options = mounts[0].options.iter();
            options
                .find_map(|option| option.strip_prefix("upperdir="))
                .unwrap()
                .into()
        };
        // Both at once, as an engine unpacks layers side by side.
        for key in ["first", "second"] {
            snapshots.prepare(&k(key), None, &none).unwrap();
        }
        fs::write(upper("first").join("gone"), "").unwrap();
        fs::write(upper("first").join("kept"), "").unwrap();
        fs::write(upper("second").join("new"), "").unwrap();
        let folder = kernel::fsutil::Folder::open(&upper("second")).unwrap();
        folder.make_whiteout("gone".as_ref()).unwrap();
        let missing = snapshots
            .commit_upon(&k("two"), &k("second"), &k("one"), &none)
            .unwrap_err();
        assert_eq!(missing.kind, FaultKind::NotFound);
        snapshots.commit(&k("one"), &k("first"), &none).unwrap();
        snapshots
            .commit_upon(&k("two"), &k("second"), &k("one"), &none)
            .unwrap();
        assert_eq!(snapshots.stat(&k("two")).unwrap().parent, Some(k("one")));
        assert_eq!(snapshots.remove(&k("one")).unwrap_err().kind, FaultKind::InUse);
        drop(snapshots);
        let snapshots = common::try_open_snapshots(state).unwrap();
        let view = snapshots.view(&k("look"), Some(&k("two")), &none).unwrap();
        let lowers = view[0]
            .options
            .iter()
            .find_map(|option| option.strip_prefix("lowerdir="));
        let lowers: Vec<std::path::PathBuf> = lowers.unwrap().split(':').map(Into::into).collect();
        let at = state.join("shown");
        fs::create_dir(&at).unwrap();
        let overlay = kernel::mount::Overlay {
            lowers: &lowers,
            upper: None,
            label: None,
        };
        kernel::mount::mount_overlay(&overlay, &at).unwrap();
        assert!(at.join("kept").exists() && at.join("new").exists() && !at.join("gone").exists());
        kernel::mount::unmount(&at).unwrap();
        snapshots.prepare(&k("third"), Some(&k("two")), &none).unwrap();
        let other = snapshots
            .commit_upon(&k("three"), &k("third"), &k("one"), &none)
            .unwrap_err();
        assert_eq!(other.kind, FaultKind::Invalid);
        snapshots
            .commit_upon(&k("three"), &k("third"), &k("two"), &none)
            .unwrap();
        for key in ["look", "three", "two", "one"] {
            snapshots.remove(&k(key)).unwrap();
        }
        assert_eq!(fs::read_dir(state.join("layers")).unwrap().count(), 1);
    });
}

/// A store as Docker's own driver lays it out: name, link, links below.
fn overlay2(at: &Path, layers: &[(&str, &str, &str)]) {
    fs::create_dir_all(at.join("l")).unwrap();
    for (name, link, lower) in layers {
        let home = at.join(name);
        fs::create_dir_all(home.join("diff")).unwrap();
        fs::write(home.join("diff").join(format!("of-{name}")), name).unwrap();
        fs::write(home.join("link"), link).unwrap();
        if !link.is_empty() {
            std::os::unix::fs::symlink(format!("../{name}/diff"), at.join("l").join(link)).unwrap();
        }
        if !lower.is_empty() {
            fs::write(home.join("lower"), lower).unwrap();
            fs::create_dir(home.join("work")).unwrap();
        }
    }
}

fn fates(all: Vec<(Found, Fate)>) -> Vec<(String, bool, Fate)> {
    let row = |(one, fate): (Found, Fate)| (one.id.as_str().to_owned(), one.writable, fate);
    all.into_iter().map(row).collect()
}

#[test]
fn a_store_of_overlay2_is_adopted_after_a_dry_run_and_after_a_death() {
    alone(|state| {
        let from = state.with_file_name("overlay2");
        let rows = [
            ("aa", "AAA", ""),
            ("bb", "BBB", "l/AAA"),
            ("cc-init", "III", "l/BBB:l/AAA"),
            ("cc", "CCC", "l/III:l/BBB:l/AAA"),
        ];
        overlay2(&from, &rows);
        let all = |fate| {
            [("aa", false), ("bb", false), ("cc-init", true), ("cc", true)]
                .map(|(name, writable)| (name.to_owned(), writable, fate))
                .to_vec()
        };
        let store = graphdrivers::open_store(state, "overlay").unwrap();
        assert_eq!(fates(adopt(&store, &from, true).unwrap()), all(Fate::Moved));
        assert!(store.is_empty() && from.join("aa/diff/of-aa").exists());
        // A container that still runs.
        let merged = from.join("cc/merged");
        fs::create_dir(&merged).unwrap();
        kernel::mount::mount_tmpfs(&merged, 1 << 20, 0o700, kernel::mount::Limits::default()).unwrap();
        assert_eq!(adopt(&store, &from, false).unwrap_err().kind, FaultKind::InUse);
        kernel::mount::unmount(&merged).unwrap();
        // Stopped after two layers.
        let third = from.join("cc-init/diff");
        fs::rename(&third, from.join("aside")).unwrap();
        assert_eq!(adopt(&store, &from, false).unwrap_err().kind, FaultKind::Corrupt);
        assert_eq!(store.len(), 2);
        fs::rename(from.join("aside"), &third).unwrap();
        drop(store);
        let store = graphdrivers::open_store(state, "overlay").unwrap();
        adopt(&store, &from, false).unwrap();
        assert_eq!(fates(adopt(&store, &from, false).unwrap()), all(Fate::AlreadySo));
        drop(store);
        // A power cut that kept the record and not the move.
        let homes = fs::read_dir(state.join("layers"))
            .unwrap()
            .map(|home| home.unwrap().path());
        let tree = homes
            .map(|home| home.join("fs"))
            .find(|tree| tree.join("of-bb").exists());
        fs::rename(tree.unwrap(), from.join("bb/diff")).unwrap();
        let store = graphdrivers::open_store(state, "overlay").unwrap();
        let again = fates(adopt(&store, &from, false).unwrap());
        assert_eq!(again[1], ("bb".to_owned(), false, Fate::Moved));
        assert_eq!(fates(adopt(&store, &from, false).unwrap()), all(Fate::AlreadySo));
        drop(store);
        let plugin = common::open(state);
        let path = plugin.get(&id("cc"), "").unwrap();
        for (name, ..) in rows {
            assert!(path.join(format!("of-{name}")).exists(), "{name}");
        }
        fs::write(path.join("new"), "").unwrap();
        plugin.put(&id("cc")).unwrap();
        assert_eq!(plugin.diff_size(&id("bb"), Some(&id("aa"))).unwrap(), 2);
        for name in ["cc", "cc-init", "bb", "aa"] {
            plugin.remove(&id(name)).unwrap();
        }
    });
}

#[test]
fn a_damaged_store_of_overlay2_is_refused_whole() {
    alone(|state| {
        let store = graphdrivers::open_store(state, "overlay").unwrap();
        let refused = |rows: &[(&str, &str, &str)]| {
            let from = state.with_file_name("overlay2");
            overlay2(&from, rows);
            let fault = adopt(&store, &from, false).unwrap_err();
            assert!(store.is_empty());
            fs::remove_dir_all(&from).unwrap();
            fault.sentence()
        };
        let told = refused(&[("aa", "AAA", ""), ("bb", "BBB", "l/XXX")]);
        assert!(told.contains("a layer below it is missing"), "{told}");
        let told = refused(&[("aa", "", "")]);
        assert!(told.contains("it has no link"), "{told}");
        let told = refused(&[("aa", "AAA", ""), ("bb", "BBB", "l/AAA"), ("cc", "CCC", "l/BBB")]);
        assert!(told.contains("do not agree"), "{told}");
        let told = refused(&[("aa", "AAA", "/etc")]);
        assert!(told.contains("not understood"), "{told}");
        let missing = state.with_file_name("nowhere");
        let fault = adopt(&store, &missing, true).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotFound);
        let other = adopt(&store, Path::new("/proc"), true).unwrap_err();
        assert_eq!(other.kind, FaultKind::Unsupported);
    });
}
