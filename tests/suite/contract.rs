//! The contract suites over the socket of the real drivers.

use crate::requires;
use crate::world::{ALL, Longshore, World};

/// Why a case may be skipped.
const FINE: [&str; 6] = [
    // It is tried in the other modules, with an engine looking on.
    "nobody here can restart the driver",
    // The engine then keeps what it needs to make the archive again.
    "the driver does not promise exact diffs",
    // Powers that a driver may leave out, and ours do; limits of size need a file system with project quota.
    "the driver keeps no size limits here",
    "the driver asks for no replays",
    "the driver announces no gateway check",
    "the driver asks for no nodes",
];

/// Runs the suite `kind` over a longshore with drivers of `kinds`; every case must pass and leave nothing behind.
#[track_caller]
fn check(kinds: &[&str], kind: &str, more: &[&str]) {
    let world = World::new(&format!("contract-{kind}"));
    let mut longshore = Longshore::start(&world, kinds);
    let home = world.text("home");
    world.remember();
    let socket = longshore.socket();
    let mut words = vec![env!("CARGO_BIN_EXE_longshore-contract")];
    words.extend(["--socket", socket.to_str().unwrap(), "--home", &home]);
    words.extend(["--subsystem", kind]);
    words.extend(more);
    let out = world.run(&words);
    println!("{out}");
    let told = out.ok();
    let mut skipped = told.lines().filter(|line| line.starts_with("skip"));
    let unexplained = skipped.find(|line| !FINE.iter().any(|reason| line.ends_with(reason)));
    assert!(told.contains(" passed, 0 failed"), "{told}");
    assert_eq!(unexplained, None, "{told}");
    world.assert_nothing_left();
    longshore.stop();
}

#[test]
fn volumes_keep_the_contract() {
    requires!("ps");
    check(&["volume"], "volume", &["--other-opt", "mode=0700"]);
}

#[test]
fn networks_keep_the_contract() {
    requires!("ps");
    check(
        &["network"],
        "network",
        &["--opt", "com.docker.network.driver.mtu=1400"],
    );
}

#[test]
fn addresses_keep_the_contract() {
    requires!("ps");
    check(&["ipam"], "ipam", &[]);
}

#[test]
fn layers_keep_the_contract() {
    requires!("ps");
    check(&["graph"], "graph", &[]);
}

#[test]
fn the_wire_keeps_the_contract() {
    requires!("ps");
    check(&ALL, "wire", &[]);
}
