//! Death and failure at every change of the world in turn: a snapshot is there wholly or not at all, and
//! nothing is left of what is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use common::{alone, try_open_snapshots};
use plugin_api::snapshot::{LabelChange, Labels, SnapshotKey, SnapshotKind, SnapshotMount, Snapshotter};
use plugin_api::{Fault, FaultKind};

const STATE: &str = "LONGSHORE_TEST_STATE";

fn k(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

fn write(mounts: &[SnapshotMount], name: &str) {
    let mut options = mounts[0].options.iter();
    let upper = options
        .find_map(|option| option.strip_prefix("upperdir="))
        .unwrap();
    fs::write(PathBuf::from(upper).join(name), name).unwrap();
}

/// Says a verb again once when it fails, as containerd would; the first try may have done it.
fn twice(done: FaultKind, verb: impl Fn() -> Result<(), Fault>) {
    let first = verb();
    if let Err(first) = first
        && let Err(second) = verb()
    {
        assert_eq!(
            second.kind,
            done,
            "{} after {}",
            second.sentence(),
            first.sentence()
        );
    }
}

/// A life of two committed snapshots, one to be written and one to be read.
fn live(store: &dyn Snapshotter) {
    let none = Labels::new();
    let (a, b) = (k("a b"), k("b c"));
    for (name, parent) in [(&a, None), (&b, Some(&a))] {
        let key = k("making");
        twice(FaultKind::AlreadyExists, || {
            store.prepare(&key, parent, &none).map(drop)
        });
        write(&store.mounts(&key).unwrap(), "file");
        twice(FaultKind::NotFound, || store.commit(name, &key, &none));
    }
    let change = LabelChange::Some([("x".to_owned(), "y".to_owned())].into());
    twice(FaultKind::NotFound, || store.update(&b, &change).map(drop));
    twice(FaultKind::AlreadyExists, || {
        store.view(&k("v"), Some(&b), &none).map(drop)
    });
    twice(FaultKind::AlreadyExists, || {
        store.prepare(&k("p"), Some(&b), &none).map(drop)
    });
    for key in [k("v"), k("p"), b, a] {
        twice(FaultKind::NotFound, || store.remove(&key));
    }
    twice(FaultKind::NotFound, || store.cleanup());
}

/// Not a test of its own: what the tests below run in a process that dies.
#[test]
fn child() {
    let Ok(state) = std::env::var(STATE) else {
        return;
    };
    let state = Path::new(&state);
    let store = try_open_snapshots(state).or_else(|_| try_open_snapshots(state));
    live(&*store.unwrap());
}

#[expect(clippy::disallowed_methods, reason = "a test runs itself, to die")]
fn run_child(state: &Path, fault: &str) -> std::process::Output {
    let armed = state.with_file_name("armed");
    fs::write(&armed, "").unwrap();
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .env("LONGSHORE_FAULT", format!("{fault}:{}", armed.display()))
        .output()
        .unwrap()
}

/// Opens what a death left: records and folders agree, committed content is whole, and it lives on.
fn after(state: &Path) {
    let store = try_open_snapshots(state).unwrap();
    let all = store.list().unwrap();
    let layers = || fs::read_dir(state.join("layers")).unwrap().count();
    let with_layers = all.iter().filter(|info| info.kind != SnapshotKind::View).count();
    assert_eq!(layers(), 1 + with_layers, "{all:?}");
    for info in &all {
        match info.kind {
            SnapshotKind::Committed => assert_eq!(store.usage(&info.key).unwrap().bytes, 4),
            SnapshotKind::View | SnapshotKind::Active => drop(store.mounts(&info.key).unwrap()),
        }
    }
    for key in ["making", "v", "p", "b c", "a b"] {
        match store.remove(&k(key)) {
            Ok(()) => {}
            Err(fault) => assert_eq!(fault.kind, FaultKind::NotFound),
        }
    }
    live(&*store);
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(layers(), 1);
    for folder in ["staging", "trash"] {
        assert_eq!(fs::read_dir(state.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn a_death_at_any_change_is_repaired() {
    let mut at = 1;
    let mut over = false;
    while !over {
        alone(|state| {
            let output = run_child(state, &format!("die:{at}"));
            over = output.status.success();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(over || output.status.signal() == Some(9), "at {at}: {said}");
            after(state);
        });
        at += 1;
    }
    assert!(at > 40, "only {at} changes were tried");
}

#[test]
fn a_failure_at_any_change_is_mended_by_a_retry() {
    let mut at = 1;
    let mut past = false;
    while !past {
        alone(|state| {
            let output = run_child(state, &format!("fail:{at}:5"));
            let count = fs::read_to_string(state.with_file_name("armed.count")).unwrap();
            let seen: u64 = count.split(' ').next().unwrap().parse().unwrap();
            past = seen < at;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "at {at} of {seen} {count}: {said}");
            after(state);
        });
        at += 1;
    }
    assert!(at > 40, "only {at} changes were tried");
}
