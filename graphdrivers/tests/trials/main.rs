//! What is hard on a store: many callers at once, chains as long as they may be, disks that are full; over
//! every back end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod deep;
mod full;
mod oracle;
mod order;

use common::BackEnd;

/// Makes a test of each trial for each back end.
macro_rules! over_each_back_end {
    ($($room:ident: $trial:ident;)+) => {
        over_each_back_end!(@ overlay Overlay; $($room $trial)+);
        over_each_back_end!(@ vfs Vfs; $($room $trial)+);
        over_each_back_end!(@ btrfs Btrfs; $($room $trial)+);
    };
    (@ $module:ident $back_end:ident; $($room:ident $trial:ident)+) => {
        mod $module {
            $(#[test]
            fn $trial() {
                crate::$room::$trial(super::BackEnd::$back_end);
            })+
        }
    };
}

over_each_back_end! {
    order: a_thousand_verbs_at_once_have_an_order;
    deep: the_longest_chain_is_shown_and_no_longer_one_is_promised;
    full: a_full_disk_is_told_and_room_made_helps;
}

#[test]
fn layers_of_one_driver_are_not_shown_by_another() {
    BackEnd::Overlay.alone(|state| {
        let plugin = BackEnd::Overlay.graph(state).unwrap();
        let bytes = common::archive(&[common::file("f", "f")]);
        common::fill(&*plugin, "a", "", &bytes).unwrap();
        drop(plugin);
        let Err(refused) = BackEnd::Vfs.graph(state) else {
            panic!("it was not refused");
        };
        assert_eq!(
            refused.kind,
            plugin_api::FaultKind::Invalid,
            "{}",
            refused.sentence()
        );
        let plugin = BackEnd::Overlay.graph(state).unwrap();
        assert!(plugin.exists(&common::id("a")).unwrap());
        plugin.remove(&common::id("a")).unwrap();
        drop(plugin);
        // An empty store may change its ways.
        BackEnd::Vfs.graph(state).unwrap();
    });
}
