//! Peers in Go, built from the sources that Debian packages: they answer a line for each command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::ground::{has, program, run};

/// Where Debian's packages of Go sources lie.
const SOURCES: &str = "/usr/share/gocode/src/github.com";

/// A program of ours in Go.
pub(super) struct Source {
    /// What it needs, below the folder of sources.
    needs: &'static str,
    /// Its files, the program first; packages that Debian leaves out stand in a tree of their own.
    files: &'static [(&'static str, &'static str)],
}

/// moby's overlay2 driver itself.
pub(super) const MOBY: Source = Source {
    needs: "docker/docker/daemon/graphdriver/overlay2",
    files: &[
        ("main.go", include_str!("moby/main.go")),
        (
            "src/github.com/docker/docker/quota/quota.go",
            include_str!("moby/quota.go"),
        ),
        (
            "src/github.com/docker/docker/plugin/v2/v2.go",
            include_str!("moby/v2.go"),
        ),
    ],
};

/// A client of containerd's diff service.
pub(super) const DIFFER: Source = Source {
    needs: "containerd/containerd/api/services/diff/v1",
    files: &[("main.go", include_str!("differ/main.go"))],
};

/// A program that waits for commands.
pub(super) struct Go {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

impl Go {
    /// Builds and starts it; none where Go or what it needs is missing.
    pub(super) fn start(source: &Source) -> Result<Option<Self>> {
        if !has("go") || !Path::new(SOURCES).join(source.needs).is_dir() {
            return Ok(None);
        }
        let home = tempfile::tempdir().context("make a folder")?;
        let built = home.path().join("built");
        for (name, text) in source.files {
            let file = home.path().join(name);
            let folder = file.parent().context("a file in a folder")?;
            std::fs::create_dir_all(folder).context("make a folder")?;
            std::fs::write(&file, text).context("write the peer")?;
        }
        let path = format!("{}:/usr/share/gocode", home.path().display());
        let mut go = program("go");
        go.args(["build", "-o"])
            .arg(&built)
            .arg(home.path().join("main.go"));
        run(go.env("GO111MODULE", "off").env("GOPATH", path), "")?;
        let mut child = program(&built)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the peer")?;
        let stdin = child.stdin.take().context("its standard input")?;
        let stdout = BufReader::new(child.stdout.take().context("its standard output")?);
        Ok(Some(Self {
            child,
            stdin,
            stdout,
            _home: home,
        }))
    }

    /// What it says to one command.
    pub(super) fn asked(&mut self, words: &str) -> Result<String> {
        writeln!(self.stdin, "{words}").context("ask the peer")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("hear the peer")?;
        let line = line.trim();
        ensure!(!line.is_empty() && !line.starts_with("error"), "{words}: {line}");
        Ok(line.to_owned())
    }

    /// Microseconds that one command took inside.
    pub(super) fn does(&mut self, words: &str) -> Result<f64> {
        let said = self.asked(words)?;
        said.parse().with_context(|| format!("read {said:?}"))
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
