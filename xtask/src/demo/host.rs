//! A simulated host: a network namespace, a folder, and longshore serving in it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::signal::Interrupt;
use crate::run;

/// The names of longshore's sockets on every host.
const SOCKETS: [&str; 3] = ["layers", "net", "vol"];
/// Longest that one command of the engine may take.
const LIMIT: &str = "60";

/// One host. Give each another `number`, and they share the same sea.
pub(super) struct Host {
    pub(super) name: String,
    number: u8,
    home: PathBuf,
    programs: PathBuf,
    server: Option<Child>,
}

impl Host {
    /// Makes the namespace, wires it to the bridge `sea`, and makes the folders.
    pub(super) fn make(number: u8, home: &Path, programs: &Path, sea: &str) -> Result<Self> {
        let name = format!("harbour{number}");
        let host = Self {
            number,
            home: home.join(&name),
            programs: programs.to_owned(),
            name,
            server: None,
        };
        for folder in ["state", "sockets", "engine"] {
            std::fs::create_dir_all(host.home.join(folder)).with_context(|| format!("make {folder}"))?;
        }
        let (outer, address) = (format!("port{number}"), format!("{}/24", host.address()));
        ip(&["netns", "add", &host.name])?;
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", "uplink", "netns", &host.name,
        ])?;
        ip(&["link", "set", &outer, "master", sea, "up"])?;
        ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
        ip(&["-n", &host.name, "link", "set", "uplink", "up"])?;
        ip(&["-n", &host.name, "address", "add", &address, "dev", "uplink"])?;
        Ok(host)
    }

    /// The host's address as seen from the sea.
    pub(super) fn address(&self) -> String {
        format!("198.51.100.{}", u16::from(self.number) + 10)
    }

    /// Where the host's own things lie.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command inside the host's network namespace, deaf to the terminal's Ctrl-C.
    pub(super) fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = run::program("nsenter");
        command
            .arg(format!("--net={}", self.netns().display()))
            .arg(program);
        command.process_group(0);
        command
    }

    /// Starts longshore with every driver and waits until all sockets answer.
    pub(super) fn serve(&mut self, interrupt: &Interrupt) -> Result<()> {
        let config = self.home.join("longshore.toml");
        let text = format!(
            "state = \"{0}/state\"\nruntime = \"{0}/runtime\"\nsockets = \"{0}/sockets\"\n\n[graph.layers]\ndriver = \"overlay\"\n\n\
             [network.net]\ndriver = \"bridge\"\n\n[ipam.net]\ndriver = \"local\"\n\n[volume.vol]\ndriver = \"local\"\n",
            self.home.display()
        );
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let log = std::fs::File::create(self.home.join("longshore.log")).context("make longshore's log")?;
        let mut command = self.inside(self.programs.join("longshore"));
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null());
        let child = command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start longshore")?;
        self.server = Some(child);
        let start = Instant::now();
        while !SOCKETS
            .iter()
            .all(|name| answers(&self.home.join("sockets").join(format!("{name}.sock"))))
        {
            interrupt.check()?;
            let ended = self
                .server
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || start.elapsed() > Duration::from_secs(20) {
                bail!("longshore does not answer:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What longshore has logged.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("longshore.log")).unwrap_or_default()
    }

    /// One command of the engine; its words are those of docker.
    pub(super) fn engine(&self, words: &[&str]) -> Result<String> {
        let mut command = run::program("timeout");
        command
            .args(["--kill-after=5", LIMIT])
            .arg(self.programs.join("longshore-engine"));
        command.arg("--root").arg(self.home.join("engine"));
        command.arg("--plugins").arg(self.home.join("sockets"));
        command
            .arg("--netns")
            .arg(self.netns())
            .args(["--graph", "layers", "--volume-driver", "vol"]);
        command.process_group(0);
        run::read(command.args(words)).with_context(|| format!("engine {}", words.join(" ")))
    }

    /// Asks longshore to end and waits for it.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.server.take() else {
            return Ok(());
        };
        run::read_words("kill", &["-TERM", &child.id().to_string()])?;
        let start = Instant::now();
        while child.try_wait().context("wait for longshore")?.is_none() {
            if start.elapsed() > Duration::from_secs(20) {
                child.kill().context("kill longshore")?;
                child.wait().context("wait for longshore")?;
                bail!("longshore did not end on SIGTERM");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Removes the host's namespace, and with it its wire.
    pub(super) fn remove(&self) -> Result<()> {
        ip(&["netns", "delete", &self.name])
    }
}

/// One command of iproute2.
pub(super) fn ip(words: &[&str]) -> Result<()> {
    run::read_words("ip", words).map(drop)
}

fn answers(socket: &Path) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut start = [0; 12];
    stream
        .write_all(b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")
        .is_ok()
        && stream.read_exact(&mut start).is_ok()
        && start.ends_with(b"200")
}
