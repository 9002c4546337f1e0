//! Engines of others, as peers: Debian's dockerd and containerd.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ground::{Daemon, has, program, run};

/// A piece of a body that is sent.
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// The whole file.
    File(&'a Path),
}

fn length(pieces: &[Piece<'_>]) -> Result<u64> {
    let mut sum = 0;
    for piece in pieces {
        sum += match piece {
            Piece::Bytes(bytes) => bytes.len().try_into().context("a length")?,
            Piece::File(path) => fs::metadata(path)
                .with_context(|| format!("look at {}", path.display()))?
                .len(),
        };
    }
    Ok(sum)
}

/// One HTTP request on a connection of its own, answered with a success whose body is given.
pub(crate) fn ask(socket: &Path, method: &str, uri: &str, kind: &str, body: &[Piece<'_>]) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    let head = format!(
        "{method} {uri} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        length(body)?
    );
    let what = || format!("{method} {uri}");
    stream.write_all(head.as_bytes()).with_context(what)?;
    for piece in body {
        match piece {
            Piece::Bytes(bytes) => stream.write_all(bytes).with_context(what)?,
            Piece::File(path) => {
                let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
                io::copy(&mut file, &mut stream).with_context(what)?;
            }
        }
    }
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).with_context(what)?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").context("a reply without a head")?;
    let code = head.split(' ').nth(1).unwrap_or_default();
    ensure!(code.starts_with('2'), "{method} {uri}: {reply}");
    Ok(body.to_owned())
}

/// A dockerd with its layers below a folder and no network of its own unless it is told.
pub(crate) struct Dockerd {
    socket: PathBuf,
    _daemon: Daemon,
    _home: tempfile::TempDir,
}

impl Dockerd {
    /// What its rows name it.
    pub(crate) const NAME: &'static str = "dockerd (Debian), overlay2, not synced";

    pub(crate) fn is_there() -> bool {
        has("dockerd")
    }

    pub(crate) fn start(root: &Path, more: &[&str]) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let socket = home.path().join("docker.sock");
        let mut command = program("dockerd");
        command.arg("--data-root").arg(root.join("docker"));
        command.arg("--exec-root").arg(home.path().join("exec"));
        command.arg("--pidfile").arg(home.path().join("pid"));
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        command.args(["--storage-driver", "overlay2", "--log-level", "warn"]);
        command.args(more);
        let answers = || ask(&socket, "GET", "/_ping", "text/plain", &[]).is_ok();
        let daemon = Daemon::start(&mut command, &home.path().join("log"), answers)?;
        Ok(Self {
            socket,
            _daemon: daemon,
            _home: home,
        })
    }

    pub(crate) fn ask(&self, method: &str, uri: &str, kind: &str, body: &[Piece<'_>]) -> Result<String> {
        ask(&self.socket, method, uri, kind, body)
    }

    /// A request with JSON, or with none; the answer's JSON, which may be none.
    pub(crate) fn json(&self, method: &str, uri: &str, body: &Value) -> Result<Value> {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.ask(method, uri, "application/json", &[Piece::Bytes(text.as_bytes())])?;
        Ok(serde_json::from_str(&reply).unwrap_or(Value::Null))
    }
}

/// A containerd with its state below a folder.
pub(crate) struct Containerd {
    socket: PathBuf,
    _daemon: Daemon,
    _home: tempfile::TempDir,
}

impl Containerd {
    pub(crate) fn is_there() -> bool {
        has("containerd") && has("ctr")
    }

    pub(crate) fn start(root: &Path) -> Result<Self> {
        let home = tempfile::tempdir().context("make a folder")?;
        let socket = home.path().join("containerd.sock");
        let text = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n",
            root.join("containerd").display(),
            home.path().join("state").display(),
            socket = socket.display()
        );
        let config = home.path().join("config.toml");
        fs::write(&config, text).context("write containerd's configuration")?;
        let mut command = program("containerd");
        command.arg("--config").arg(&config);
        let asked = || {
            let mut command = program("ctr");
            run(command.arg("--address").arg(&socket).arg("version"), "").is_ok()
        };
        let daemon = Daemon::start(&mut command, &home.path().join("log"), asked)?;
        Ok(Self {
            socket,
            _daemon: daemon,
            _home: home,
        })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Puts a file among its blobs, where its collector leaves it.
    pub(crate) fn ingest(&self, digest: &str, file: &Path) -> Result<()> {
        let content = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let mut command = program("ctr");
        command.arg("--address").arg(&self.socket);
        command.args(["content", "ingest", "--expected-digest", digest, "bench"]);
        let status = command.stdin(content).status().context("run ctr")?;
        ensure!(status.success(), "ctr content ingest ended with {status}");
        let mut command = program("ctr");
        command.arg("--address").arg(&self.socket);
        let label = "containerd.io/gc.root=bench";
        run(command.args(["content", "label", digest, label]), "").map(drop)
    }
}
