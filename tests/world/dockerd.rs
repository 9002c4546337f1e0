//! A private dockerd in a world.

use super::command::{Out, Process, eventually};
use super::{Containerd, World};

/// A running dockerd with its own folders and socket, and a command line to it.
pub(crate) struct Dockerd<'w> {
    world: &'w World,
    storage: &'static str,
    more: Vec<String>,
    process: Option<Process>,
}

impl<'w> Dockerd<'w> {
    /// Starts it with a storage driver; returns when it answers.
    pub(crate) fn start(world: &'w World, storage: &'static str) -> Self {
        Self::start_with(world, storage, &[])
    }

    /// Starts it with more options.
    pub(crate) fn start_with(world: &'w World, storage: &'static str, more: &[&str]) -> Self {
        let mut dockerd = Self {
            world,
            storage,
            more: more.iter().map(ToString::to_string).collect(),
            process: None,
        };
        dockerd.again();
        dockerd
    }

    /// Starts it on a containerd whose image store it then uses, with `longshore` as its snapshotter.
    pub(crate) fn start_on(world: &'w World, containerd: &Containerd<'_>) -> Self {
        let address = containerd.address();
        let store = ["--feature", "containerd-snapshotter=true"];
        let more = [&store[..], &["--containerd", &address]].concat();
        Self::start_with(world, "longshore", &more)
    }

    /// Starts it again with the same folders, after it was stopped or killed.
    #[track_caller]
    pub(crate) fn again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let world = self.world;
        let [data, exec, pid] = ["data", "exec", "docker.pid"].map(|name| world.text(name));
        let (host, cgroup) = (self.host(), world.cgroup());
        let mut words = vec!["dockerd", "--experimental", "--data-root", &data];
        words.extend(["--exec-root", &exec, "--pidfile", &pid, "-H", &host]);
        words.extend(["--cgroup-parent", &cgroup, "--storage-driver", self.storage]);
        words.extend(["--bridge=none", "--iptables=false", "--shutdown-timeout=5"]);
        words.extend(["--log-level", "warn"]);
        words.extend(self.more.iter().map(String::as_str));
        self.process = Some(world.start(&words, &[], "dockerd.log"));
        eventually("dockerd answers", || {
            let process = self.process.as_mut().expect("it was just started");
            let ended = process.ended();
            assert!(ended.is_none(), "{ended:?}\n{}", process.log());
            let out = self.docker(&["version", "--format", "{{.Server.Version}}"]);
            out.succeeded().then_some(())
        });
    }

    fn host(&self) -> String {
        format!("unix://{}", self.world.text("docker.sock"))
    }

    /// Runs `docker …` against it.
    pub(crate) fn docker(&self, words: &[&str]) -> Out {
        let (host, config) = (self.host(), self.world.text("docker-config"));
        let mut all = vec![client(), "-H", &host];
        all.extend(words);
        // The other builder is a plugin of the client.
        let envs = [("DOCKER_CONFIG", config.as_str()), ("DOCKER_BUILDKIT", "0")];
        self.world.run_with(&all, &envs)
    }

    /// Runs `docker …`, which must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.docker(words).ok()
    }

    /// Imports the image of [`busybox`](super::busybox) as `box:1`.
    pub(crate) fn import(&self) {
        let file = super::busybox(self.world);
        self.ok(&["import", &file, "box:1"]);
    }

    /// Stops it with SIGTERM.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let process = self.process.take().expect("it runs");
        let status = process.stop();
        assert!(status.success(), "dockerd ended with {status}");
    }

    /// Ends it as a crash would.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }
}

/// The distribution's own command line, which is as old as its dockerd, before any other.
fn client() -> &'static str {
    let own = "/usr/bin/docker";
    if std::path::Path::new(own).exists() {
        own
    } else {
        "docker"
    }
}
