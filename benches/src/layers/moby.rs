//! moby's overlay2 driver itself, built from the source that Debian packages.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};

use crate::ground::{has, program, run};

/// Where Debian's packages of Go sources lie.
const SOURCES: &str = "/usr/share/gocode";

/// What we add: the program, and two packages that Debian leaves out.
const FILES: [(&str, &str); 3] = [
    ("main.go", include_str!("moby/main.go")),
    (
        "src/github.com/docker/docker/quota/quota.go",
        include_str!("moby/quota.go"),
    ),
    (
        "src/github.com/docker/docker/plugin/v2/v2.go",
        include_str!("moby/v2.go"),
    ),
];

/// The peer, waiting for commands.
pub(super) struct Moby {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

impl Moby {
    /// Builds and starts it; none where Go or the source is missing.
    pub(super) fn start() -> Result<Option<Self>> {
        let source = Path::new(SOURCES).join("src/github.com/docker/docker/daemon/graphdriver/overlay2");
        if !has("go") || !source.is_dir() {
            return Ok(None);
        }
        let home = tempfile::tempdir().context("make a folder")?;
        let built = home.path().join("moby");
        for (name, text) in FILES {
            let file = home.path().join(name);
            let folder = file.parent().context("a file in a folder")?;
            std::fs::create_dir_all(folder).context("make a folder")?;
            std::fs::write(&file, text).context("write the peer")?;
        }
        let path = format!("{}:{SOURCES}", home.path().display());
        let mut go = program("go");
        go.args(["build", "-o"])
            .arg(&built)
            .arg(home.path().join(FILES[0].0));
        run(go.env("GO111MODULE", "off").env("GOPATH", path), "")?;
        let mut child = program(&built)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start moby's driver")?;
        let stdin = child.stdin.take().context("its standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Some(Self {
            child,
            stdin,
            stdout,
            _home: home,
        }))
    }

    /// Microseconds that one command took inside.
    pub(super) fn does(&mut self, words: &str) -> Result<f64> {
        writeln!(self.stdin, "{words}").context("ask moby's driver")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("hear moby's driver")?;
        let line = line.trim();
        match line.parse() {
            Ok(time) => Ok(time),
            Err(_) => bail!("moby's driver: {words}: {line}"),
        }
    }
}

impl Drop for Moby {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
