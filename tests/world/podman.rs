//! Podman with folders of its own in a world.

use std::fs;

use super::World;
use super::command::Out;

/// Podman without a daemon: every call is a process of its own.
pub(crate) struct Podman<'w> {
    world: &'w World,
}

impl<'w> Podman<'w> {
    /// Writes a `containers.conf` that knows the volume plug-in `longshore`.
    pub(crate) fn new(world: &'w World) -> Self {
        let socket = world.plugins().join("longshore.sock");
        let text = format!(
            "[engine]\nvolume_plugin_timeout = 20\n\
             [engine.volume_plugins]\nlongshore = \"{}\"\n",
            socket.display()
        );
        fs::write(world.path("containers.conf"), text).unwrap();
        Self { world }
    }

    /// Runs `podman …`.
    pub(crate) fn podman(&self, words: &[&str]) -> Out {
        let world = self.world;
        let [root, run, tmp] = ["podman/root", "podman/run", "podman/tmp"].map(|x| world.text(x));
        let config = world.text("containers.conf");
        let mut all = vec!["podman", "--root", &root, "--runroot", &run, "--tmpdir", &tmp];
        all.extend(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]);
        // crun 1.8 refuses the mix of both kinds of control groups that some machines have.
        all.extend(["--events-backend", "none", "--runtime", "runc"]);
        all.extend(words);
        world.run_with(&all, &[("CONTAINERS_CONF", &config)])
    }

    /// Runs `podman …`, which must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.podman(words).ok()
    }

    /// Imports the image of [`busybox`](super::busybox) as `box:1`.
    pub(crate) fn import(&self) {
        let file = super::busybox(self.world);
        self.ok(&["import", &file, "box:1"]);
    }

    /// `podman run` with what this version needs in a world.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let cgroup = format!("--cgroup-parent={}", self.world.cgroup());
        let mut all = vec!["run", "--network", "none", &cgroup];
        // Its defaults are higher than a container may ask for.
        all.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        all.extend(words);
        self.ok(&all)
    }
}
