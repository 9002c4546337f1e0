//! Power cuts: what a driver did to a disk is recorded, and the disk is put together again as it may be
//! after a cut at any moment. Every layer that was answered is whole, every other is whole or absent, and
//! nothing is left that no layer needs.
//!
//! The test command tries a sample of the cuts; with `LONGSHORE_SWEEP=full` it is all of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod disk;
mod docker;
mod snapshots;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{BackEnd, disk_image};
use cuts::{Cut, Ledger, Player};
use disk::Disk;
use kernel::mount::{self, Limits};

/// How many cuts of a scene are tried at least, and how many of them by the test command.
const ALL: usize = 600;
const SOME: usize = 16;

/// A way into a store, and what is said there.
pub(crate) trait Scene {
    /// Says everything, over an empty state folder.
    fn act(&self, back_end: BackEnd, state: &Path, disk: &Disk, ledger: &mut Ledger);
    /// Opens what a cut left, compares, takes everything away, and complains of what is left then.
    fn judge(&self, back_end: BackEnd, state: &Path, ledger: &Ledger, cut: usize) -> Result<(), String>;
}

/// Where a scene plays: everything in memory, but the disk.
struct Stage {
    ram: PathBuf,
    disk: PathBuf,
    kind: &'static str,
}

impl Stage {
    fn state(&self) -> PathBuf {
        self.disk.join("state")
    }

    fn try_cut(&self, image: &[u8], judge: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
        let path = self.ram.join("cut.img");
        disk_image::write_sparse(&path, image).unwrap();
        disk_image::mount(self.kind, &path, &self.disk)
            .map_err(|error| format!("{error}: {}", error.source))?;
        let verdict = judge(&self.state());
        let _ = mount::unmount_detached(&self.disk);
        fs::remove_file(path).unwrap();
        verdict
    }
}

fn survives_power_cuts(back_end: BackEnd, scene: &(impl Scene + Sync)) {
    common::alone(|base| {
        let base = base.parent().unwrap();
        let stage = Stage {
            ram: base.join("ram"),
            disk: base.join("disk"),
            kind: back_end.file_system(),
        };
        for folder in [&stage.ram, &stage.disk] {
            fs::create_dir(folder).unwrap();
        }
        mount::mount_tmpfs(&stage.ram, 0, 0o700, Limits::default()).unwrap();
        let disk = Disk::serve(
            &stage.ram.join("disk.img"),
            disk_image::format(stage.kind, back_end.disk_size(), &stage.ram),
        );
        disk_image::mount(stage.kind, &disk.file, &stage.disk).unwrap();
        kernel::fsutil::make_dir(&stage.state(), 0o700).unwrap();
        kernel::fsutil::sync_filesystem(&stage.state()).unwrap();
        let (mut ledger, from) = (Ledger::default(), disk.position());
        scene.act(back_end, &stage.state(), &disk, &mut ledger);
        assert!(mount::unmount(&stage.disk).unwrap());
        let tape = disk.end();
        let all = cuts::plan(&tape, &ledger, from, ALL);
        let full = std::env::var("LONGSHORE_SWEEP").is_ok_and(|word| word == "full");
        let chosen = if full { all } else { cuts::sample(all, SOME) };
        try_all(back_end, scene, &stage, &ledger, (&tape, &chosen));
    });
}

fn try_all(
    back_end: BackEnd,
    scene: &impl Scene,
    stage: &Stage,
    ledger: &Ledger,
    (tape, chosen): (&disk::Tape, &[Cut]),
) {
    let began = Instant::now();
    let mut player = Player::new(tape);
    let mut trouble = Vec::new();
    for cut in chosen {
        let image = player.disk_after(*cut);
        let verdict = stage.try_cut(&image, |state| scene.judge(back_end, state, ledger, cut.at));
        if let Err(text) = verdict {
            trouble.push(format!("{cut:?}: {text}"));
        }
    }
    let (steps, tried) = (tape.steps.len(), chosen.len());
    println!(
        "{back_end:?}: {tried} cuts in {steps} writes and flushes, {} wrong, {:.1?}",
        trouble.len(),
        began.elapsed()
    );
    trouble.truncate(5);
    assert!(trouble.is_empty(), "{}", trouble.join("\n"));
}

#[test]
fn overlay_behind_dockers_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Overlay, &docker::Docker);
}

#[test]
fn overlay_behind_containerds_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Overlay, &snapshots::Containerd);
}

#[test]
fn vfs_behind_dockers_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Vfs, &docker::Docker);
}

#[test]
fn vfs_behind_containerds_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Vfs, &snapshots::Containerd);
}

#[test]
fn btrfs_behind_dockers_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Btrfs, &docker::Docker);
}

#[test]
fn btrfs_behind_containerds_door_survives_power_cuts() {
    survives_power_cuts(BackEnd::Btrfs, &snapshots::Containerd);
}
