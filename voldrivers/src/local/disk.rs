//! What lies on disk for a volume.
//!
//! ```text
//! STATE/volumes/NAME/data         a directory: what containers see; or where the user's mount goes
//! STATE/volumes/NAME/image        an image: the file with the file system
//! STATE/volumes/NAME/mount        an image: where it is mounted; containers see `data` in it
//! STATE/trash/NUMBER              what was removed, until the sweeper has unlinked it
//! ```
//!
//! A volume leaves by one rename, so it is whole or gone; its files go behind the caller's back.
//!
//! **Invariant:** nothing that is mounted below a volume's folder is ever unlinked through it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::error::Context;
use kernel::exec::Tool;
use kernel::fsutil::{self, Folder, Trash};
use kernel::mount::Mounts;
use plugin_api::id::VolumeName;
use plugin_api::{Fault, FaultKind};

use super::options::{ImageKind, Kind, Settings};
use crate::backend::told;

/// Whoever has a volume mounted needs no way to it; nobody else shall look into it.
const PASSAGE: u32 = 0o711;
/// Making a file system writes little; a disk that needs longer is broken.
const MKFS_LIMIT: Duration = Duration::from_secs(100);

/// The two folders of a state directory.
#[derive(Debug)]
pub(super) struct Disk {
    state: PathBuf,
    volumes: PathBuf,
    trash: Trash,
}

impl Disk {
    /// Opens or makes the folders.
    pub(super) fn open(state: &Path) -> Result<Self, kernel::Error> {
        let state = state.canonicalize().context("find", state)?;
        let volumes = state.join("volumes");
        fsutil::make_dir(&volumes, PASSAGE)?;
        // A death between making it and setting its mode leaves another one.
        Folder::open(&volumes)?.chmod_self(PASSAGE)?;
        Ok(Self {
            volumes,
            trash: Trash::open(&state.join("trash"))?,
            state,
        })
    }

    /// Whether a path leads into our own state.
    pub(super) fn is_ours(&self, path: &Path) -> bool {
        path.starts_with(&self.state) || self.state.starts_with(path)
    }

    /// A volume's own folder.
    pub(super) fn volume(&self, name: &VolumeName) -> PathBuf {
        self.volumes.join(name.as_str())
    }

    /// The folder that something is mounted on, or that is the volume itself.
    pub(super) fn point(&self, name: &VolumeName, kind: &Kind) -> PathBuf {
        let last = if matches!(kind, Kind::Image { .. }) {
            "mount"
        } else {
            "data"
        };
        self.volume(name).join(last)
    }

    /// What containers see of it.
    pub(super) fn data(&self, name: &VolumeName, kind: &Kind) -> PathBuf {
        let point = self.point(name, kind);
        match kind {
            // The root of a file system has a lost+found, which databases take for somebody's data.
            Kind::Image { .. } => point.join("data"),
            Kind::Directory | Kind::Mounted(_) => point,
        }
    }

    pub(super) fn image(&self, name: &VolumeName) -> PathBuf {
        self.volume(name).join("image")
    }

    /// Whether something has the volume's name on disk, be it a broken link.
    pub(super) fn is_taken(&self, name: &VolumeName) -> bool {
        self.volume(name).symlink_metadata().is_ok()
    }

    /// Whether what the volume is made of is where it should be.
    pub(super) fn is_whole(&self, name: &VolumeName, kind: &Kind) -> bool {
        let found = self.point(name, kind).symlink_metadata();
        let image = || self.image(name).symlink_metadata();
        found.is_ok_and(|found| found.is_dir())
            && (!matches!(kind, Kind::Image { .. }) || image().is_ok_and(|image| image.is_file()))
    }

    /// Makes what a volume is made of, durably.
    pub(super) fn make(&self, name: &VolumeName, settings: &Settings) -> Result<(), Fault> {
        let what = || format!("create volume {name}");
        let (volume, point) = (self.volume(name), self.point(name, &settings.kind));
        fsutil::make_dir(&volume, PASSAGE).map_err(told(what()))?;
        fsutil::make_dir(&point, 0o700).map_err(told(what()))?;
        match settings.kind {
            Kind::Directory => own(&point, settings).map_err(told(what()))?,
            Kind::Image { size, filesystem } => self.make_image(name, size, filesystem)?,
            Kind::Mounted(_) => {}
        }
        fsutil::fsync_dir(&point)
            .and_then(|()| fsutil::fsync_dir(&volume))
            .and_then(|()| fsutil::fsync_dir(&self.volumes))
            .map_err(told(what()))
    }

    /// Makes a file of `size` bytes, most of them holes, with an empty file system in it. The file is new, so
    /// nothing that was there can be formatted.
    fn make_image(&self, name: &VolumeName, size: u64, kind: ImageKind) -> Result<(), Fault> {
        let what = || format!("make image of volume {name}");
        let folder = Folder::open(&self.volume(name)).map_err(told(what()))?;
        let half = OsStr::new("image.new");
        folder.unlink(half).map_err(told(what()))?;
        let file = folder.make_file(half).map_err(told(what()))?;
        let failed = |error| Fault::from_error(FaultKind::Internal, error);
        file.set_len(size).map_err(failed)?;
        let path = self.volume(name).join(half);
        let tool = match kind {
            ImageKind::Ext4 => Tool::new("mkfs.ext4").args([
                "-q",
                "-F",
                "-m0",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            ]),
            ImageKind::Xfs => Tool::new("mkfs.xfs").args(["-q", "-K"]),
        };
        tool.arg(&path)
            .run(MKFS_LIMIT)
            .map_err(|error| Fault::new(FaultKind::Unavailable, what()).because(error))?;
        file.sync_all().map_err(failed)?;
        folder
            .rename(half, &folder, OsStr::new("image"))
            .map_err(told(what()))
    }

    /// Gives the data folder of a freshly mounted image its owner and mode, if it is not there yet.
    pub(super) fn make_data(&self, name: &VolumeName, settings: &Settings) -> Result<(), kernel::Error> {
        let point = self.point(name, &settings.kind);
        let folder = Folder::open(&point)?;
        let (half, whole) = (OsStr::new("data.new"), OsStr::new("data"));
        if folder.stat(whole)?.is_some() {
            return Ok(());
        }
        folder.make_dir(half, 0o700)?;
        own(&point.join(half), settings)?;
        folder.rename(half, &folder, whole)?;
        fsutil::sync_filesystem(&point)
    }

    /// Moves a volume's folder to the trash, durably. A volume without one is no error.
    pub(super) fn discard(&self, name: &VolumeName) -> Result<(), Fault> {
        if !self.is_taken(name) {
            return Ok(());
        }
        let volume = self.volume(name);
        let what = || format!("discard {}", volume.display());
        // The sweeper unlinks what it finds; what is mounted there may be somebody's only copy.
        let mounts = Mounts::read().map_err(told(what()))?;
        if let Some(mount) = mounts.under(&volume).next() {
            let point = mount.target.display();
            return Err(Fault::in_use(format!(
                "{}: {} is mounted on {point}; unmount it first",
                what(),
                mount.source
            )));
        }
        match self.trash.take(&volume) {
            Err(error) if self.is_taken(name) => return Err(told(what())(error)),
            // Renamed but not flushed: a power cut may bring it back as a stray, which harms nobody.
            Err(error) => tracing::warn!(error = plugin_api::fault::chain(&error), "volume {name}"),
            Ok(()) => {}
        }
        Ok(())
    }
}

/// Owner and mode of a folder of ours.
fn own(path: &Path, settings: &Settings) -> Result<(), kernel::Error> {
    let folder = Folder::open(path)?;
    folder.chown_self(settings.uid, settings.gid)?;
    // Last, because a change of owner clears set-id bits.
    folder.chmod_self(settings.mode)
}
