//! Chains as long as they may be, and what is said of longer ones.

use std::fs;

use plugin_api::FaultKind;
use plugin_api::graph::GraphInit;

use crate::common::{BackEnd, archive, file, fill, id, layer, mounted_below};

/// Image layers below one container. Overlay: with its own that is as much as the kernel stacks. Copies of
/// copies take time and have no end.
fn deep(back_end: BackEnd) -> usize {
    match back_end {
        BackEnd::Overlay | BackEnd::Btrfs => 499,
        BackEnd::Vfs => 60,
    }
}

pub(crate) fn the_longest_chain_is_shown_and_no_longer_one_is_promised(back_end: BackEnd) {
    let deep = deep(back_end);
    back_end.alone(|state| {
        let plugin = back_end.graph(state).unwrap();
        plugin.init(&GraphInit::default()).unwrap();
        let mut parent = String::new();
        for n in 0..deep {
            let name = format!("l{n}");
            let own = format!("f{n:03}");
            let bytes = archive(&[file(&own, "x"), file("newest", &own)]);
            fill(&*plugin, &name, &parent, &bytes).unwrap();
            parent = name;
        }
        plugin.create_read_write(&layer("c", &parent)).unwrap();
        let dir = plugin.get(&id("c"), "").unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), deep + 1);
        assert_eq!(
            fs::read_to_string(dir.join("newest")).unwrap(),
            format!("f{:03}", deep - 1)
        );
        fs::remove_file(dir.join("f000")).unwrap();
        fs::write(dir.join("f001"), "by the container").unwrap();
        plugin.put(&id("c")).unwrap();
        // What can be made can be mounted, and what cannot is refused before it is made.
        for n in deep..deep + 4 {
            let name = format!("l{n}");
            match plugin.create(&layer(&name, &parent)) {
                Ok(_) => {
                    let dir = plugin.get(&id(&name), "").unwrap();
                    assert!(dir.join("f002").exists());
                    plugin.put(&id(&name)).unwrap();
                    parent = name;
                }
                Err(fault) => {
                    assert_eq!(fault.kind, FaultKind::Unsupported, "{}", fault.sentence());
                    assert!(!plugin.exists(&id(&name)).unwrap());
                }
            }
        }
        assert_eq!(mounted_below(&state.join("mounts")), 0);
    });
}
