//! The directories of volumes.
//!
//! ```text
//! STATE/volumes/NAME/data   what containers see
//! STATE/trash/NUMBER        what was removed, until the sweeper has unlinked it
//! ```
//!
//! A volume leaves by one rename, so it is whole or gone; its files go behind the caller's back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime};

use kernel::error::Context;
use kernel::fsutil::{self, Folder};
use plugin_api::id::VolumeName;
use plugin_api::{Fault, FaultKind};

use super::options::Settings;
use super::usage::{self, Sight};

/// Whoever has a volume mounted needs no way to it; nobody else shall look into it.
const PASSAGE: u32 = 0o711;
/// First and longest pause before the sweeper tries again what it could not unlink.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The two folders of a state directory.
#[derive(Debug)]
pub(super) struct Disk {
    volumes: PathBuf,
    trash: PathBuf,
    next: AtomicU64,
    sweeper: SyncSender<()>,
}

impl Disk {
    /// Opens or makes the folders.
    pub(super) fn open(state: &Path) -> Result<Self, kernel::Error> {
        let state = state.canonicalize().context("find", state)?;
        let (volumes, trash) = (state.join("volumes"), state.join("trash"));
        for (folder, mode) in [(&volumes, PASSAGE), (&trash, 0o700)] {
            fsutil::make_dir(folder, mode)?;
            // A death between making it and setting its mode leaves another one.
            Folder::open(folder)?.chmod_self(mode)?;
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first = since.map_or(0, |since| since.as_secs());
        Ok(Self {
            sweeper: start_sweeper(trash.clone())?,
            volumes,
            trash,
            next: AtomicU64::new(first),
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
        let place = self.free_place();
        match fsutil::rename_synced(&self.volume(name), &place) {
            Err(error) if self.is_taken(name) => return Err(error),
            // Renamed but not flushed: a power cut may bring it back as a stray, which harms nobody.
            Err(error) => tracing::warn!(error = plugin_api::fault::chain(&error), "volume {name}"),
            Ok(()) => {}
        }
        self.sweep();
        Ok(())
    }

    fn free_place(&self) -> PathBuf {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let place = self.trash.join(number.to_string());
            if place.symlink_metadata().is_err() {
                return place;
            }
        }
    }

    /// Tells the sweeper that there is something to do.
    pub(super) fn sweep(&self) {
        // One token is as good as many: whoever takes it empties the whole trash.
        let _ = self.sweeper.try_send(());
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

/// Starts the thread that unlinks the trash; it ends with the sender.
fn start_sweeper(trash: PathBuf) -> Result<SyncSender<()>, kernel::Error> {
    let (sender, wishes) = mpsc::sync_channel(1);
    let shown = trash.clone();
    let run = move || {
        let mut pause = None;
        loop {
            let wish = match pause {
                None => wishes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => wishes.recv_timeout(pause),
            };
            if wish == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            pause = match empty(&trash) {
                Ok(()) => None,
                Err(error) => {
                    let error = plugin_api::fault::chain(&error);
                    tracing::warn!(error, "removed volumes still take space");
                    Some(pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)))
                }
            };
        }
    };
    let builder = std::thread::Builder::new().name("sweeper".to_owned());
    builder.spawn(run).context("start sweeper of", shown)?;
    Ok(sender)
}

/// Unlinks everything in the trash; what cannot be unlinked does not keep the rest.
fn empty(trash: &Path) -> Result<(), kernel::Error> {
    let folder = Folder::open(trash)?;
    let mut all = Ok(());
    for entry in folder.entries()? {
        all = all.and(folder.remove_tree(&entry.name).map(drop));
    }
    all
}
