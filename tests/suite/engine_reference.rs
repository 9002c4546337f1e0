//! The reference engine, which knows the drivers through their sockets alone.

use std::path::{Path, PathBuf};

use crate::requires;
use crate::world::{ALL, Longshore, World, busybox, eventually};

/// The reference engine with a state folder of its own.
struct Engine<'w> {
    world: &'w World,
    program: PathBuf,
}

impl<'w> Engine<'w> {
    fn new(world: &'w World) -> Self {
        let beside = Path::new(env!("CARGO_BIN_EXE_longshore"));
        let program = beside.with_file_name("longshore-engine");
        Self { world, program }
    }

    /// Runs the engine, which must succeed, and gives what it printed.
    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let root = self.world.text("engine");
        let mut all = vec![self.program.to_str().unwrap(), "--root", &root];
        all.extend(["--runtime", "runc"]);
        all.extend(words);
        self.world.run(&all).ok()
    }

    /// Runs a container in the background.
    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        self.ok(&[&["run", "-d"], words].concat())
    }
}

#[test]
fn the_reference_engine_makes_the_voyage_too() {
    requires!("longshore-engine", "runc", "busybox");
    let world = World::new("reference");
    let mut longshore = Longshore::start(&world, &ALL);
    let engine = Engine::new(&world);
    world.remember();
    engine.ok(&["image", "import", &busybox(&world), "box:1"]);
    engine.ok(&["network", "create", "--subnet", "10.77.0.0/24", "sea"]);
    engine.ok(&["volume", "create", "hold"]);
    let web = [
        "--name",
        "web",
        "--network",
        "sea",
        "-p",
        "8080:80",
        "-v",
        "hold:/data",
    ];
    engine.run(&[&web[..], &["box:1", "httpd", "-f", "-p", "80", "-h", "/data"]].concat());
    let sailor = ["--name", "sailor", "--network", "sea", "-v", "hold:/data"];
    engine.run(&[&sailor[..], &["box:1", "sleep", "100000"]].concat());

    let exec = |words: &[&str]| engine.ok(&[&["exec", "sailor"], words].concat());
    exec(&["ping", "-c", "1", "-w", "5", "web"]);
    exec(&["ping", "-c", "1", "-w", "5", "192.0.2.2"]);
    exec(&[
        "sh",
        "-c",
        "echo cargo > /data/cargo; echo ashore > /etc/motd; rm /etc/passwd",
    ]);
    let fetched = eventually("the neighbour reaches the port", || {
        world.fetch_outside(8080, "cargo")
    });
    assert_eq!(fetched, "cargo");
    assert_eq!(world.fetch(8080, "cargo").as_deref(), Some("cargo"));

    let diff = engine.ok(&["diff", "sailor"]);
    for line in ["C /etc/motd", "D /etc/passwd"] {
        assert!(diff.contains(line), "{line:?} is not in {diff}");
    }
    engine.ok(&["commit", "sailor", "box:2"]);
    let show = "cat /etc/motd; test -e /etc/passwd || echo no passwd";
    let words = ["run", "--rm", "--network", "none", "box:2", "sh", "-c", show];
    assert_eq!(engine.ok(&words), "ashore\nno passwd");

    longshore.kill();
    assert_eq!(
        world.fetch(8080, "cargo").as_deref(),
        Some("cargo"),
        "while longshore is away"
    );
    longshore.again();
    exec(&["ping", "-c", "1", "-w", "5", "web"]);

    engine.ok(&["rm", "-f", "web", "sailor"]);
    engine.ok(&["volume", "rm", "hold"]);
    engine.ok(&["network", "rm", "sea"]);
    engine.ok(&["image", "rm", "box:2", "box:1"]);
    world.assert_nothing_left();
    longshore.stop();
}
