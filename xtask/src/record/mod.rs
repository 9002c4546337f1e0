//! `cargo xtask record`: what real engines say to a plugin, written down.
//!
//! Everything happens in namespaces of its own, with a `/run` of its own,
//! because engines look for plugins at a place that cannot be moved.

mod docker;
mod http;
mod plugin;
mod podman;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::lanes::{Need, Suite, provide, root_of};
use crate::run;
use http::Request;

/// An engine that can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// dockerd: volumes, networks, addresses, layers.
    Docker,
    /// Podman: volumes.
    Podman,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    fn needs(self, suite: Option<Suite>) -> Vec<Need> {
        let common = [Need::Root, Need::Program("unshare", "util-linux")];
        if let Some(suite) = suite {
            return [&common[..], &[Need::Suite(suite)]].concat();
        }
        let more = [
            Need::Program("ip", "iproute2"),
            Need::Program("kill", "procps"),
            Need::Program("busybox", "busybox-static"),
            Need::Program("runc", "runc"),
        ];
        let own = match self {
            Self::Docker => [
                Need::Program("dockerd", "docker.io"),
                Need::Program("iptables", "iptables"),
            ],
            Self::Podman => [Need::Program("podman", "podman"), Need::Program("crun", "crun")],
        };
        [&common[..], &more, &own].concat()
    }
}

/// Makes the root of a suite the root of everything that follows, below a layer that goes with it.
///
/// `$1` is a scratch folder, `$2` the suite's root, `$3` the checkout and `$4` the folder of our own program,
/// which keep their paths; the rest is the program and its words.
const ENTER_SUITE: &str = r#"
set -e
mkdir -p "$1/root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
for tree in /proc /sys /dev; do mount --rbind "$tree" "$1/root$tree"; done
for tree in "$3" "$4"; do
    mkdir -p "$1/root$tree"
    mount --bind "$tree" "$1/root$tree"
done
cd "$1/root"
pivot_root . .
umount -l .
cd /
shift 4
exec "$@"
"#;

/// Records `engine`, this machine's own or a suite's, by starting ourselves again inside fresh namespaces.
pub(crate) fn record(engine: Engine, suite: Option<Suite>) -> Result<()> {
    let missing = provide(&engine.needs(suite))?;
    if !missing.is_empty() {
        let spoken: Vec<&str> = missing.into_iter().map(Need::spoken).collect();
        bail!("record {}: missing {}", engine.name(), spoken.join(", "));
    }
    let itself = std::env::current_exe().context("find our own program")?;
    let mut inside = run::program("unshare");
    // A process namespace too: whatever the engine leaves running ends with it.
    inside.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    inside.args(["--propagation", "private"]);
    let scratch = tempfile::tempdir_in(run::target_dir()?).context("make a scratch folder")?;
    if let Some(suite) = suite {
        inside.args(["bash", "-c", ENTER_SUITE, "enter"]);
        inside.arg(scratch.path()).arg(root_of(suite)?).arg(run::root());
        inside.arg(itself.parent().context("a program lies in a folder")?);
    }
    inside.arg(itself);
    run::must(inside.args(["record", "--inside", "--engine", engine.name()]))
}

/// The part that runs inside the namespaces.
pub(crate) fn inside(engine: Engine) -> Result<()> {
    run::read_words("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    run::read_words("ip", &["link", "set", "lo", "up"])?;
    let home = Path::new("/run/record");
    std::fs::create_dir_all(home.join("image/bin")).context("make the image's folder")?;
    std::fs::copy(
        run::which("busybox").context("find busybox")?,
        home.join("image/bin/busybox"),
    )
    .context("copy busybox")?;
    run::read(
        run::program("tar")
            .arg("-cf")
            .arg(home.join("image.tar"))
            .arg("-C")
            .arg(home.join("image"))
            .arg("."),
    )?;
    let (version, heard) = match engine {
        Engine::Docker => docker::drive(home)?,
        Engine::Podman => podman::drive(home)?,
    };
    write(engine, &version, &heard)
}

/// One file per verb, with all its requests in order of arrival.
fn write(engine: Engine, version: &str, heard: &[Request]) -> Result<()> {
    let short: Vec<&str> = version.split('.').take(2).collect();
    let folder = run::root()
        .join("tests/recordings")
        .join(format!("{}-{}", engine.name(), short.join(".")));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut verbs: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for request in heard {
        verbs.entry(request.verb()).or_default().push(call(request));
    }
    for (verb, calls) in &verbs {
        let all = json!({"engine": engine.name(), "version": version, "verb": verb, "calls": calls});
        let text = format!("{}\n", serde_json::to_string_pretty(&all)?);
        let file = folder.join(format!("{verb}.json"));
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    println!(
        "{}: {} requests, {} verbs",
        folder.display(),
        heard.len(),
        verbs.len()
    );
    Ok(())
}

fn call(request: &Request) -> Value {
    let headers: Vec<Value> = request
        .headers
        .iter()
        .map(|(key, value)| json!([key, value]))
        .collect();
    match std::str::from_utf8(&request.body) {
        // An archive would be half a megabyte of busybox; its length is enough.
        Ok(body) if body.len() < 64 * 1024 => json!({"path": request.path, "headers": headers, "body": body}),
        _ => json!({"path": request.path, "headers": headers, "body_bytes": request.body.len()}),
    }
}
