//! Snapshots by the same gRPC calls to us and to containerd's own overlayfs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use plugin_api::snapshot::{Labels, SnapshotKey, SnapshotMount, Snapshotter};
use plugin_api::snapshot_client::SnapshotClient;

use super::corpus::Layer;
use super::ours::Ours;
use crate::engine::Containerd;
use crate::ground::{Disk, milliseconds, program, run};
use crate::row::{Goal, Row, percentile};
use crate::wishes::Wishes;

const ROUNDS: usize = 5;
const PEER: &str = "containerd (Debian), overlayfs, by gRPC";
const AT_ONCE: usize = 64;

/// containerd over a disk of its own.
pub(super) struct Peer {
    pub(super) client: SnapshotClient,
    pub(super) containerd: Containerd,
    _disk: Disk,
}

impl Peer {
    pub(super) fn start() -> Result<Option<Self>> {
        if !Containerd::is_there() {
            return Ok(None);
        }
        let disk = Disk::fresh()?;
        let containerd = Containerd::start(disk.path())?;
        let client = connect(&containerd)?;
        Ok(Some(Self {
            client,
            containerd,
            _disk: disk,
        }))
    }
}

fn connect(containerd: &Containerd) -> Result<SnapshotClient> {
    let client = SnapshotClient::connect(containerd.socket(), Some("default"))?;
    Ok(client.asking_for("overlayfs"))
}

/// containerd collects what nobody refers to, unless it is a root itself. We do not look at it.
pub(super) fn labels() -> Labels {
    Labels::from([("containerd.io/gc.root".to_owned(), "bench".to_owned())])
}

pub(super) fn key(text: &str) -> Result<SnapshotKey> {
    Ok(SnapshotKey::new(text)?)
}

/// The folder that writes go to.
fn upper(mounts: &[SnapshotMount]) -> Result<PathBuf> {
    let [mount] = mounts else {
        bail!("{} mounts, not one", mounts.len());
    };
    if mount.kind == "bind" {
        return Ok(PathBuf::from(&mount.source));
    }
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    upper
        .map(PathBuf::from)
        .context("an overlay with an upper folder")
}

/// Milliseconds of one commit of what `archive` holds, once it is on disk.
fn committed(client: &dyn Snapshotter, name: &str, archive: &Path) -> Result<f64> {
    let (active, labels) = (key(&format!("{name}-active"))?, labels());
    let folder = upper(&client.prepare(&active, None, &labels)?)?;
    run(program("tar").arg("-xpf").arg(archive).arg("-C").arg(&folder), "")?;
    run(program("sync").arg("-f").arg(&folder), "")?;
    let name = key(name)?;
    milliseconds(|| Ok(client.commit(&name, &active, &labels)?))
}

/// Commit of forty thousand files beside containerd's, and beside four hundred of ours.
pub(super) fn commit(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let home = tempfile::tempdir().context("make a folder")?;
    let large = Layer::small(home.path())?.path;
    let tree = home.path().join("few");
    std::fs::create_dir(&tree).context("make a folder")?;
    // Every hundredth file.
    let mut tar = program("tar");
    tar.arg("-xpf").arg(&large).arg("-C").arg(&tree);
    run(
        tar.args([
            "--wildcards",
            "usr/share/package??0/file00.conf",
            "usr/share/package??5/file0[0-4].conf",
        ]),
        "",
    )?;
    let small = home.path().join("few.tar");
    run(
        program("tar")
            .arg("-cf")
            .arg(&small)
            .arg("-C")
            .arg(&tree)
            .arg("."),
        "",
    )?;
    let (mut many, mut few, mut far) = (vec![], vec![], vec![]);
    for _ in 0..wishes.rounds(ROUNDS) {
        let ours = Ours::start(&wishes.longshore)?;
        let client = ours.snapshots()?;
        many.push(committed(&client, "many", &large)?);
        few.push(committed(&client, "few", &small)?);
        drop((client, ours));
        if let Some(peer) = Peer::start()? {
            far.push(committed(&peer.client, "many", &large)?);
        }
    }
    let title = ("layers", "commit 40 000 files that are on disk p50", "ms");
    let slope = percentile(&mut many, 0.5) / percentile(&mut few, 0.5);
    tell(&Row::medians(title, many, (PEER, far), Goal::OfPeer(0.02)));
    let title = ("layers", "commit 40 000 files over 480", "times");
    tell(&Row::medians(title, vec![slope], ("", vec![]), Goal::AtMost(1.5)));
    Ok(())
}

/// Milliseconds until 64 callers have each prepared a snapshot upon `base`.
fn together(clients: &[SnapshotClient], base: &SnapshotKey, round: usize) -> Result<f64> {
    milliseconds(|| {
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let one = |nth: usize, client: &SnapshotClient| {
                let key = key(&format!("round{round}-{nth}"))?;
                client.prepare(&key, Some(base), &labels())?;
                Ok(())
            };
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|nth| {
                    let client = &clients[nth % clients.len()];
                    scope.spawn(move || one(nth, client))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a caller panicked"))?)
                .collect()
        });
        outcomes.into_iter().collect()
    })
}

/// A committed snapshot of nothing.
fn base(client: &SnapshotClient) -> Result<SnapshotKey> {
    let (name, active) = (key("base")?, key("base-active")?);
    client.prepare(&active, None, &labels())?;
    client.commit(&name, &active, &labels())?;
    Ok(name)
}

/// 64 prepares at once, over eight connections each.
pub(super) fn prepares(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let ours = Ours::start(&wishes.longshore)?;
    let peer = Peer::start()?;
    let eight = |connect: &dyn Fn() -> Result<SnapshotClient>| -> Result<Vec<SnapshotClient>> {
        (0..8).map(|_| connect()).collect()
    };
    let near = eight(&|| ours.snapshots())?;
    let far = match &peer {
        Some(peer) => eight(&|| connect(&peer.containerd))?,
        None => vec![],
    };
    let near_base = base(&near[0])?;
    let far_base = far.first().map(base).transpose()?;
    let (mut mine, mut theirs) = (vec![], vec![]);
    for round in 0..wishes.rounds(ROUNDS * 3) {
        mine.push(together(&near, &near_base, round)?);
        if let Some(base) = &far_base {
            theirs.push(together(&far, base, round)?);
        }
    }
    let title = ("layers", "64 prepares at once, all durable p50", "ms");
    tell(&Row::medians(title, mine, (PEER, theirs), Goal::OfPeer(0.125)));
    Ok(())
}
