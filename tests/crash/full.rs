//! A disk without room for another record.

use crate::ground::{Ground, Start};
use crate::network::{self, DRIVERS};

/// Puts a small disk in memory at a folder of the ground.
fn small_disk(ground: &Ground, folder: &str) {
    let path = ground.path(folder);
    let path = path.to_str().unwrap();
    ground.run(&["mkdir", "-p", path]);
    ground.run(&["mount", "-t", "tmpfs", "-o", "size=4m", "small", path]);
}

/// Leaves no room on it.
fn fill(ground: &Ground, folder: &str) {
    let file = ground.path(folder).join("ballast");
    // It ends where there is no room.
    let script = format!("cat /dev/zero > {} 2>/dev/null || :", file.display());
    ground.run(&["sh", "-c", &script]);
}

fn make_room(ground: &Ground, folder: &str) {
    ground.run(&["rm", ground.path(folder).join("ballast").to_str().unwrap()]);
}

#[track_caller]
fn refused(what: &str, answer: Result<(), plugin_api::Fault>) {
    let fault = answer.expect_err(what);
    let told = fault.sentence();
    assert!(
        told.contains("No space left") || told.contains("space"),
        "{what}: {told}"
    );
}

#[test]
fn without_room_for_endpoints_new_ones_are_refused_and_old_ones_go() {
    let mut ground = Ground::new(DRIVERS);
    small_disk(&ground, "runtime");
    assert_eq!(ground.start("die:0"), Start::Up);
    network::network(&ground).unwrap();
    let before = ground.shape();
    fill(&ground, "runtime");
    refused("an endpoint without room", network::endpoint(&ground));
    ground.assert_becomes("after a refused endpoint", &[&before]);
    make_room(&ground, "runtime");
    network::endpoint(&ground).expect("an endpoint when there is room again");
    network::join(&ground).unwrap();
    let joined = ground.shape();
    fill(&ground, "runtime");
    network::leave(&ground).expect("to leave without room");
    network::no_endpoint(&ground).expect("to delete without room");
    ground.assert_becomes("after the endpoint went", &[&before]);
    make_room(&ground, "runtime");
    network::endpoint(&ground).unwrap();
    network::join(&ground).unwrap();
    ground.assert_becomes("after it came again", &[&joined]);
    fill(&ground, "runtime");
    network::no_network(&ground).expect("to remove a network in use without room");
    ground.stop();
}

#[test]
fn without_room_for_networks_new_ones_are_refused_and_old_ones_go() {
    let mut ground = Ground::new(DRIVERS);
    small_disk(&ground, "state");
    assert_eq!(ground.start("die:0"), Start::Up);
    fill(&ground, "state");
    let empty = ground.shape();
    refused("a network without room", network::network(&ground));
    ground.assert_becomes("after a refused network", &[&empty]);
    make_room(&ground, "state");
    network::network(&ground).expect("a network when there is room again");
    fill(&ground, "state");
    network::no_network(&ground).expect("to remove a network without room");
    ground.assert_becomes("after the network went", &[&empty]);
    ground.stop();
}
