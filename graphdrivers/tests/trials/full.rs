//! Disks that are full.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::mount;
use plugin_api::graph::{GraphInit, GraphPlugin};
use plugin_api::{Fault, FaultKind};

use crate::common::{BackEnd, archive, file, fill, id, layer, left_in, picture};

fn shown(plugin: &dyn GraphPlugin, name: &str) -> Vec<String> {
    let dir = plugin.get(&id(name), "").unwrap();
    let tree = picture(&dir);
    plugin.put(&id(name)).unwrap();
    tree
}

/// Bytes that share no blocks.
fn noise(mut seed: u64, size: usize) -> String {
    let mut text = String::with_capacity(size);
    while text.len() < size {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        write!(text, "{seed:016x}").unwrap();
    }
    text
}

pub(crate) fn a_full_disk_is_told_and_room_made_helps(back_end: BackEnd) {
    crate::common::alone_on(back_end.file_system(), back_end.disk_size(), |state| {
        let plugin = back_end.graph(state).unwrap();
        plugin.init(&GraphInit::default()).unwrap();
        fill(
            &*plugin,
            "base",
            "",
            &archive(&[file("kept", "k"), file("d/f", "f")]),
        )
        .unwrap();
        let before = shown(&*plugin, "base");
        let content = noise(1, 8 << 20);
        let large = archive(&[file("large", &content)]);
        // Every one is whole or refused, until one is refused.
        let mut made = Vec::new();
        let refused = loop {
            let name = format!("l{}", made.len());
            match fill(&*plugin, &name, "base", &large) {
                Ok(_) => made.push(name),
                Err(fault) => break fault,
            }
            assert!(made.len() < 100, "the disk never was full");
        };
        assert_eq!(refused.kind, FaultKind::Exhausted, "{}", refused.sentence());
        // Removal needs no room, and makes some: btrfs may have had too little left to record a hold.
        let half = format!("l{}", made.len());
        let refused = plugin.exists(&id(&half)).unwrap().then_some(half.clone());
        plugin.remove(&id(&made.pop().unwrap())).unwrap();
        assert!(left_in(&state.join("trash")).is_empty());
        for name in &made {
            let dir = patiently(|| plugin.get(&id(name), ""));
            assert_eq!(fs::read_to_string(dir.join("large")).unwrap(), content, "{name}");
            plugin.put(&id(name)).unwrap();
        }
        if let Some(name) = &refused {
            assert_eq!(shown(&*plugin, name), before, "{name} came in by half");
        }
        assert!(left_in(&state.join("staging")).is_empty());
        for name in made.iter().chain(&refused) {
            plugin.remove(&id(name)).unwrap();
        }
        assert!(left_in(&state.join("trash")).is_empty());
        patiently(|| fill(&*plugin, &half, "base", &large));
        assert_eq!(shown(&*plugin, "base"), before);
        stays_so(back_end, plugin, state, &half);
    });
}

/// What was removed makes room a little later where a file system takes its time (btrfs).
fn patiently<T>(verb: impl Fn() -> Result<T, Fault>) -> T {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match verb() {
            Err(fault) if fault.kind == FaultKind::Exhausted && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(200));
            }
            outcome => return outcome.unwrap(),
        }
    }
}

/// The next opening finds the same.
fn stays_so(back_end: BackEnd, plugin: Arc<dyn GraphPlugin>, state: &Path, name: &str) {
    let before = shown(&*plugin, name);
    drop(plugin);
    let plugin = back_end.graph(state).unwrap();
    plugin.init(&GraphInit::default()).unwrap();
    assert_eq!(shown(&*plugin, name), before);
    plugin.create_read_write(&layer("c", name)).unwrap();
    plugin.remove(&id("c")).unwrap();
    drop(plugin);
    assert!(
        mount::Mounts::read()
            .unwrap()
            .under(&state.join("mounts"))
            .next()
            .is_none()
    );
}
