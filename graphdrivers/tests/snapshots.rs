//! What containerd asks of any snapshotter, said over a real socket, with its mounts executed as it
//! describes them: the cases of containerd's own suite for snapshotters, and some that it only names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::alone;
use kernel::mount::{self, Limits};
use plugin_api::server::{Plugin, bind, serve};
use plugin_api::snapshot::{
    LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotKind, SnapshotMount, Snapshotter,
};
use plugin_api::snapshot_client::SnapshotClient;
use plugin_api::{Fault, FaultKind};
use tokio::sync::oneshot;

/// A snapshotter behind its socket, and a connection to it.
struct Shop {
    client: SnapshotClient,
    /// containerd's collector of garbage names no namespace.
    collector: SnapshotClient,
    base: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shop {
    fn open(state: &Path) -> Self {
        let base = state.parent().unwrap().to_owned();
        let store = graphdrivers::open_overlay_snapshots(state).unwrap();
        let plugin = Plugin {
            snapshot: Some(store),
            ..Plugin::default()
        };
        let socket = base.join("run/s.sock");
        let bound = bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(serve(vec![(bound, plugin)], shutdown, Duration::from_secs(5)))
                .unwrap();
        });
        Self {
            client: SnapshotClient::connect(&socket, Some("default")).unwrap(),
            collector: SnapshotClient::connect(&socket, None).unwrap(),
            base,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Mounts what is described, works there, unmounts.
    fn within<T>(&self, mounts: &[SnapshotMount], work: impl FnOnce(&Path) -> T) -> T {
        let target = self.base.join("mnt");
        kernel::fsutil::make_dir(&target, 0o755).unwrap();
        let [one] = mounts else {
            panic!("one mount was due, not {mounts:?}");
        };
        execute(one, &target);
        let result = work(&target);
        assert!(mount::unmount(&target).unwrap());
        result
    }

    fn prepare(&self, key: &str, parent: &str) -> Vec<SnapshotMount> {
        self.client
            .prepare(&k(key), maybe(parent).as_ref(), &Labels::new())
            .unwrap()
    }

    fn view(&self, key: &str, parent: &str) -> Vec<SnapshotMount> {
        self.client
            .view(&k(key), maybe(parent).as_ref(), &Labels::new())
            .unwrap()
    }

    fn commit(&self, name: &str, key: &str) {
        self.client.commit(&k(name), &k(key), &Labels::new()).unwrap();
    }

    /// A committed snapshot with what `work` did.
    fn layer(&self, name: &str, parent: &str, work: impl FnOnce(&Path)) {
        let mounts = self.prepare("making", parent);
        self.within(&mounts, work);
        self.commit(name, "making");
    }

    /// Looks at a committed snapshot.
    fn look<T>(&self, name: &str, work: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.view("looking", name);
        let result = self.within(&mounts, work);
        self.client.remove(&k("looking")).unwrap();
        result
    }

    fn remove(&self, key: &str) {
        self.collector.remove(&k(key)).unwrap();
    }

    fn stat(&self, key: &str) -> SnapshotInfo {
        self.client.stat(&k(key)).unwrap()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// As mount(8) would read the words.
fn execute(one: &SnapshotMount, target: &Path) {
    let has = |word: &str| one.options.iter().any(|option| option == word);
    let limits = Limits {
        read_only: has("ro"),
        ..Limits::default()
    };
    if one.kind == "bind" {
        mount::bind(Path::new(&one.source), target, limits).unwrap();
    } else {
        let data = one.options.join(",");
        mount::mount_filesystem(&one.kind, &one.source, target, limits, &data).unwrap();
    }
}

fn k(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn maybe(parent: &str) -> Option<SnapshotKey> {
    (!parent.is_empty()).then(|| k(parent))
}

fn shop(test: impl FnOnce(&Shop) + Send) {
    alone(|state| {
        let shop = Shop::open(state);
        test(&shop);
    });
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> FaultKind {
    outcome.unwrap_err().kind
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn one(key: &str, value: &str) -> Labels {
    [(key.to_owned(), value.to_owned())].into()
}

#[test]
fn what_was_committed_is_seen_by_what_stands_upon_it() {
    shop(|s| {
        let mounts = s.prepare("default/1/extract-5 sha256:aa", "");
        s.within(&mounts, |at| {
            fs::write(at.join("foo"), "foo\n").unwrap();
            fs::create_dir_all(at.join("a/b/c")).unwrap();
        });
        let key = "default/1/extract-5 sha256:aa";
        assert_eq!(s.client.mounts(&k(key)).unwrap(), mounts);
        s.commit("default/2/sha256:aa", key);
        assert_eq!(refused(s.client.stat(&k(key))), FaultKind::NotFound);
        assert_eq!(refused(s.client.mounts(&k(key))), FaultKind::NotFound);
        let name = "default/2/sha256:aa";
        assert_eq!(refused(s.client.mounts(&k(name))), FaultKind::WrongState);
        let info = s.stat(name);
        assert_eq!((info.parent, info.kind), (None, SnapshotKind::Committed));
        let next = s.prepare("next", name);
        s.within(&next, |at| {
            assert_eq!(fs::read_to_string(at.join("foo")).unwrap(), "foo\n");
            fs::write(at.join("foo"), "changed\n").unwrap();
            fs::remove_dir_all(at.join("a/b")).unwrap();
        });
        s.commit("c2", "next");
        s.look(name, |at| {
            assert_eq!(fs::read_to_string(at.join("foo")).unwrap(), "foo\n");
            assert_eq!(names(&at.join("a")), ["b"]);
        });
        s.look("c2", |at| {
            assert_eq!(fs::read_to_string(at.join("foo")).unwrap(), "changed\n");
            assert_eq!(names(&at.join("a")), [""; 0]);
        });
        assert_eq!(s.stat("c2").parent, Some(k(name)));
        s.remove("c2");
        s.remove(name);
        assert_eq!(s.client.list().unwrap(), []);
    });
}

#[test]
fn active_and_committed_are_told_apart_with_times_and_parents() {
    shop(|s| {
        s.layer("base", "", |at| fs::write(at.join("f"), "").unwrap());
        s.prepare("active", "base");
        s.view("view", "base");
        let active = s.stat("active");
        assert_eq!(
            (active.kind, active.parent),
            (SnapshotKind::Active, Some(k("base")))
        );
        assert_eq!(s.stat("view").kind, SnapshotKind::View);
        let base = s.stat("base");
        assert!(base.created <= active.created && base.updated <= active.updated);
        s.commit("top", "active");
        let top = s.stat("top");
        assert_eq!((top.kind, top.parent), (SnapshotKind::Committed, Some(k("base"))));
        assert!(top.updated >= active.updated);
    });
}

#[test]
fn parents_form_a_chain() {
    shop(|s| {
        s.layer("a", "", |_| {});
        s.layer("b", "a", |_| {});
        s.layer("c", "b", |_| {});
        let parent = |key: &str| s.stat(key).parent;
        assert_eq!(
            (parent("c"), parent("b"), parent("a")),
            (Some(k("b")), Some(k("a")), None)
        );
    });
}

#[test]
fn a_key_in_use_and_a_wrong_parent_are_refused_and_change_nothing() {
    shop(|s| {
        let none = Labels::new();
        s.layer("base", "", |_| {});
        s.prepare("active", "base");
        s.view("view", "base");
        let before = s.client.list().unwrap();
        let make = |key: &str, parent: &str| {
            let parent = maybe(parent);
            let prepared = s.client.prepare(&k(key), parent.as_ref(), &none);
            let viewed = s.client.view(&k(key), parent.as_ref(), &none);
            (refused(prepared), refused(viewed))
        };
        for key in ["base", "active", "view"] {
            assert_eq!(
                make(key, ""),
                (FaultKind::AlreadyExists, FaultKind::AlreadyExists)
            );
        }
        assert_eq!(make("n", "x"), (FaultKind::NotFound, FaultKind::NotFound));
        assert_eq!(make("n", "active"), (FaultKind::Invalid, FaultKind::Invalid));
        assert_eq!(make("n", "view"), (FaultKind::Invalid, FaultKind::Invalid));
        let commit = |name: &str, key: &str| refused(s.client.commit(&k(name), &k(key), &none));
        assert_eq!(commit("base", "active"), FaultKind::AlreadyExists);
        assert_eq!(commit("view", "active"), FaultKind::AlreadyExists);
        assert_eq!(commit("n", "view"), FaultKind::WrongState);
        assert_eq!(commit("n", "base"), FaultKind::WrongState);
        assert_eq!(commit("n", "x"), FaultKind::NotFound);
        let long = one("k", &"v".repeat(5000));
        assert_eq!(
            refused(s.client.prepare(&k("n"), None, &long)),
            FaultKind::Invalid
        );
        for verb in [SnapshotClient::stat, |c: &SnapshotClient, key: &SnapshotKey| {
            c.update(key, &LabelChange::All(Labels::new()))
        }] {
            assert_eq!(refused(verb(&s.client, &k("x"))), FaultKind::NotFound);
        }
        assert_eq!(refused(s.client.usage(&k("x"))), FaultKind::NotFound);
        assert_eq!(refused(s.client.remove(&k("x"))), FaultKind::NotFound);
        assert_eq!(s.client.list().unwrap(), before);
        s.collector.cleanup().unwrap();
        assert_eq!(
            names(&s.base.join("state/layers")).len(),
            3,
            "base of all, base, active"
        );
    });
}

#[test]
fn labels_change_whole_or_one_by_one() {
    shop(|s| {
        let given: Labels = [("a", "1"), ("b", "2")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        s.client.prepare(&k("p"), None, &given).unwrap();
        assert_eq!(s.stat("p").labels, given);
        let committed = one("containerd.io/snapshot.ref", "sha256:aa");
        s.client.commit(&k("c"), &k("p"), &committed).unwrap();
        assert_eq!(s.stat("c").labels, committed);
        let created = s.stat("c").created;
        let some = LabelChange::Some(one("x.y", "1"));
        let after = s.client.update(&k("c"), &some).unwrap();
        assert_eq!(after.labels.len(), 2);
        assert!(after.updated >= created && after.created == created);
        s.client
            .update(&k("c"), &LabelChange::Some(one("x.y", "")))
            .unwrap();
        assert_eq!(s.stat("c").labels, committed);
        let all = LabelChange::All(one("only", "this"));
        assert_eq!(
            s.client.update(&k("c"), &all).unwrap().labels,
            one("only", "this")
        );
        assert_eq!(s.stat("c").labels, one("only", "this"));
    });
}

#[test]
fn what_others_stand_upon_is_not_removed() {
    shop(|s| {
        s.layer("a", "", |_| {});
        s.layer("b", "a", |_| {});
        s.view("v", "a");
        // Over the wire both are one code, FAILED_PRECONDITION.
        assert_eq!(refused(s.client.remove(&k("a"))), FaultKind::WrongState);
        s.remove("b");
        assert_eq!(refused(s.client.remove(&k("a"))), FaultKind::WrongState);
        s.remove("v");
        s.remove("a");
        assert_eq!(refused(s.client.remove(&k("a"))), FaultKind::NotFound);
    });
}

#[test]
fn a_list_is_narrowed_by_filters_and_tells_what_stat_tells() {
    shop(|s| {
        s.layer("c", "", |_| {});
        for number in 0..40 {
            s.prepare(&format!("a{number}"), "c");
        }
        s.client.view(&k("v"), Some(&k("c")), &one("x.y/z", "1")).unwrap();
        let all = s.client.list().unwrap();
        assert_eq!(all.len(), 42);
        for info in &all {
            assert_eq!(s.client.stat(&info.key).unwrap(), *info);
        }
        let by = |filters: &[&str]| -> BTreeSet<String> {
            let all = s.client.list_by(filters).unwrap();
            all.iter().map(|info| info.key.as_str().to_owned()).collect()
        };
        assert_eq!(by(&["kind==active"]).len(), 40);
        assert_eq!(
            by(&["kind==committed", "name==a7"]),
            ["a7", "c"].map(str::to_owned).into()
        );
        assert_eq!(by(&["parent==c,labels.\"x.y/z\"==1"]), ["v".to_owned()].into());
        assert_eq!(refused(s.client.list_by(&["kind=="])), FaultKind::Invalid);
    });
}

#[test]
fn files_and_folders_of_lower_layers_are_changed_and_removed() {
    shop(|s| {
        s.layer("l1", "", |at| {
            fs::create_dir_all(at.join("dir1")).unwrap();
            fs::write(at.join("dir1/one"), "1").unwrap();
            fs::write(at.join("passwd"), "old").unwrap();
        });
        s.layer("l2", "l1", |at| {
            fs::remove_dir_all(at.join("dir1")).unwrap();
            fs::write(at.join("passwd"), "new").unwrap();
        });
        s.layer("l3", "l2", |at| {
            fs::create_dir(at.join("dir1")).unwrap();
            fs::write(at.join("dir1/two"), "2").unwrap();
        });
        s.look("l2", |at| assert_eq!(names(at), ["passwd"]));
        s.look("l3", |at| {
            assert_eq!(names(&at.join("dir1")), ["two"]);
            assert_eq!(fs::read_to_string(at.join("passwd")).unwrap(), "new");
        });
        s.layer("l4", "l3", |at| fs::remove_file(at.join("dir1/two")).unwrap());
        s.look("l4", |at| assert_eq!(names(&at.join("dir1")), [""; 0]));
    });
}

#[test]
fn owners_and_modes_survive_a_commit() {
    shop(|s| {
        s.layer("l1", "", |at| {
            fs::create_dir_all(at.join("opt")).unwrap();
            fs::write(at.join("opt/x"), "x").unwrap();
            symlink("x", at.join("opt/l")).unwrap();
        });
        s.layer("l2", "l1", |at| {
            for name in ["opt", "opt/x"] {
                std::os::unix::fs::chown(at.join(name), Some(7), Some(8)).unwrap();
            }
            std::os::unix::fs::lchown(at.join("opt/l"), Some(9), None).unwrap();
            fs::set_permissions(at.join("opt"), PermissionsExt::from_mode(0o1770)).unwrap();
        });
        s.layer("l3", "l2", |at| {
            fs::write(at.join("opt/y"), "").unwrap();
            fs::set_permissions(at.join("opt/x"), PermissionsExt::from_mode(0o4711)).unwrap();
        });
        s.look("l3", |at| {
            let owner = |name: &str| {
                let meta = fs::symlink_metadata(at.join(name)).unwrap();
                (meta.uid(), meta.gid())
            };
            assert_eq!(
                (owner("opt"), owner("opt/x"), owner("opt/l")),
                ((7, 8), (7, 8), (9, 0))
            );
            assert_eq!((mode(&at.join("opt")), mode(&at.join("opt/x"))), (0o1770, 0o4711));
        });
    });
}

#[test]
fn the_root_folder_is_open_to_all_and_keeps_what_was_set() {
    shop(|s| {
        let mounts = s.prepare("p", "");
        s.within(&mounts, |at| assert_eq!(mode(at), 0o755));
        let mounts = s.view("v", "");
        s.within(&mounts, |at| assert_eq!((mode(at), names(at)), (0o755, vec![])));
        s.layer("l", "", |at| {
            fs::set_permissions(at, PermissionsExt::from_mode(0o711)).unwrap();
        });
        s.look("l", |at| assert_eq!(mode(at), 0o711));
        let mounts = s.prepare("q", "l");
        s.within(&mounts, |at| assert_eq!(mode(at), 0o711));
    });
}

#[test]
fn a_snapshot_in_the_middle_is_removed_when_nothing_stands_upon_it() {
    shop(|s| {
        s.layer("base", "", |at| fs::write(at.join("f"), "base").unwrap());
        s.layer("middle", "base", |at| fs::write(at.join("f"), "middle").unwrap());
        let top = s.prepare("top", "middle");
        assert_eq!(refused(s.client.remove(&k("middle"))), FaultKind::WrongState);
        s.within(&top, |at| {
            assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "middle");
        });
        s.remove("top");
        s.remove("middle");
        s.look("base", |at| {
            assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "base");
        });
        s.remove("base");
    });
}

#[test]
fn files_move_from_lower_layers_and_folders_are_renamed_by_copies() {
    shop(|s| {
        s.layer("l1", "", |at| {
            fs::create_dir(at.join("dir")).unwrap();
            fs::write(at.join("dir/f"), "f").unwrap();
            fs::write(at.join("g"), "g").unwrap();
        });
        s.layer("l2", "l1", |at| {
            fs::rename(at.join("dir/f"), at.join("dir/h")).unwrap();
            fs::rename(at.join("g"), at.join("dir/g")).unwrap();
            // A folder of a lower layer is on another file system to overlay, and tools copy then.
            match fs::rename(at.join("dir"), at.join("new")) {
                Ok(()) => fs::rename(at.join("new"), at.join("dir")).unwrap(),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices),
            }
            fs::create_dir(at.join("own")).unwrap();
            fs::rename(at.join("own"), at.join("named")).unwrap();
        });
        s.look("l2", |at| {
            assert_eq!(names(at), ["dir", "named"]);
            assert_eq!(names(&at.join("dir")), ["g", "h"]);
            assert_eq!(fs::read_to_string(at.join("dir/h")).unwrap(), "f");
        });
    });
}

#[test]
fn a_view_takes_no_writes_and_is_never_committed() {
    shop(|s| {
        s.layer("l1", "", |at| fs::write(at.join("f"), "f").unwrap());
        s.layer("l2", "l1", |at| fs::write(at.join("g"), "g").unwrap());
        for (key, parent) in [("v0", ""), ("v1", "l1"), ("v2", "l2")] {
            let mounts = s.view(key, parent);
            assert_eq!(s.client.mounts(&k(key)).unwrap(), mounts);
            s.within(&mounts, |at| {
                let error = fs::write(at.join("new"), "").unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            });
            let committed = s.client.commit(&k("n"), &k(key), &Labels::new());
            assert_eq!(refused(committed), FaultKind::WrongState);
        }
    });
}

#[test]
fn a_hundred_and_twenty_eight_layers_are_mounted() {
    shop(|s| {
        let mut parent = String::new();
        for number in 0..128 {
            let name = format!("layer {number}");
            let mounts = s.prepare("making", &parent);
            // Written where containerd's own differ writes: 128 layers are too long for one page of options.
            fs::write(upper(&mounts).join(format!("f{number:03}")), number.to_string()).unwrap();
            fs::write(upper(&mounts).join("same"), number.to_string()).unwrap();
            s.commit(&name, "making");
            parent = name;
        }
        let mounts = s.prepare("top", &parent);
        let lowers = option(&mounts, "lowerdir=");
        let lowers: Vec<PathBuf> = lowers.split(':').map(PathBuf::from).collect();
        // All below one folder, so that clients can shorten them.
        let layers = s.base.join("state/layers");
        assert!(lowers.iter().all(|lower| lower.starts_with(&layers)));
        let overlay = mount::Overlay {
            lowers: &lowers,
            upper: None,
            label: None,
        };
        let target = s.base.join("mnt");
        kernel::fsutil::make_dir(&target, 0o755).unwrap();
        mount::mount_overlay(&overlay, &target).unwrap();
        assert_eq!(names(&target).len(), 129);
        assert_eq!(fs::read_to_string(target.join("same")).unwrap(), "127");
        mount::unmount(&target).unwrap();
    });
}

fn option(mounts: &[SnapshotMount], key: &str) -> String {
    let mut options = mounts[0].options.iter();
    options
        .find_map(|option| option.strip_prefix(key))
        .unwrap()
        .to_owned()
}

fn upper(mounts: &[SnapshotMount]) -> PathBuf {
    option(mounts, "upperdir=").into()
}

#[test]
fn a_whiteout_put_into_an_extraction_upon_nothing_counts() {
    shop(|s| {
        let mounts = s.prepare("making", "");
        assert_eq!(mounts[0].kind, "overlay");
        // As containerd's differ does with a single overlay.
        let folder = kernel::fsutil::Folder::open(&upper(&mounts)).unwrap();
        folder.make_whiteout("gone".as_ref()).unwrap();
        fs::write(upper(&mounts).join("kept"), "").unwrap();
        s.commit("c", "making");
        s.look("c", |at| assert_eq!(names(at), ["kept"]));
        let kind = fs::symlink_metadata(upper(&mounts).join("gone"))
            .unwrap()
            .file_type();
        assert!(kind.is_char_device());
    });
}

#[test]
fn sockets_and_open_files_live_on_through_copies() {
    shop(|s| {
        s.layer("l1", "", |at| {
            drop(std::os::unix::net::UnixListener::bind(at.join("s")).unwrap());
            fs::write(at.join("f"), "lower").unwrap();
        });
        let mounts = s.prepare("p", "l1");
        s.within(&mounts, |at| {
            assert!(
                fs::symlink_metadata(at.join("s"))
                    .unwrap()
                    .file_type()
                    .is_socket()
            );
            let open = fs::File::open(at.join("f")).unwrap();
            let inode = fs::metadata(at.join("f")).unwrap().ino();
            fs::write(at.join("f"), "upper").unwrap();
            assert_eq!(open.metadata().unwrap().ino(), inode);
            fs::set_permissions(at.join("f"), PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(mode(&at.join("f")), 0o600);
        });
        s.commit("l2", "p");
        s.look("l2", |at| {
            assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "upper");
        });
    });
}

#[test]
fn usage_counts_the_snapshot_alone_and_removal_frees_it() {
    shop(|s| {
        s.layer("l1", "", |at| fs::write(at.join("f"), vec![0; 10_000]).unwrap());
        let mounts = s.prepare("p", "l1");
        s.within(&mounts, |at| fs::write(at.join("g"), vec![0; 500]).unwrap());
        assert_eq!(s.client.usage(&k("l1")).unwrap().bytes, 10_000);
        assert_eq!(s.client.usage(&k("p")).unwrap().bytes, 500);
        s.view("v", "l1");
        assert_eq!(s.client.usage(&k("v")).unwrap().inodes, 0);
        s.commit("l2", "p");
        // Told twice: measured, then remembered.
        assert_eq!(
            s.client.usage(&k("l2")).unwrap(),
            s.client.usage(&k("l2")).unwrap()
        );
        for key in ["v", "l2", "l1"] {
            s.remove(key);
        }
        s.collector.cleanup().unwrap();
        s.collector.cleanup().unwrap();
        assert_eq!(names(&s.base.join("state/layers")).len(), 1);
        assert_eq!(names(&s.base.join("state/trash")), [""; 0]);
    });
}

#[test]
fn everything_is_there_after_reopening() {
    alone(|state| {
        let (before, mounts) = {
            let s = Shop::open(state);
            s.layer("l1", "", |at| fs::write(at.join("f"), "f").unwrap());
            s.client.view(&k("v"), Some(&k("l1")), &one("a", "b")).unwrap();
            let mounts = s.prepare("p", "l1");
            (s.client.list().unwrap(), mounts)
        };
        let s = Shop::open(state);
        assert_eq!(s.client.list().unwrap(), before);
        assert_eq!(s.client.mounts(&k("p")).unwrap(), mounts);
        s.within(&mounts, |at| assert_eq!(names(at), ["f"]));
    });
}

#[test]
fn many_callers_at_once_do_not_wait_for_each_other_in_circles() {
    shop(|s| {
        s.layer("base", "", |_| {});
        let socket = s.base.join("run/s.sock");
        let clients: Vec<_> = (0..4)
            .map(|_| Arc::new(SnapshotClient::connect(&socket, None).unwrap()))
            .collect();
        std::thread::scope(|scope| {
            for (number, client) in clients.iter().enumerate() {
                scope.spawn(move || {
                    for round in 0..10 {
                        let (a, b) = (
                            k(&format!("{number}-{round}")),
                            k(&format!("{}-{round}-c", 9 - number)),
                        );
                        client.prepare(&a, Some(&k("base")), &Labels::new()).unwrap();
                        client.commit(&b, &a, &Labels::new()).unwrap();
                        client.prepare(&a, Some(&b), &Labels::new()).unwrap();
                        client.cleanup().unwrap();
                        client.mounts(&a).unwrap();
                        client.remove(&a).unwrap();
                        client.remove(&b).unwrap();
                    }
                });
            }
        });
        assert_eq!(s.client.list().unwrap().len(), 1);
    });
}
