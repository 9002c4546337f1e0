//! diff.v1: blobs of a containerd unpacked by its own differ and by ours, both by the same call.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plugin_api::snapshot::Snapshotter;

use super::apply::{self, Times};
use super::corpus::Layer;
use super::go::{self, Go};
use super::ours::Ours;
use super::snapshots::{Peer, key, labels};
use crate::engine::Dockerd;
use crate::ground::{program, run};
use crate::row::{Goal, Row};
use crate::wishes::Wishes;

const ROUNDS: usize = 5;
const PEER: &str = "containerd (Debian)'s differ, not synced";

/// A blob that a containerd has, and what it is.
struct Blob<'a> {
    layer: &'a Layer,
    digest: String,
    media: &'static str,
}

impl<'a> Blob<'a> {
    fn of(layer: &'a Layer, media: &'static str) -> Result<Self> {
        let said = run(program("sha256sum").arg(&layer.path), "")?;
        let digest = said.split_whitespace().next().context("a digest")?;
        Ok(Self {
            layer,
            digest: format!("sha256:{digest}"),
            media,
        })
    }
}

/// Milliseconds that whoever is behind `socket` takes to unpack the blob into a snapshot of `client`. The
/// digest of what was unpacked must come back.
fn unpack(go: &mut Go, socket: &Path, client: &dyn Snapshotter, blob: &Blob<'_>) -> Result<f64> {
    let mounts = client.prepare(&key("unpacked")?, None, &labels())?;
    let [mount] = &mounts[..] else {
        anyhow::bail!("{} mounts, not one", mounts.len());
    };
    let size = std::fs::metadata(&blob.layer.path)
        .context("look at a layer")?
        .len();
    let (kind, source, options) = (&mount.kind, &mount.source, mount.options.join(","));
    let (socket, media, digest) = (socket.display(), blob.media, &blob.digest);
    let said = go.asked(&format!(
        "apply {socket} {media} {digest} {size} {kind} {source} {options}"
    ))?;
    let (time, found) = said.split_once(' ').context("a time and a digest")?;
    ensure!(found == blob.layer.digest, "unpacked {found}");
    let time: f64 = time.parse().context("read a time")?;
    Ok(time / 1e3)
}

/// One round: ours beside a containerd that has the blob, then that containerd's own.
fn round(wishes: &Wishes, go: &mut Go, blob: &Blob<'_>, times: &mut [Vec<f64>; 2]) -> Result<()> {
    let peer = Peer::start()?.context("containerd is missing, and with it the blobs")?;
    let containerd = &peer.containerd;
    containerd.ingest(&blob.digest, &blob.layer.path)?;
    let ours = Ours::beside(&wishes.longshore, Some(containerd.socket()))?;
    let client = ours.snapshots()?;
    times[0].push(unpack(go, &ours.server.snapshots(), &client, blob)?);
    drop((client, ours));
    times[1].push(unpack(go, containerd.socket(), &peer.client, blob)?);
    Ok(())
}

fn client() -> Result<Go> {
    Go::start(&go::DIFFER)?.context("Go or containerd's interfaces for it are missing")
}

/// A layer as registries hold it.
pub(super) fn gzip(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let home = tempfile::tempdir().context("make a folder")?;
    let layer = Layer::small(home.path())?.gzipped(home.path())?;
    let blob = Blob::of(&layer, "application/vnd.oci.image.layer.v1.tar+gzip")?;
    let (mut go, mut times) = (client()?, [vec![], vec![]]);
    for _ in 0..wishes.rounds(ROUNDS) {
        round(wishes, &mut go, &blob, &mut times)?;
    }
    let [ours, peer] = times;
    let title = ("layers", "gzip layer, 40 000 files, by diff.v1, synced p50", "ms");
    tell(&Row::medians(title, ours, (PEER, peer), Goal::OfPeer(1.0 / 3.0)));
    Ok(())
}

/// A large layer with its digest, beside containerd and dockerd.
pub(super) fn digest(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let home = tempfile::tempdir().context("make a folder")?;
    let layer = Layer::large(home.path())?;
    let blob = Blob::of(&layer, "application/vnd.oci.image.layer.v1.tar")?;
    let (mut go, mut times, mut docker) = (client()?, [vec![], vec![]], Times::default());
    for _ in 0..wishes.rounds(ROUNDS) {
        round(wishes, &mut go, &blob, &mut times)?;
        apply::dockerd(&layer, &mut docker)?;
    }
    let [ours, peer] = times;
    let title = ("layers", "apply 1.1 GB with digest, by diff.v1, synced p50", "ms");
    let dockerd = (Dockerd::NAME, docker.apply);
    tell(&Row::medians(
        title,
        ours.clone(),
        dockerd,
        Goal::OfPeer(1.0 / 6.0),
    ));
    tell(&Row::medians(title, ours, (PEER, peer), Goal::Known));
    Ok(())
}
