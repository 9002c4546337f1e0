//! Docker's way: create, apply, get, diff, apply, remove.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use plugin_api::graph::{GraphInit, GraphPlugin};

use crate::Scene;
use crate::common::{BackEnd, archive, diff, file, folder, id, layer, left_in, link, picture};
use crate::cuts::{Ledger, Outcome};
use crate::disk::Disk;

pub(crate) struct Docker;

fn look(plugin: &dyn GraphPlugin, name: &str) -> Outcome {
    if !plugin.exists(&id(name)).unwrap() {
        return Outcome::Absent;
    }
    let dir = plugin.get(&id(name), "").unwrap();
    let tree = picture(&dir);
    plugin.put(&id(name)).unwrap();
    Outcome::Whole(tree)
}

/// One engine at work, and the ledger in which it is written down.
struct Engine<'a> {
    plugin: Arc<dyn GraphPlugin>,
    disk: &'a Disk,
    ledger: &'a mut Ledger,
}

impl Engine<'_> {
    fn image(&mut self, name: &str, parent: &str, bytes: &[u8]) {
        let (plugin, ledger) = (Arc::clone(&self.plugin), &mut *self.ledger);
        let seen = || look(&*plugin, name);
        let make = || plugin.create(&layer(name, parent)).map(drop).unwrap();
        ledger.say_and_look(self.disk, name, make, seen);
        let below = (!parent.is_empty()).then(|| id(parent));
        let fill = || {
            let filled = plugin.apply_diff(&id(name), below.as_ref(), &mut &bytes[..]);
            filled.map(drop).unwrap();
        };
        ledger.say_and_look(self.disk, name, fill, seen);
    }

    fn container(&mut self, name: &str, parent: &str) {
        let plugin = Arc::clone(&self.plugin);
        let make = || plugin.create_read_write(&layer(name, parent)).map(drop).unwrap();
        let seen = || look(&*plugin, name);
        self.ledger.say_and_look(self.disk, name, make, seen);
    }

    /// What a container writes is its own affair.
    fn writes(&mut self, name: &str, work: impl FnOnce(&Path)) {
        let dir = self.plugin.get(&id(name), "").unwrap();
        self.ledger.say(self.disk, name, || {
            work(&dir);
            Outcome::There
        });
    }

    fn remove(&mut self, name: &str) {
        let plugin = Arc::clone(&self.plugin);
        self.ledger.say(self.disk, name, || {
            plugin.remove(&id(name)).unwrap();
            Outcome::Absent
        });
    }
}

fn first_layer(round: usize) -> Vec<u8> {
    let large = "large ".repeat(30_000);
    let names: Vec<String> = (0..30).map(|n| format!("etc/file-{n}")).collect();
    let round = round.to_string();
    let mut entries = vec![folder("etc/"), folder("var/"), folder("var/log/")];
    entries.extend(names.iter().map(|name| file(name, &round)));
    entries.extend([file("var/large", &large), file("var/log/one", "1")]);
    entries.extend([
        link(b'1', "var/hard", "var/large"),
        link(b'2', "soft", "etc/file-1"),
    ]);
    archive(&entries)
}

fn second_layer() -> Vec<u8> {
    archive(&[
        file("etc/.wh.file-3", ""),
        file("etc/file-4", "changed"),
        folder("var/log/"),
        file("var/log/.wh..wh..opq", ""),
        file("var/log/two", "2"),
    ])
}

impl Scene for Docker {
    fn act(&self, back_end: BackEnd, state: &Path, disk: &Disk, ledger: &mut Ledger) {
        let plugin = back_end.graph(state).unwrap();
        plugin.init(&GraphInit::default()).unwrap();
        let mut engine = Engine { plugin, disk, ledger };
        for round in 0..3 {
            let [base, next, run, commit] = ["b", "n", "r", "c"].map(|name| format!("{name}{round}"));
            engine.image(&base, "", &first_layer(round));
            engine.image(&next, &base, &second_layer());
            engine.container(&run, &next);
            engine.writes(&run, |dir| {
                fs::write(dir.join("etc/new"), "by the container").unwrap();
                fs::remove_file(dir.join("etc/file-5")).unwrap();
            });
            let changes = diff(&*engine.plugin, &run, &next);
            engine.image(&commit, &next, &changes);
            engine.plugin.put(&id(&run)).unwrap();
            engine.remove(&run);
            if round == 1 {
                for name in [&commit, &next, &base] {
                    engine.remove(name);
                }
            }
        }
    }

    fn judge(&self, back_end: BackEnd, state: &Path, ledger: &Ledger, cut: usize) -> Result<(), String> {
        let plugin = back_end.graph(state).map_err(|fault| fault.sentence())?;
        plugin
            .init(&GraphInit::default())
            .map_err(|fault| fault.sentence())?;
        let mut there = 0;
        for name in ledger.names() {
            let found = look(&*plugin, name);
            there += usize::from(found != Outcome::Absent);
            ledger.check(name, cut, &found)?;
        }
        let layers = fs::read_dir(state.join("layers")).unwrap().count();
        if layers != there {
            return Err(format!("{layers} folders are kept for {there} layers"));
        }
        // Children have later letters than what they lie upon, but for the commits.
        for kind in ["r", "c", "n", "b"] {
            for name in ledger.names().iter().filter(|name| name.starts_with(kind)) {
                plugin.remove(&id(name)).map_err(|fault| fault.sentence())?;
            }
        }
        for folder in ["layers", "staging", "trash", "mounts", "views"] {
            let left = left_in(&state.join(folder));
            if !left.is_empty() {
                return Err(format!("left behind: {left:?}"));
            }
        }
        Ok(())
    }
}
