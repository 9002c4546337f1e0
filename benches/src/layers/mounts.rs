//! Mounting layers, and comparing what is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernel::mount::{self, Overlay};
use serde_json::json;

use super::go::{self, Go};
use super::ours::Ours;
use crate::ground::{Disk, milliseconds};
use crate::row::{Goal, Row};
use crate::wishes::Wishes;

const ROUNDS: usize = 41;
const MOBY: &str = "moby 20.10's overlay2, in process";
const RAW: &str = "fsopen, lowerdir+, fsmount, move_mount, umount2";
const WALK: &str = "moby 20.10's walk of two trees, in process";
/// Layers of a container, its own among them.
const LAYERS: usize = 100;
/// As many as one overlay takes.
const MOST: usize = 500;

/// Folders for the bare system calls, on a disk of their own.
struct Raw {
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    target: PathBuf,
    _disk: Disk,
}

impl Raw {
    fn new(count: usize) -> Result<Self> {
        let disk = Disk::fresh()?;
        let folder = |name: &str| {
            let path = disk.path().join(name);
            fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
            Ok::<PathBuf, anyhow::Error>(path)
        };
        Ok(Self {
            lowers: (0..count)
                .map(|nth| folder(&format!("l{nth}")))
                .collect::<Result<_>>()?,
            upper: folder("upper")?,
            work: folder("work")?,
            target: folder("target")?,
            _disk: disk,
        })
    }

    fn mount_and_unmount(&self) -> Result<()> {
        let overlay = Overlay {
            lowers: &self.lowers,
            upper: Some((&self.upper, &self.work)),
            label: None,
        };
        mount::mount_overlay(&overlay, &self.target)?;
        mount::unmount_detached(&self.target)?;
        Ok(())
    }
}

/// Get and Put of a container's layer upon 99 of images, beside moby's driver and the bare system calls.
pub(super) fn get_and_put(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let (mut ours, raw) = (Ours::start(&wishes.longshore)?, Raw::new(LAYERS - 1)?);
    ours.chain(LAYERS - 1)?;
    let disk = Disk::fresh()?;
    let mut moby = Go::start(&go::MOBY)?;
    if let Some(moby) = &mut moby {
        moby.does(&format!(
            "chain {} {}",
            disk.path().join("moby").display(),
            LAYERS - 1
        ))?;
    }
    let (mut near, mut bare, mut far) = (vec![], vec![], vec![]);
    for _ in 0..wishes.rounds(ROUNDS).max(11) {
        let time = milliseconds(|| {
            ours.get("top")?;
            ours.put("top")
        })?;
        near.push(time * 1e3);
        bare.push(milliseconds(|| raw.mount_and_unmount())? * 1e3);
        if let Some(moby) = &mut moby {
            far.push(moby.does("getput")?);
        }
    }
    // Its folder is on the disk that goes first.
    drop(moby);
    let title = ("layers", "get and put, 100 layers, by socket p50", "us");
    tell(&Row::medians(
        title,
        near.clone(),
        (MOBY, far),
        Goal::OfPeer(1.0 / 3.0),
    ));
    tell(&Row::medians(title, near, (RAW, bare), Goal::OfPeer(1.3)));
    Ok(())
}

/// Get of as many layers as the kernel takes, where moby's driver ends at 128.
pub(super) fn deep(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let (mut ours, raw) = (Ours::start(&wishes.longshore)?, Raw::new(MOST - 1)?);
    ours.chain(MOST - 1)?;
    let (mut times, mut bare) = (vec![], vec![]);
    for _ in 0..wishes.rounds(ROUNDS).max(11) {
        times.push(milliseconds(|| ours.get("top").map(drop))?);
        ours.put("top")?;
        bare.push(milliseconds(|| raw.mount_and_unmount())?);
    }
    let title = ("layers", "get, 500 layers, by socket p50", "ms");
    tell(&Row::medians(title, times, (RAW, bare), Goal::AtMost(2.0)));
    Ok(())
}

/// Writes `count` files below a folder, a hundred in each.
fn fill(folder: &Path, count: usize) -> Result<()> {
    for nth in 0..count {
        let below = folder.join(format!("d{}", nth / 100));
        if nth % 100 == 0 {
            fs::create_dir(&below).with_context(|| format!("make {}", below.display()))?;
        }
        let file = below.join(format!("f{nth}"));
        fs::write(&file, format!("{nth}\n")).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// What changed in a container: ten files over ten thousand.
pub(super) fn changes(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut ours = Ours::start(&wishes.longshore)?;
    let home = tempfile::tempdir().context("make a folder")?;
    fill(home.path(), 10_000)?;
    let archive = tempfile::NamedTempFile::new().context("make a file")?;
    let mut tar = crate::ground::program("tar");
    tar.arg("-cf")
        .arg(archive.path())
        .arg("-C")
        .arg(home.path())
        .arg(".");
    crate::ground::run(&mut tar, "")?;
    ours.create("lower", "")?;
    ours.apply("lower", archive.path())?;
    ours.create_writable("top", "lower")?;
    let merged = ours.get("top")?;
    for nth in 0..10 {
        let file = merged.join(format!("d{nth}/f{}", nth * 100 + 1));
        fs::write(&file, "changed\n").with_context(|| format!("write {}", file.display()))?;
    }
    let below = ours.get("lower")?;
    let mut moby = Go::start(&go::MOBY)?;
    let (mut near, mut far) = (vec![], vec![]);
    for _ in 0..wishes.rounds(ROUNDS) {
        let (time, reply) =
            crate::ground::timed(|| ours.call("Changes", &json!({"ID": "top", "Parent": "lower"})))?;
        // The folders of the files are told too.
        let found = reply["Changes"].as_array().map_or(0, Vec::len);
        ensure!(found == 20, "{found} changes: {reply}");
        near.push(time * 1e3);
        if let Some(moby) = &mut moby {
            far.push(moby.does(&format!(
                "changes {} {} {found}",
                merged.display(),
                below.display()
            ))?);
        }
    }
    drop(moby);
    ours.put("lower")?;
    ours.put("top")?;
    let title = ("layers", "changes, 10 files over 10 000, by socket p50", "us");
    tell(&Row::medians(title, near, (WALK, far), Goal::OfPeer(0.02)));
    Ok(())
}
