//! Death and failure at every change of the world in turn: a layer is there wholly or not at all, a retry
//! succeeds, and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use common::{alone, archive, file, fill, id, layer, mounted_below, open, try_open};
use plugin_api::Fault;
use plugin_api::graph::{GraphInit, GraphPlugin};

const STATE: &str = "LONGSHORE_TEST_STATE";

/// A life of three layers, each verb said again once when it fails.
fn live(plugin: &dyn GraphPlugin) {
    fn twice<T>(verb: impl Fn() -> Result<T, Fault>) -> T {
        verb().or_else(|_| verb()).unwrap()
    }
    let bytes = archive(&[file("a", "a"), file("b", "b"), file("d/c", "c")]);
    twice(|| plugin.init(&GraphInit::default()));
    twice(|| fill(plugin, "base", "", &bytes));
    twice(|| fill(plugin, "next", "base", &archive(&[file(".wh.a", "")])));
    twice(|| plugin.create_read_write(&layer("c", "next")));
    let path = twice(|| plugin.get(&id("c"), ""));
    assert!(path.join("b").exists() && !path.join("a").exists());
    twice(|| plugin.get(&id("c"), ""));
    twice(|| plugin.changes(&id("c"), Some(&id("base"))));
    twice(|| plugin.put(&id("c")));
    twice(|| plugin.put(&id("c")));
    for name in ["c", "next", "base"] {
        twice(|| plugin.remove(&id(name)));
    }
}

fn nothing_left(state: &Path) {
    assert_eq!(mounted_below(state), 0);
    for folder in ["layers", "staging", "mounts", "views", "holds"] {
        let names: Vec<_> = fs::read_dir(state.join(folder)).unwrap().flatten().collect();
        assert!(names.is_empty(), "{folder} holds {names:?}");
    }
}

/// Not a test of its own: what the tests below run in a process that dies.
#[test]
fn child() {
    let Ok(state) = std::env::var(STATE) else {
        return;
    };
    let state = Path::new(&state);
    let plugin = try_open(state).or_else(|_| try_open(state));
    live(&*plugin.unwrap());
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

fn whole_or_not_at_all(plugin: &dyn GraphPlugin) {
    for (name, wanted) in [("base", 3), ("next", 1)] {
        if plugin.exists(&id(name)).unwrap() {
            let tree = plugin.metadata(&id(name)).unwrap()["UpperDir"].clone();
            let have = fs::read_dir(tree).unwrap().count();
            assert!(
                have == 0 || have == wanted,
                "{name} holds {have} of {wanted} names"
            );
        }
    }
}

/// What an engine does that finds its layers in whichever state: it takes them down and begins again.
fn after(plugin: &dyn GraphPlugin) {
    whole_or_not_at_all(plugin);
    plugin.init(&GraphInit::default()).unwrap();
    for name in ["c", "next", "base"] {
        plugin.remove(&id(name)).unwrap();
    }
    live(plugin);
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
            let plugin = open(state);
            after(&*plugin);
            nothing_left(state);
        });
        at += 1;
    }
    assert!(at > 60, "only {at} changes were tried");
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
            let plugin = open(state);
            after(&*plugin);
            nothing_left(state);
        });
        at += 1;
    }
    assert!(at > 60, "only {at} changes were tried");
}
