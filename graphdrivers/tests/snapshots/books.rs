//! What containerd writes into its books: keys, parents, kinds, labels, usage.

use std::collections::BTreeSet;
use std::fs;

use plugin_api::FaultKind;
use plugin_api::snapshot::{LabelChange, Labels, SnapshotKey, SnapshotKind, Snapshotter};
use plugin_api::snapshot_client::SnapshotClient;

use crate::shop::{Shop, k, maybe, names, one, refused};

pub(crate) fn what_was_committed_is_seen_by_what_stands_upon_it(s: &mut Shop) {
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
}

pub(crate) fn active_and_committed_are_told_apart_with_times_and_parents(s: &mut Shop) {
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
}

pub(crate) fn parents_form_a_chain(s: &mut Shop) {
    s.layer("a", "", |_| {});
    s.layer("b", "a", |_| {});
    s.layer("c", "b", |_| {});
    let parent = |key: &str| s.stat(key).parent;
    assert_eq!(
        (parent("c"), parent("b"), parent("a")),
        (Some(k("b")), Some(k("a")), None)
    );
}

pub(crate) fn a_key_in_use_and_a_wrong_parent_are_refused_and_change_nothing(s: &mut Shop) {
    let none = Labels::new();
    s.layer("base", "", |_| {});
    s.prepare("active", "base");
    s.view("view", "base");
    let before = s.client.list().unwrap();
    let layers = || names(&s.base.join("state/layers"));
    let kept = layers();
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
    assert_eq!(layers(), kept);
}

pub(crate) fn labels_change_whole_or_one_by_one(s: &mut Shop) {
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
}

pub(crate) fn what_others_stand_upon_is_not_removed(s: &mut Shop) {
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
}

pub(crate) fn a_list_is_narrowed_by_filters_and_tells_what_stat_tells(s: &mut Shop) {
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
}

pub(crate) fn a_snapshot_in_the_middle_is_removed_when_nothing_stands_upon_it(s: &mut Shop) {
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
}

pub(crate) fn usage_counts_the_snapshot_alone_and_removal_frees_it(s: &mut Shop) {
    let at_first = names(&s.base.join("state/layers"));
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
    assert_eq!(names(&s.base.join("state/layers")), at_first);
    assert_eq!(names(&s.base.join("state/trash")), [""; 0]);
}

pub(crate) fn a_commit_frees_its_key_and_keeps_what_it_named(s: &mut Shop) {
    let mounts = s.prepare("p", "");
    s.within(&mounts, |at| fs::write(at.join("f"), "first").unwrap());
    s.commit("c", "p");
    // A client that missed the answer removes its key.
    assert_eq!(refused(s.client.remove(&k("p"))), FaultKind::NotFound);
    let again = s.prepare("p", "c");
    s.within(&again, |at| fs::write(at.join("f"), "second").unwrap());
    s.remove("p");
    s.collector.cleanup().unwrap();
    s.look("c", |at| {
        assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "first");
    });
    s.remove("c");
    assert_eq!(s.client.list().unwrap(), []);
}
