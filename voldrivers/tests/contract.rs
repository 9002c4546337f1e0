//! The contract of volume drivers, over every driver of this room.

use plugin_api::contract::{Outcome, VolumeSubject, volume};

#[test]
fn local_keeps_the_contract() {
    let state = tempfile::tempdir().unwrap();
    // One process at a time may have the records open, so a driver is dropped before the next one opens.
    let open = || voldrivers::open_local(state.path());
    let subject = VolumeSubject::new(open)
        .on_restart(|old| {
            drop(old);
            open()
        })
        .other_option("mode", "0700");
    for report in volume::check(&subject) {
        assert_eq!(report.outcome, Outcome::Passed, "{}", report.name);
    }
}
