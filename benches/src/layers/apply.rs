//! Archives into layers, and layers away.

use std::fs;

use anyhow::{Context, Result};

use super::corpus::Layer;
use super::ours::Ours;
use crate::engine::{Dockerd, Piece};
use crate::ground::{Disk, milliseconds, program, run};
use crate::row::{Goal, Row};
use crate::wishes::Wishes;

const ROUNDS: usize = 5;
const TAR: &str = "GNU tar -x, not synced";

/// What one peer's rounds came to.
#[derive(Default)]
pub(super) struct Times {
    pub(super) apply: Vec<f64>,
    remove: Vec<f64>,
}

/// An image of one layer loaded by a dockerd of its own.
pub(super) fn dockerd(layer: &Layer, times: &mut Times) -> Result<()> {
    if !Dockerd::is_there() {
        return Ok(());
    }
    let disk = Disk::fresh()?;
    let dockerd = Dockerd::start(disk.path(), &["--bridge=none", "--iptables=false"])?;
    let (head, tail) = layer.image_around()?;
    let body = [Piece::Bytes(&head), Piece::File(&layer.path), Piece::Bytes(&tail)];
    times.apply.push(milliseconds(|| {
        let said = dockerd.ask("POST", "/images/load?quiet=1", "application/x-tar", &body)?;
        anyhow::ensure!(said.contains("Loaded image"), "load an image: {said}");
        Ok(())
    })?);
    Ok(())
}

fn tar(layer: &Layer, times: &mut Times) -> Result<()> {
    let disk = Disk::fresh()?;
    let to = disk.path().join("tree");
    fs::create_dir(&to).context("make a folder")?;
    let mut command = program("tar");
    command.arg("-xpf").arg(&layer.path).arg("-C").arg(&to);
    times
        .apply
        .push(milliseconds(|| run(&mut command, "").map(drop))?);
    let mut command = program("rm");
    times
        .remove
        .push(milliseconds(|| run(command.arg("-rf").arg(&to), "").map(drop))?);
    Ok(())
}

/// A layer of many files: apply beside dockerd and GNU tar, and removal beside `rm -rf`.
pub(super) fn small(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let home = tempfile::tempdir().context("make a folder")?;
    let layer = Layer::small(home.path())?;
    let (mut ours, mut docker, mut gnu) = (Times::default(), Times::default(), Times::default());
    for _ in 0..wishes.rounds(ROUNDS) {
        let mut server = Ours::start(&wishes.longshore)?;
        server.create("layer", "")?;
        ours.apply
            .push(milliseconds(|| server.apply("layer", &layer.path))?);
        ours.remove.push(milliseconds(|| server.remove("layer"))?);
        drop(server);
        tar(&layer, &mut gnu)?;
        dockerd(&layer, &mut docker)?;
    }
    let apply = ("layers", "apply 40 000 files, 266 MB, synced p50", "ms");
    let peer = (Dockerd::NAME, docker.apply);
    tell(&Row::medians(apply, ours.apply.clone(), peer, Goal::OfPeer(0.2)));
    tell(&Row::medians(
        apply,
        ours.apply,
        (TAR, gnu.apply),
        Goal::OfPeer(1.0 / 1.2),
    ));
    let remove = ("layers", "remove 40 000 files, return p50", "ms");
    let peer = ("rm -rf", gnu.remove);
    tell(&Row::medians(remove, ours.remove, peer, Goal::OfPeer(0.01)));
    Ok(())
}

/// A layer of few bytes less than much memory.
pub(super) fn large(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let home = tempfile::tempdir().context("make a folder")?;
    let layer = Layer::large(home.path())?;
    let (mut ours, mut peak) = (Vec::new(), Vec::new());
    let (mut docker, mut gnu) = (Times::default(), Times::default());
    for _ in 0..wishes.rounds(ROUNDS) {
        let mut server = Ours::start(&wishes.longshore)?;
        server.create("layer", "")?;
        server.server.forget_peak()?;
        ours.push(milliseconds(|| server.apply("layer", &layer.path))?);
        peak.push(server.server.peak_mb()?);
        drop(server);
        tar(&layer, &mut gnu)?;
        dockerd(&layer, &mut docker)?;
    }
    let title = (
        "layers",
        "apply 1.1 GB, synced, digest left to the engine p50",
        "ms",
    );
    let peer = (Dockerd::NAME, docker.apply);
    tell(&Row::medians(title, ours.clone(), peer, Goal::Known));
    tell(&Row::medians(title, ours, (TAR, gnu.apply), Goal::Known));
    let title = ("layers", "memory at most while applying 1.1 GB", "MB");
    let most = peak.iter().copied().fold(0.0, f64::max);
    tell(&Row::medians(
        title,
        vec![most],
        ("", Vec::new()),
        Goal::AtMost(64.0),
    ));
    Ok(())
}
