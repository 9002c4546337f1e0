//! What is in a world: mounts, links, nftables objects, namespaces, processes, directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::World;

/// Everything in a world that drivers and engines may leave behind, one line each.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    lines: BTreeSet<String>,
}

impl Leftovers {
    /// Looks at everything.
    pub(crate) fn of(world: &World) -> Self {
        let mut lines = BTreeSet::new();
        mounts(world, &mut lines);
        let text = world.run(&["ip", "-oneline", "link"]).ok();
        lines.extend(text.lines().map(|line| format!("link {}", link(line))));
        let rules = world.run(&["nft", "--stateless", "list", "ruleset"]).ok();
        lines.extend(tables(&rules));
        // The engine's own namespaces are seen as mounts; it removes their empty files when it likes.
        names("namespace", &world.inside("/run/netns"), &mut lines);
        tree(&world.path("state"), &mut lines);
        tree(&world.path("data/longshore"), &mut lines);
        let programs = world.run(&["ps", "-eo", "comm="]).ok();
        let ours = ["ps", "timeout"];
        let programs = programs.lines().filter(|name| !ours.contains(name));
        lines.extend(programs.map(|name| format!("process {name}")));
        Self { lines }
    }

    /// The lines that `before` has not.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

/// `7: veth1@if6: <BROADCAST…` becomes the name of the link.
fn link(line: &str) -> &str {
    line.split(": ").nth(1).unwrap_or(line)
}

/// Mount points, without what engines keep for themselves: a data folder bound on itself.
fn mounts(world: &World, lines: &mut BTreeSet<String>) {
    let path = format!("/proc/{}/mountinfo", world.first());
    let engines = [world.text("data"), world.text("podman/root/overlay")];
    for line in fs::read_to_string(path).unwrap().lines() {
        let point = line.split(' ').nth(4).expect("mountinfo has five fields");
        if !engines.iter().any(|own| own == point) {
            lines.insert(format!("mount {point}"));
        }
    }
}

/// Lines of a ruleset, each with its table and chain; tables of iptables, which engines own, left out.
fn tables(rules: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut table = "";
    for line in rules.lines() {
        if line.starts_with("table ") {
            table = line.trim_end_matches(" {");
        }
        let engines = ["filter", "nat", "mangle", "raw"];
        let own = table.rsplit(' ').next().unwrap_or_default();
        if !engines.contains(&own) && line != "}" && !line.trim().is_empty() {
            lines.push(format!("nft {table}: {}", line.trim()));
        }
    }
    lines
}

fn names(what: &str, dir: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        lines.insert(format!("{what} {}", entry.path().display()));
    }
}

/// Every file and folder below, for records are one file and data is none.
fn tree(dir: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        lines.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), lines);
        }
    }
}
