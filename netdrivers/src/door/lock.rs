//! One lock for each network: whoever attaches shares it, whoever removes the network has it alone.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use plugin_api::Fault;
use plugin_api::id::NetworkId;

/// A lock that ends with this value, or with the process.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// With others who attach.
    pub(super) fn shared(folder: &Path, network: &NetworkId) -> Result<Self, Fault> {
        Self::take(folder, network, File::lock_shared)
    }

    /// Alone.
    pub(super) fn exclusive(folder: &Path, network: &NetworkId) -> Result<Self, Fault> {
        Self::take(folder, network, File::lock)
    }

    fn take(
        folder: &Path,
        network: &NetworkId,
        lock: impl Fn(&File) -> std::io::Result<()>,
    ) -> Result<Self, Fault> {
        let path = folder.join(format!("{network}.lock"));
        Self::take_at(folder, &path, lock)
            .map_err(|error| Fault::internal(format!("lock {}", path.display())).because(error))
    }

    fn take_at(
        folder: &Path,
        path: &Path,
        lock: impl Fn(&File) -> std::io::Result<()>,
    ) -> std::io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        loop {
            let mut options = File::options();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            lock(&file)?;
            // Whoever had it alone may have removed the file: then another one is the lock now.
            let held = file.metadata()?.ino();
            if std::fs::metadata(path).is_ok_and(|there| there.ino() == held) {
                return Ok(Self {
                    path: path.to_owned(),
                    _file: file,
                });
            }
        }
    }

    /// Removes the file of a lock that is held alone.
    pub(super) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_waits_for_all_others_and_a_removed_lock_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("doors");
        let network = NetworkId::new("n").unwrap();
        let shared = Lock::shared(&folder, &network).unwrap();
        drop(Lock::shared(&folder, &network).unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let alone = Lock::exclusive(&folder, &network).unwrap();
                tell.send(()).unwrap();
                alone.remove();
            });
            let early = told.recv_timeout(std::time::Duration::from_millis(100));
            assert!(early.is_err(), "it was given beside another");
            drop(shared);
            told.recv().unwrap();
        });
        drop(Lock::shared(&folder, &network).unwrap());
        assert!(folder.join("n.lock").exists());
    }
}
