//! The store from day to day: reopened, asked by many at once, emptied while somebody lists it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use plugin_api::snapshot::{Labels, SnapshotKey, Snapshotter};
use plugin_api::snapshot_client::SnapshotClient;

use crate::shop::{Shop, k, names, one};

pub(crate) fn many_callers_at_once_do_not_wait_for_each_other_in_circles(s: &mut Shop) {
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
}

pub(crate) fn everything_is_there_after_reopening(s: &mut Shop) {
    s.layer("l1", "", |at| fs::write(at.join("f"), "f").unwrap());
    s.client.view(&k("v"), Some(&k("l1")), &one("a", "b")).unwrap();
    let mounts = s.prepare("p", "l1");
    let before = s.client.list().unwrap();
    // Twice, for an opening may mend what the one before it left.
    for _ in 0..2 {
        s.reopen();
        assert_eq!(s.client.list().unwrap(), before);
        assert_eq!(s.client.mounts(&k("p")).unwrap(), mounts);
        s.within(&mounts, |at| assert_eq!(names(at), ["f"]));
    }
}

pub(crate) fn a_list_is_whole_while_others_remove(s: &mut Shop) {
    const MANY: usize = 120;
    s.layer("base", "", |_| {});
    let keys: Vec<SnapshotKey> = (0..MANY).map(|n| k(&format!("{n:03}"))).collect();
    for key in &keys {
        s.client.view(key, Some(&k("base")), &Labels::new()).unwrap();
    }
    let socket = s.base.join("run/s.sock");
    let remover = SnapshotClient::connect(&socket, None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| keys.iter().for_each(|key| remover.remove(key).unwrap()));
        let mut before = MANY + 1;
        while before > 1 {
            let listed = s.client.list().unwrap();
            let known: BTreeSet<&str> = listed.iter().map(|info| info.key.as_str()).collect();
            assert_eq!(known.len(), listed.len(), "told twice");
            assert!(known.contains("base") && listed.len() <= before);
            // They go from the front, so what is left is the end of what there was.
            let left = listed.len() - 1;
            let expected = keys[MANY - left..].iter().map(SnapshotKey::as_str);
            assert!(
                expected.chain(["base"]).all(|key| known.contains(key)),
                "{known:?}"
            );
            before = listed.len();
        }
    });
}
