//! Programs of other suites of the machine's own Debian mirror, beside what is built.
//!
//! apt itself fetches them, with lists and settings of its own, so that its signatures are checked and
//! nothing of the machine's own changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// What signs every suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages are unpacked; the tests look here.
fn folder() -> Result<PathBuf> {
    Ok(run::target_dir()?.join("servers"))
}

pub(super) fn has(program: &str) -> bool {
    folder().is_ok_and(|folder| folder.join("usr/bin").join(program).is_file())
}

/// Fetches `package` of `suite`, checks it and unpacks it.
pub(super) fn bring(package: &str, suite: &str) -> Result<()> {
    println!("unpacking {package} of {suite}");
    let folder = folder()?;
    let apt = Apt::open(&folder.join("apt"), suite)?;
    let packages = apt.folder.join("packages");
    std::fs::create_dir_all(&packages).with_context(|| format!("make {}", packages.display()))?;
    run::must(apt.command(&["download", package]).current_dir(&packages))?;
    let start = format!("{package}_");
    for file in files(&packages)? {
        if file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        {
            unpack(&file, &folder)?;
        }
    }
    apt.close()
}

/// Unpacks a package into a folder, and runs nothing of it.
pub(super) fn unpack(package: &Path, into: &Path) -> Result<()> {
    run::must(run::program("dpkg-deb").arg("-x").arg(package).arg(into))
}

/// The paths in a folder, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.with_context(|| format!("read {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

/// apt with everything of its own in a folder: it knows one suite and no installed package.
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Makes the folder and reads the suite's lists.
    pub(super) fn open(folder: &Path, suite: &str) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "dpkg"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let sources = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
        std::fs::write(folder.join("sources.list"), sources).context("write the list of sources")?;
        // apt locks the folder where this file is.
        std::fs::write(folder.join("dpkg/status"), "").context("write an empty list of packages")?;
        let apt = Self {
            folder: folder.to_owned(),
        };
        run::must(&mut apt.command(&["update"]))?;
        Ok(apt)
    }

    /// Fetches packages and all that they need into a folder, and answers the files.
    pub(super) fn fetch(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let words = ["install", "--download-only", "-y", "--no-install-recommends"];
        run::must(&mut self.command(&[&words, packages].concat()))?;
        let mut files = files(&self.folder.join("cache/archives"))?;
        files.retain(|file| file.extension().is_some_and(|end| end == "deb"));
        Ok(files)
    }

    /// An apt-get of this folder.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = run::program("apt-get");
        let setting = |name: &str, path: &str| format!("{name}={}", self.folder.join(path).display());
        for option in [
            setting("Dir::State", "state"),
            setting("Dir::Cache", "cache"),
            setting("Dir::Etc::SourceList", "sources.list"),
            setting("Dir::State::status", "dpkg/status"),
            "Dir::Etc::SourceParts=-".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // Its own user could not reach the folder.
            format!("APT::Sandbox::User={}", if run::is_root() { "root" } else { "" }),
        ] {
            command.args(["-o", &option]);
        }
        command.arg("-qq").args(words);
        command
    }

    /// Removes the folder.
    pub(super) fn close(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))
    }
}

/// The mirror that this machine has Debian from.
fn mirror() -> Result<String> {
    let words = [
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ];
    let known = || run::read_words("apt-get", &words);
    let mut targets = known()?;
    if mirror_in(&targets).is_none() && run::is_root() {
        // A machine that has just been made has not read its own sources yet.
        run::must(run::program("apt-get").args(["-qq", "update"]))?;
        targets = known()?;
    }
    let mirror = mirror_in(&targets).context("apt knows no mirror of Debian")?;
    Ok(mirror.to_owned())
}

fn mirror_in(targets: &str) -> Option<&str> {
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_of_debian_itself() {
        let targets = "Other Other http://other.test/\n\
                       Debian Debian-Security http://mirror.test/debian-security/\n\
                       Debian Debian http://mirror.test/debian/\n";
        assert_eq!(mirror_in(targets), Some("http://mirror.test/debian/"));
        assert_eq!(mirror_in("Other Other http://other.test/\n"), None);
    }
}
