//! Drives Podman, which knows plugins for volumes only.

use std::path::Path;

use anyhow::{Context, Result};

use super::http::Request;
use super::plugin::{self, Heard};
use crate::run;

const IMAGE: &str = "localhost/probe:1";

/// What users do; each line is one command.
const LIFE: &[&str] = &[
    "volume create --driver probe --opt size=1G --opt mode=0750 data",
    "volume create --driver probe plain",
    "volume inspect data",
    "volume ls",
    "run -d --name first --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 -v data:/data {image} {sleep}",
    "run -d --name second --network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 -v data:/data {image} {sleep}",
    "cp /run/record/image.tar first:/data/",
    "rm -f -t 0 second",
    "rm -f -t 0 first",
    "volume reload",
    "volume rm data",
    "volume prune -f",
];

/// All requests of a whole life, with the version of the engine.
pub(super) fn drive(home: &Path) -> Result<(String, Vec<Request>)> {
    let heard = Heard::default();
    std::fs::create_dir_all("/run/docker/plugins").context("make the plugins' folder")?;
    let socket = Path::new("/run/docker/plugins/probe.sock");
    plugin::serve(socket, &home.join("volumes"), &["VolumeDriver"], &heard)?;
    let config = home.join("containers.conf");
    let text = format!(
        "[engine]\nvolume_plugins = {{ probe = \"{}\" }}\n",
        socket.display()
    );
    std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;

    podman(home, &format!("import {}/image.tar {IMAGE}", home.display()))?;
    LIFE.iter().try_for_each(|line| podman(home, line))?;
    let version = run::read_words("podman", &["--version"])?;
    let version = version
        .split_whitespace()
        .nth(2)
        .context("podman names no version")?;
    Ok((version.to_owned(), heard.all()))
}

fn podman(home: &Path, line: &str) -> Result<()> {
    println!("podman {line}");
    let words = line.split_whitespace().flat_map(|word| match word {
        "{image}" => vec![IMAGE],
        "{sleep}" => vec!["/bin/busybox", "sleep", "1000"],
        word => vec![word],
    });
    let mut command = run::program("podman");
    command.env("CONTAINERS_CONF", home.join("containers.conf"));
    command.args([
        "--runtime",
        "runc",
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
    ]);
    for (flag, name) in [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")] {
        command.arg(flag).arg(home.join(name));
    }
    run::read(command.args(words)).map(drop)
}
