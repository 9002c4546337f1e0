//! An engine and longshore beside it, in a world.

use serde_json::json;

use crate::world::{Containerd, Dockerd, Longshore, World, eventually};

/// What every container of these tests is started with: gone at once when told to stop.
pub(crate) const RUN: [&str; 4] = ["run", "-d", "--stop-signal", "KILL"];

/// The length of a container's life, if nobody ends it.
pub(crate) const LONG: [&str; 3] = ["box:1", "sleep", "100000"];

/// The kinds of drivers that a network needs.
pub(crate) const NET: [&str; 2] = ["network", "ipam"];

/// An engine and longshore beside it.
pub(crate) struct Ship<'w> {
    pub(crate) world: &'w World,
    pub(crate) longshore: Longshore<'w>,
    /// The one below the engine, where it is not the engine's own.
    pub(crate) containerd: Option<Containerd<'w>>,
    pub(crate) docker: Dockerd<'w>,
}

impl<'w> Ship<'w> {
    /// Starts both; what is there when neither has been asked for anything may stay.
    pub(crate) fn launch(world: &'w World, kinds: &[&str], storage: &'static str) -> Self {
        let longshore = Longshore::start(world, kinds);
        let docker = Dockerd::start(world, storage);
        world.remember();
        docker.import();
        Self {
            world,
            longshore,
            containerd: None,
            docker,
        }
    }

    /// Starts both upon a containerd that keeps its images in our snapshots.
    pub(crate) fn launch_on_containerd(world: &'w World, kinds: &[&str]) -> Self {
        let longshore = Longshore::start(world, kinds);
        let containerd = Containerd::start(world, &world.path("snapshots/longshore.sock"));
        let docker = Dockerd::start_on(world, &containerd);
        world.remember();
        docker.import();
        Self {
            world,
            longshore,
            containerd: Some(containerd),
            docker,
        }
    }

    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.docker.ok(words)
    }

    /// Runs a container in the background.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.ok(&[&RUN[..], words].concat())
    }

    /// Runs a command in a running container.
    #[track_caller]
    pub(crate) fn exec(&self, container: &str, words: &[&str]) -> String {
        self.ok(&[&["exec", container], words].concat())
    }

    #[track_caller]
    pub(crate) fn make_network(&self, name: &str, subnet: &str) {
        let mut words = vec!["network", "create", "-d", "longshore", "--subnet", subnet];
        words.extend(["--ipam-driver", "longshore", name]);
        self.ok(&words);
    }

    #[track_caller]
    pub(crate) fn make_volume(&self, name: &str) {
        self.ok(&["volume", "create", "-d", "longshore", name]);
    }

    /// One ping by name, through the engine's DNS.
    #[track_caller]
    pub(crate) fn ping(&self, from: &str, to: &str) {
        self.exec(from, &["ping", "-c", "1", "-w", "5", to]);
    }

    /// What the published port gives the neighbour and the host itself.
    #[track_caller]
    pub(crate) fn fetch(&self, port: u16, file: &str) -> String {
        let from_outside = eventually("the neighbour reaches the published port", || {
            self.world.fetch_outside(port, file)
        });
        let from_inside = self.world.fetch(port, file);
        assert_eq!(from_inside.as_ref(), Some(&from_outside), "on the host itself");
        from_outside
    }

    pub(crate) fn is_running(&self, container: &str) -> bool {
        let words = ["inspect", "-f", "{{.State.Running}}", container];
        self.docker.docker(&words).ok() == "true"
    }

    /// How many holds the volume driver counts, by trying to remove behind the engine's back.
    pub(crate) fn removal_refused(&self, volume: &str) -> String {
        let name = json!({ "Name": volume });
        self.longshore.call("VolumeDriver.Remove", &name).refusal()
    }

    /// Nothing is left but what was there at the start, and both end cleanly.
    #[track_caller]
    pub(crate) fn arrive(mut self) {
        self.ok(&["rmi", "-f", "box:1"]);
        self.world.assert_nothing_left();
        self.docker.stop();
        if let Some(mut containerd) = self.containerd.take() {
            containerd.stop();
        }
        self.longshore.stop();
        self.world.assert_nothing_left();
    }
}
