//! Debian's own kernel, unpacked beside what cargo builds: nothing of it is installed on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::shelf;
use crate::run;

/// The package that names the newest kernel.
const META: &str = "linux-image-amd64";

/// A kernel on the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Folder of the unpacked package.
    pub(super) folder: PathBuf,
    /// What `uname -r` says in it.
    pub(super) release: String,
}

impl Kernel {
    /// The kernel to boot: the one that the machine's package lists name, or the one that is on the shelf
    /// when they name none.
    pub(super) fn provide() -> Result<Self> {
        let shelf = shelf()?.join("kernel");
        std::fs::create_dir_all(&shelf).with_context(|| format!("make {}", shelf.display()))?;
        let wanted = match wanted() {
            Ok(wanted) => wanted,
            Err(error) => return Self::newest(&shelf).with_context(|| format!("{error:#}")),
        };
        let folder = shelf.join(wanted.key());
        if !folder.is_dir() {
            fetch(&wanted, &shelf, &folder)
                .with_context(|| format!("fetch the package {}", wanted.package))?;
        }
        Self::at(folder)
    }

    /// The program to boot.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The folder of modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    fn newest(shelf: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(shelf).with_context(|| format!("read {}", shelf.display()))?;
        let folders = entries.flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = folders.filter(|path| !is_unfinished(path)).collect();
        folders.sort();
        Self::at(folders.pop().context("no kernel was unpacked before")?)
    }

    fn at(folder: PathBuf) -> Result<Self> {
        let modules = folder.join("lib/modules");
        let entries = std::fs::read_dir(&modules).with_context(|| format!("read {}", modules.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        let (Some(release), true) = (names.pop(), names.is_empty()) else {
            bail!("{} is not one kernel's", modules.display());
        };
        Ok(Self { folder, release })
    }
}

/// A kernel package of one version.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    package: String,
    version: String,
}

impl Wanted {
    fn key(&self) -> String {
        format!("{}_{}", self.package, self.version.replace([':', '/'], "_"))
    }
}

fn wanted() -> Result<Wanted> {
    let ask = || {
        let text = run::read_words("apt-cache", &["show", "--no-all-versions", META])?;
        depends(&text).with_context(|| format!("{META} names no kernel"))
    };
    ask().or_else(|_| {
        // A fresh machine has no lists yet.
        run::read_words("apt-get", &["-qq", "update"])?;
        ask()
    })
}

/// The kernel in `Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), …`.
fn depends(text: &str) -> Option<Wanted> {
    let line = text.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let first = line.split(',').next()?.trim();
    let (package, version) = first.split_once(" (= ")?;
    Some(Wanted {
        package: package.starts_with("linux-image-").then(|| package.to_owned())?,
        version: version.strip_suffix(')')?.to_owned(),
    })
}

fn is_unfinished(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "unfinished")
}

/// Downloads and unpacks into `folder`, which appears only when it is whole.
fn fetch(wanted: &Wanted, shelf: &Path, folder: &Path) -> Result<()> {
    println!("fetching {} {}", wanted.package, wanted.version);
    let mut name = folder.as_os_str().to_owned();
    name.push(".unfinished");
    let half = PathBuf::from(name);
    if half.exists() {
        std::fs::remove_dir_all(&half).with_context(|| format!("remove {}", half.display()))?;
    }
    std::fs::create_dir(&half).with_context(|| format!("make {}", half.display()))?;
    let exact = format!("{}={}", wanted.package, wanted.version);
    run::read(
        run::program("apt-get")
            .args(["-qq", "download", &exact])
            .current_dir(&half),
    )?;
    let archive = the_archive(&half)?;
    run::read(run::program("dpkg-deb").arg("-x").arg(&archive).arg(&half))?;
    std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    let Kernel { release, .. } = Kernel::at(half.clone())?;
    run::read(
        run::program("busybox")
            .args(["depmod", "-b"])
            .arg(&half)
            .arg(&release),
    )?;
    std::fs::rename(&half, folder).with_context(|| format!("rename to {}", folder.display()))?;
    drop_others(shelf, folder);
    Ok(())
}

fn the_archive(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get left no package")
}

/// Removes older kernels, 400 MB each; one that another run boots from at this moment stays by luck only,
/// so a failure is no matter.
fn drop_others(shelf: &Path, keep: &Path) {
    for entry in std::fs::read_dir(shelf).into_iter().flatten().flatten() {
        if entry.path() != keep && !is_unfinished(&entry.path()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_names_kernel_and_version() {
        let text = "Package: linux-image-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n";
        let wanted = depends(text).unwrap();
        assert_eq!(wanted.key(), "linux-image-6.1.0-56-amd64_6.1.192-2");
        assert_eq!(depends("Depends: initramfs-tools (= 1)\n"), None);
        assert_eq!(depends("Package: linux-image-amd64\n"), None);
    }

    #[test]
    fn a_version_with_an_epoch_is_one_folder() {
        let wanted = Wanted {
            package: "linux-image-x".to_owned(),
            version: "1:2/3".to_owned(),
        };
        assert_eq!(wanted.key(), "linux-image-x_1_2_3");
    }

    #[test]
    fn an_unfinished_kernel_is_not_booted() {
        let shelf = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(shelf.path().join("b.unfinished/lib/modules/2")).unwrap();
        assert!(Kernel::newest(shelf.path()).is_err());
        std::fs::create_dir_all(shelf.path().join("a/lib/modules/1")).unwrap();
        assert_eq!(Kernel::newest(shelf.path()).unwrap().release, "1");
    }
}
