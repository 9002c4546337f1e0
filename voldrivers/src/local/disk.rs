//! The directories of volumes.
//!
//! ```text
//! STATE/volumes/NAME/data   what containers see
//! STATE/trash/NUMBER        what was removed, until the sweeper has unlinked it
//! ```
//!
//! A volume leaves by one rename, so it is whole or gone; its files go behind the caller's back.

use std::path::{Path, PathBuf};

use kernel::error::Context;
use kernel::fsutil::{self, Folder, Trash};
use plugin_api::id::VolumeName;
use plugin_api::{Fault, FaultKind};

use super::options::Settings;
use super::usage::{self, Sight};

/// Whoever has a volume mounted needs no way to it; nobody else shall look into it.
const PASSAGE: u32 = 0o711;

/// The two folders of a state directory.
#[derive(Debug)]
pub(super) struct Disk {
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
        })
    }

    /// A volume's own folder.
    pub(super) fn volume(&self, name: &VolumeName) -> PathBuf {
        self.volumes.join(name.as_str())
    }

    /// What containers see of it.
    pub(super) fn data(&self, name: &VolumeName) -> PathBuf {
        self.volume(name).join("data")
    }

    /// Whether something has the volume's name on disk, be it a broken link.
    pub(super) fn is_taken(&self, name: &VolumeName) -> bool {
        self.volume(name).symlink_metadata().is_ok()
    }

    /// Whether the volume's data is where it should be.
    pub(super) fn holds_data(&self, name: &VolumeName) -> bool {
        let found = self.data(name).symlink_metadata();
        found.is_ok_and(|found| found.is_dir())
    }

    /// Makes the folders of a volume, durably.
    pub(super) fn make(&self, name: &VolumeName, settings: &Settings) -> Result<(), kernel::Error> {
        let volume = self.volume(name);
        fsutil::make_dir(&volume, PASSAGE)?;
        let data = self.data(name);
        fsutil::make_dir(&data, 0o700)?;
        let folder = Folder::open(&data)?;
        folder.chown_self(settings.uid, settings.gid)?;
        // Last, because a change of owner clears set-id bits.
        folder.chmod_self(settings.mode)?;
        fsutil::fsync_dir(&data)?;
        fsutil::fsync_dir(&volume)?;
        fsutil::fsync_dir(&self.volumes)
    }

    /// Moves a volume's folder to the trash, durably. A volume without one is no error.
    pub(super) fn discard(&self, name: &VolumeName) -> Result<(), kernel::Error> {
        if !self.is_taken(name) {
            return Ok(());
        }
        match self.trash.take(&self.volume(name)) {
            Err(error) if self.is_taken(name) => return Err(error),
            // Renamed but not flushed: a power cut may bring it back as a stray, which harms nobody.
            Err(error) => tracing::warn!(error = plugin_api::fault::chain(&error), "volume {name}"),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Who has the volume mounted, in any mount namespace.
    pub(super) fn look_for_users(&self, name: &VolumeName) -> Result<Sight, Fault> {
        let volume = self.volume(name);
        match usage::look_for_users(&volume) {
            Ok(sight) => Ok(sight),
            // Somebody took the directory away by hand, so nobody can have it mounted anew.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Sight::default()),
            Err(error) => {
                let text = format!("look for mounts of {}", volume.display());
                Err(Fault::new(FaultKind::Unavailable, text).because(error))
            }
        }
    }
}
