//! The real `longshore serve` in a world.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::World;
use super::command::{Out, Process, eventually};
use super::http::{Reply, call};

/// A running `longshore serve` with drivers that are all named `longshore`.
pub(crate) struct Longshore<'w> {
    world: &'w World,
    process: Option<Process>,
}

impl<'w> Longshore<'w> {
    /// Writes a configuration of `kinds` of drivers and starts; returns when the socket answers.
    pub(crate) fn start(world: &'w World, kinds: &[&str]) -> Self {
        configure(world, kinds);
        let mut longshore = Self { world, process: None };
        longshore.again();
        longshore
    }

    /// The socket on which all its drivers answer.
    pub(crate) fn socket(&self) -> PathBuf {
        self.world.plugins().join("longshore.sock")
    }

    /// Starts it again, after it was stopped or killed.
    pub(crate) fn again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        self.process = Some(spawn(self.world));
        let socket = self.socket();
        eventually("longshore answers", || {
            let process = self.process.as_mut().expect("it was just started");
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}\n{}", process.log());
            // Not `Plugin.Activate`: that says that a new engine has come.
            let reply = call(&socket, "Hello", "").ok()?;
            (reply.status == 404).then_some(())
        });
    }

    /// Stops it with SIGTERM; anything but a clean end fails the test.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let process = self.process.take().expect("it runs");
        let status = process.stop();
        assert!(status.success(), "longshore ended with {status}");
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Says a verb on a new connection.
    #[track_caller]
    pub(crate) fn call(&self, verb: &str, body: &serde_json::Value) -> Reply {
        call(&self.socket(), verb, &body.to_string()).unwrap()
    }
}

/// Each kind of driver and the one that serves it.
const DRIVERS: [(&str, &str); 5] = [
    ("graph", "overlay"),
    ("network", "bridge"),
    ("ipam", "local"),
    ("volume", "local"),
    ("snapshot", "overlay"),
];

/// Every kind of driver of a Docker plugin.
pub(crate) const ALL: [&str; 4] = ["graph", "network", "ipam", "volume"];

/// Writes `longshore.toml` with a driver named `longshore` of each of `kinds`.
pub(crate) fn configure(world: &World, kinds: &[&str]) {
    let (state, sockets) = (world.text("state"), world.plugins());
    let mut text = format!(
        "log = \"info,plugin_api=debug\"\nstate = {state:?}\nruntime = {:?}\nsockets = \"{}\"\nsnapshots = {:?}\n",
        world.text("runtime"),
        sockets.display(),
        world.text("snapshots")
    );
    for (kind, driver) in DRIVERS.iter().filter(|(kind, _)| kinds.contains(kind)) {
        let _ = writeln!(text, "\n[{kind}.longshore]\ndriver = {driver:?}");
        if *kind == "snapshot" {
            let _ = writeln!(text, "containerd = {:?}", world.text("containerd.sock"));
        }
    }
    fs::write(world.path("longshore.toml"), text).unwrap();
}

/// The words of `longshore serve`.
pub(crate) fn words(config: &str) -> [&str; 4] {
    [env!("CARGO_BIN_EXE_longshore"), "serve", "--config", config]
}

/// Starts `longshore serve` and does not wait for it.
fn spawn(world: &World) -> Process {
    let config = world.text("longshore.toml");
    world.start(&words(&config), &[], "longshore.log")
}

/// Runs `longshore serve` to its end, for starts that must be refused.
pub(crate) fn run(world: &World) -> Out {
    let config = world.text("longshore.toml");
    world.run(&words(&config))
}
