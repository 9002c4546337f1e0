//! The contract of graph plugins, over the real kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{alone, open};
use plugin_api::contract::{Subject, graph};

#[test]
fn the_overlay_driver_keeps_the_contract() {
    alone(|state| {
        // A slot, so that each case gets the one opening there may be.
        let slot = std::sync::Mutex::new(Some(open(state)));
        let subject = Subject::new(|| Ok(std::sync::Arc::clone(slot.lock().unwrap().as_ref().unwrap())));
        let subject = subject.on_restart(|driver| {
            drop(driver);
            let mut slot = slot.lock().unwrap();
            *slot = None;
            let driver = open(state);
            *slot = Some(std::sync::Arc::clone(&driver));
            Ok(driver)
        });
        let reports = graph::check(&subject);
        assert!(reports.len() > 30, "{reports:?}");
        assert_eq!(common::mounted_below(state), 0);
        drop(subject);
        drop(slot);
    });
}
