//! Servers to measure: ours with every driver, and the peer.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::client::{Client, request};
use crate::ground::{has, program};

/// The name of the peer.
pub(crate) const PEER: &str = "python http.server";

/// A server that answers on all its sockets.
pub(crate) struct Server {
    child: Child,
    home: tempfile::TempDir,
    /// What ends with the boot; in memory, where users have it.
    _runtime: Option<tempfile::TempDir>,
    /// From before the start to the first answer on every socket.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Ours, with every driver that can run on any machine.
    pub(crate) fn ours(longshore: &Path) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let runtime = tempfile::tempdir_in("/dev/shm").context("make a folder in memory")?;
        let config = home.path().join("longshore.toml");
        let (state, sockets) = (home.path().join("state"), home.path().join("sockets"));
        for folder in [&state, &sockets] {
            std::fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let text = format!(
            "state = \"{}\"\nruntime = \"{}\"\nsockets = \"{}\"\n[graph.layers]\ndriver = \"overlay\"\n\
             [network.net]\ndriver = \"bridge\"\n[ipam.net]\ndriver = \"local\"\n[volume.vol]\ndriver = \"local\"\n",
            state.display(),
            runtime.path().display(),
            sockets.display()
        );
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let sockets = ["layers", "net", "vol"].map(|name| sockets.join(format!("{name}.sock")));
        let mut command = program(longshore);
        command.arg("serve").arg("--config").arg(config);
        Self::start(command, (home, Some(runtime)), &sockets)
    }

    /// Ours, with both doors to layers, its state in a folder that is told, and blobs from a containerd.
    pub(crate) fn layers(longshore: &Path, state: &Path, containerd: Option<&Path>) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let runtime = tempfile::tempdir_in("/dev/shm").context("make a folder in memory")?;
        let config = home.path().join("longshore.toml");
        let (sockets, snapshots) = (home.path().join("sockets"), home.path().join("snapshots"));
        for folder in [&sockets, &snapshots] {
            std::fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let text = format!(
            "state = \"{}\"\nruntime = \"{}\"\nsockets = \"{}\"\nsnapshots = \"{}\"\n\
             [graph.layers]\ndriver = \"overlay\"\n[snapshot.snapshots]\ndriver = \"overlay\"\n",
            state.display(),
            runtime.path().display(),
            sockets.display(),
            snapshots.display()
        );
        let containerd = containerd.map(|path| format!("containerd = \"{}\"\n", path.display()));
        let text = text + containerd.as_deref().unwrap_or_default();
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let sockets = [sockets.join("layers.sock")];
        let mut command = program(longshore);
        command.arg("serve").arg("--config").arg(config);
        Self::start(command, (home, Some(runtime)), &sockets)
    }

    /// The peer, if the machine has one.
    pub(crate) fn peer() -> Result<Option<Self>> {
        if !has("python3") {
            return Ok(None);
        }
        let home = tempfile::tempdir().context("make a folder")?;
        let script = home.path().join("peer.py");
        std::fs::write(&script, include_str!("peer.py")).context("write the peer")?;
        std::fs::create_dir(home.path().join("sockets")).context("make the peer's folder")?;
        let socket = home.path().join("sockets/vol.sock");
        let mut command = program("python3");
        command.arg(script).arg(&socket);
        Self::start(command, (home, None), &[socket]).map(Some)
    }

    fn start(
        mut command: Command,
        (home, runtime): (tempfile::TempDir, Option<tempfile::TempDir>),
        sockets: &[PathBuf],
    ) -> Result<Self> {
        let log = std::fs::File::create(home.path().join("log")).context("make the log")?;
        let start = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let mut server = Self {
            child,
            home,
            _runtime: runtime,
            started_in: Duration::ZERO,
        };
        let activate = request("Plugin.Activate", "");
        for socket in sockets {
            while !Client::connect(socket).is_ok_and(|mut client| client.call(&activate).is_ok()) {
                if server.child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
                    let log = std::fs::read_to_string(server.home.path().join("log")).unwrap_or_default();
                    bail!("{} does not answer: {log}", socket.display());
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        server.started_in = start.elapsed();
        Ok(server)
    }

    /// The socket of volumes.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.home.path().join("sockets/vol.sock")
    }

    /// The socket of networks, of ours.
    pub(crate) fn networks(&self) -> PathBuf {
        self.home.path().join("sockets/net.sock")
    }

    /// The socket of layers, of ours.
    pub(crate) fn graph(&self) -> PathBuf {
        self.home.path().join("sockets/layers.sock")
    }

    /// The socket of snapshots, of ours.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.home.path().join("snapshots/snapshots.sock")
    }

    /// Resident memory in megabytes.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        self.status_mb("VmRSS:")
    }

    /// The most resident memory since the start, or since it was forgotten.
    pub(crate) fn peak_mb(&self) -> Result<f64> {
        self.status_mb("VmHWM:")
    }

    /// Lets the peak of memory begin anew.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(&file, "5").with_context(|| format!("write {file}"))
    }

    fn status_mb(&self, key: &str) -> Result<f64> {
        let file = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let line = line.with_context(|| format!("no {key} in {file}"))?;
        let kilobytes: f64 = line
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .with_context(|| format!("read {key} of {file}"))?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Everything it made is in our own namespaces and in a folder that goes with us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
