//! Verbs of Docker's graph plugin over the overlay driver.

use std::collections::BTreeMap;

use plugin_api::Fault;
use plugin_api::graph::{GraphInit, GraphPlugin, NewLayer};
use plugin_api::id::LayerId;

use crate::ground::Ground;
use crate::sweep::sweep;

const DRIVERS: &str = "[graph.crash]\ndriver = \"overlay\"\n";

fn id(digits: &str) -> LayerId {
    LayerId::new(digits.repeat(16)).unwrap()
}

fn layer(name: &str, parent: Option<&str>) -> NewLayer {
    NewLayer {
        id: id(name),
        parent: parent.map(id),
        mount_label: String::new(),
        options: BTreeMap::new(),
    }
}

/// A start of the engine.
fn init(ground: &Ground) -> Result<(), Fault> {
    let init = GraphInit {
        home: ground.path("home"),
        ..Default::default()
    };
    ground.client()?.graph().init(&init)?;
    Ok(())
}

fn base(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.graph().create(&layer("ba5e", None))?;
    assert!(ground.client()?.graph().exists(&id("ba5e"))?);
    Ok(())
}

fn fill(ground: &Ground) -> Result<(), Fault> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, text: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, path, text).unwrap();
    };
    add("etc/", tar::EntryType::Directory, b"");
    add("etc/motd", tar::EntryType::Regular, b"welcome");
    add("etc/issue", tar::EntryType::Regular, b"longshore");
    let bytes = archive.into_inner().unwrap();
    let graph = ground.client()?.graph();
    let size = graph.apply_diff(&id("ba5e"), None, &mut bytes.as_slice())?;
    assert_eq!(size, 16);
    let mut tar = Vec::new();
    graph.diff(&id("ba5e"), None, &mut tar)?;
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut names: Vec<String> = archive.entries().unwrap().map(name_of).collect();
    names.sort();
    assert_eq!(names, ["etc", "etc/issue", "etc/motd"]);
    Ok(())
}

fn name_of(entry: std::io::Result<tar::Entry<'_, &[u8]>>) -> String {
    let entry = entry.unwrap();
    let path = entry.path().unwrap();
    let text = path.to_str().unwrap();
    text.trim_start_matches("./").trim_end_matches('/').to_owned()
}

fn next(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.graph().create(&layer("1a7e", Some("ba5e")))?;
    Ok(())
}

fn container(ground: &Ground) -> Result<(), Fault> {
    let container = layer("c0de", Some("ba5e"));
    ground.client()?.graph().create_read_write(&container)?;
    Ok(())
}

fn get(ground: &Ground) -> Result<(), Fault> {
    let path = ground.client()?.graph().get(&id("c0de"), "")?;
    let motd = ground.seen(&path.join("etc/motd"));
    assert_eq!(std::fs::read_to_string(motd).unwrap(), "welcome");
    Ok(())
}

/// As often as it takes: a get whose answer was lost may count or not.
fn put(ground: &Ground) -> Result<(), Fault> {
    for _ in 0..3 {
        ground.client()?.graph().put(&id("c0de"))?;
    }
    Ok(())
}

fn remove(ground: &Ground, name: &str) -> Result<(), Fault> {
    ground.client()?.graph().remove(&id(name))?;
    assert!(!ground.client()?.graph().exists(&id(name))?);
    Ok(())
}

fn no_base(ground: &Ground) -> Result<(), Fault> {
    remove(ground, "ba5e")
}

fn no_next(ground: &Ground) -> Result<(), Fault> {
    remove(ground, "1a7e")
}

fn no_container(ground: &Ground) -> Result<(), Fault> {
    remove(ground, "c0de")
}

fn cleanup(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.graph().cleanup()?;
    Ok(())
}

sweep!(beginning_again: DRIVERS, [init, base, fill, container, get], init, [put, no_container, no_base]);
sweep!(creating: DRIVERS, [init], base, [no_base]);
sweep!(filling: DRIVERS, [init, base], fill, [no_base]);
sweep!(creating_the_next: DRIVERS, [init, base, fill], next, [no_next, no_base]);
sweep!(creating_for_a_container: DRIVERS, [init, base, fill], container, [no_container, no_base]);
sweep!(getting: DRIVERS, [init, base, fill, container], get, [put, no_container, no_base]);
sweep!(getting_again: DRIVERS, [init, base, fill, container, get], get, [put, no_container, no_base]);
sweep!(putting: DRIVERS, [init, base, fill, container, get], put, [no_container, no_base]);
sweep!(removing: DRIVERS, [init, base, fill, container], no_container, [no_base]);
sweep!(removing_an_image: DRIVERS, [init, base, fill], no_base, []);
sweep!(cleaning_up: DRIVERS, [init, base, fill, container, get], cleanup, [init, put, no_container, no_base]);
