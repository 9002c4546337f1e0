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
    let apt = folder.join("apt");
    for part in ["state/lists/partial", "cache/archives/partial", "packages"] {
        let path = apt.join(part);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let sources = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    std::fs::write(apt.join("sources.list"), sources).context("write the list of sources")?;
    run::must(&mut apt_get(&apt, &["update"]))?;
    let packages = apt.join("packages");
    run::must(apt_get(&apt, &["download", package]).current_dir(&packages))?;
    let start = format!("{package}_");
    for entry in std::fs::read_dir(&packages).context("read what was fetched")? {
        let file = entry.context("read what was fetched")?.path();
        if file
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&start))
        {
            run::must(run::program("dpkg-deb").arg("-x").arg(&file).arg(&folder))?;
        }
    }
    std::fs::remove_dir_all(&apt).with_context(|| format!("remove {}", apt.display()))
}

/// apt-get with everything of its own in `folder`.
fn apt_get(folder: &Path, words: &[&str]) -> Command {
    let mut command = run::program("apt-get");
    let setting = |name: &str, path: &str| format!("{name}={}", folder.join(path).display());
    for option in [
        setting("Dir::State", "state"),
        setting("Dir::Cache", "cache"),
        setting("Dir::Etc::SourceList", "sources.list"),
        "Dir::Etc::SourceParts=-".to_owned(),
        "Dir::State::status=/dev/null".to_owned(),
        "Acquire::Languages=none".to_owned(),
        // Its own user could not reach the folder.
        format!("APT::Sandbox::User={}", if run::is_root() { "root" } else { "" }),
    ] {
        command.args(["-o", &option]);
    }
    command.arg("-qq").args(words);
    command
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
