//! The differ over trees of every kind: layers of ours without a mount, everything else in a mount out of
//! sight.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Raw, alone, archive, file, folder, link, mounted_below, picture};
use plugin_api::FaultKind;
use plugin_api::differ::{Differ, Difference, Packed, Packing};
use plugin_api::snapshot::{Labels, SnapshotKey, SnapshotMount, Snapshotter};

struct Shop {
    differ: Arc<dyn Differ>,
    rooms: Arc<dyn Snapshotter>,
    base: PathBuf,
}

fn open(state: &Path) -> Shop {
    let store = graphdrivers::open_store(state, "overlay").unwrap();
    Shop {
        differ: graphdrivers::differ(&store).unwrap(),
        rooms: graphdrivers::snapshot_door(&store).unwrap(),
        base: state.parent().unwrap().to_owned(),
    }
}

fn bind(path: &Path, option: &str) -> Vec<SnapshotMount> {
    vec![SnapshotMount {
        kind: "bind".to_owned(),
        source: path.to_str().unwrap().to_owned(),
        options: vec!["rbind".to_owned(), option.to_owned()],
    }]
}

impl Shop {
    fn tree(&self, name: &str, entries: &[Raw<'_>]) -> PathBuf {
        let path = self.base.join(name);
        fs::create_dir(&path).unwrap();
        self.apply(&bind(&path, "rw"), &archive(entries));
        path
    }

    #[track_caller]
    fn apply(&self, mounts: &[SnapshotMount], bytes: &[u8]) {
        let stream = self.differ.apply(&mut &*bytes, None, mounts).unwrap();
        assert_eq!(stream.bytes, bytes.len() as u64);
    }

    fn diff(&self, left: &[SnapshotMount], right: &[SnapshotMount], packing: Packing) -> (Vec<u8>, Packed) {
        let asked = Difference {
            left: left.to_vec(),
            right: right.to_vec(),
            packing,
            latest: None,
        };
        let mut out = Vec::new();
        let packed = self.differ.diff(&asked, &mut out).unwrap();
        (out, packed)
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Vec<SnapshotMount> {
        let key = SnapshotKey::new(key).unwrap();
        let parent = parent.map(|parent| SnapshotKey::new(parent).unwrap());
        self.rooms.prepare(&key, parent.as_ref(), &Labels::new()).unwrap()
    }

    fn commit(&self, name: &str, key: &str) {
        let [name, key] = [name, key].map(|text| SnapshotKey::new(text).unwrap());
        self.rooms.commit(&name, &key, &Labels::new()).unwrap();
    }
}

fn names(root: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn upon_a_tree_a_whiteout_removes_what_was_there_and_nothing_that_came_along() {
    alone(|state| {
        let shop = open(state);
        let tree = shop.tree(
            "tree",
            &[
                folder("a/"),
                file("a/old", ""),
                folder("a/deep/"),
                file("a/deep/x", ""),
                file("gone", ""),
                file("b", ""),
            ],
        );
        let bytes = archive(&[
            file("a/new", "n"),
            file("a/deep/y", ""),
            file("a/.wh..wh..opq", ""),
            file(".wh.gone", ""),
            file("b", "b"),
            file(".wh.b", ""),
            file(".wh.never", ""),
        ]);
        shop.apply(&bind(&tree, "rw"), &bytes);
        assert_eq!(names(&tree), ["a", "b"]);
        assert_eq!(names(&tree.join("a")), ["deep", "new"]);
        assert_eq!(names(&tree.join("a/deep")), ["y"]);
        assert_eq!(fs::read_to_string(tree.join("b")).unwrap(), "b");
        assert_eq!(mounted_below(state), 0, "a mount is left");
    });
}

#[test]
fn a_difference_of_two_trees_makes_one_into_the_other_in_every_packing() {
    alone(|state| {
        let shop = open(state);
        let common = [
            folder("a/"),
            file("a/same", "s"),
            file("a/old", "o"),
            folder("b/"),
            file("b/x", ""),
        ];
        let left = shop.tree("left", &common);
        let right = shop.tree("right", &common);
        let changed = [
            Raw {
                mode: 0o700,
                ..folder("a/")
            },
            file("a/.wh.old", ""),
            file("a/new", "n"),
            link(b'2', "l", "a/new"),
            link(b'1', "h", "a/new"),
        ];
        shop.apply(&bind(&right, "rw"), &archive(&changed));
        let (plain, told) = shop.diff(&bind(&left, "ro"), &bind(&right, "ro"), Packing::Plain);
        assert_eq!(told.archive, told.blob);
        for packing in [Packing::Gzip, Packing::Zstd] {
            let (packed, other) = shop.diff(&bind(&left, "ro"), &bind(&right, "ro"), packing);
            assert_eq!(other.archive, told.archive, "{packing:?}");
            let copy = shop.tree(&format!("{packing:?}"), &common);
            let stream = shop
                .differ
                .apply(&mut packed.as_slice(), Some(packing), &bind(&copy, "rw"))
                .unwrap();
            assert_eq!(stream, told.archive);
            assert_eq!(picture(&copy), picture(&right), "{packing:?}");
        }
        assert!(!plain.is_empty());
        // Of nothing and a tree, the whole tree.
        let (whole, _) = shop.diff(&[], &bind(&right, "ro"), Packing::Plain);
        let copy = shop.tree("copy", &[]);
        shop.apply(&bind(&copy, "rw"), &whole);
        assert_eq!(picture(&copy), picture(&right));
    });
}

#[test]
fn a_snapshot_is_filled_and_compared_without_a_mount_and_filled_further_with_one() {
    alone(|state| {
        let shop = open(state);
        let first = archive(&[folder("etc/"), file("etc/a", "a"), file("etc/b", "b")]);
        let mounts = shop.prepare("n/1/one", None);
        shop.apply(&mounts, &first);
        let whole = shop.diff(&[], &mounts, Packing::Plain).0;
        shop.commit("n/2/first", "n/1/one");
        let top = shop.prepare("n/3/two", Some("n/2/first"));
        let below = shop.rooms.view(
            &SnapshotKey::new("n/4/view").unwrap(),
            Some(&SnapshotKey::new("n/2/first").unwrap()),
            &Labels::new(),
        );
        let below = below.unwrap();
        shop.apply(&top, &archive(&[file("etc/.wh.a", ""), file("etc/c", "c")]));
        // It is not empty any more, and not the first archive: what came before can be deleted.
        shop.apply(&top, &archive(&[file("etc/.wh.c", ""), file("etc/d", "d")]));
        let (difference, _) = shop.diff(&below, &top, Packing::Plain);
        let (copy, again) = (shop.tree("copy", &[]), bind(&shop.base.join("copy"), "rw"));
        shop.apply(&again, &whole);
        shop.apply(&again, &difference);
        assert_eq!(names(&copy.join("etc")), ["b", "d"]);
        assert_eq!(mounted_below(state), 0, "a mount is left");
    });
}

#[test]
fn times_are_cut_where_a_latest_one_is_asked_for() {
    alone(|state| {
        let shop = open(state);
        let left = shop.tree("left", &[file("gone", ""), file("kept", "k")]);
        let right = shop.tree("right", &[file("kept", "longer")]);
        let asked = |latest| Difference {
            left: bind(&left, "ro"),
            right: bind(&right, "ro"),
            packing: Packing::Plain,
            latest,
        };
        let mut out = Vec::new();
        shop.differ.diff(&asked(Some((5, 0))), &mut out).unwrap();
        let mut times = Vec::new();
        for entry in tar::Archive::new(out.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            times.push((path, entry.header().mtime().unwrap()));
        }
        let expected = [(".wh.gone", 5), ("kept", 5)].map(|(path, time)| (PathBuf::from(path), time));
        assert_eq!(times, expected);
    });
}

#[test]
fn what_cannot_be_written_or_read_is_refused_and_leaves_no_mount() {
    alone(|state| {
        let shop = open(state);
        let tree = shop.tree("tree", &[file("a", "a")]);
        let bytes = archive(&[file("b", "")]);
        let refused = |mounts: &[SnapshotMount], bytes: &[u8]| {
            let fault = shop.differ.apply(&mut &*bytes, None, mounts).unwrap_err();
            fault.kind
        };
        assert_eq!(refused(&bind(&tree, "ro"), &bytes), FaultKind::Invalid);
        assert_eq!(refused(&bind(&tree, "rw"), &bytes[..700]), FaultKind::Invalid);
        assert_eq!(refused(&[], &bytes), FaultKind::Unsupported);
        let mut other = bind(&tree, "rw");
        other[0].kind = "erofs".to_owned();
        assert_eq!(refused(&other, &bytes), FaultKind::Unsupported);
        let missing = bind(&shop.base.join("missing"), "rw");
        shop.differ
            .apply(&mut bytes.as_slice(), None, &missing)
            .unwrap_err();
        assert_eq!(fs::read_to_string(tree.join("a")).unwrap(), "a");
        assert_eq!(mounted_below(state), 0, "a mount is left");
    });
}
