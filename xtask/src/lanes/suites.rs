//! Roots of other Debian suites, so that newer engines can be tested on one machine.
//!
//! A root is a folder of unpacked packages: nothing of them is configured, and no script of theirs has run.
//! It lies in the user's cache, where every checkout finds it, and `tests/world/suite.rs` looks there.
//! Testing suites change under their names, so a root is made anew when it is a month old.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::unpacked::{Apt, files, unpack};
use crate::run;

/// A suite whose engines are newer than those of this machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Debian 13: dockerd 26.1, Podman 5.4, containerd 1.7.
    Trixie,
    /// What becomes Debian 14: dockerd 28.5, Podman 5.8, containerd 2.1, or newer.
    Forky,
}

impl Suite {
    /// Its name at Debian.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

/// What every root has. An engine, its shims, and what a test's world calls besides.
const PACKAGES: &[&str] = &[
    "aardvark-dns",
    "base-files",
    "bash",
    "busybox-static",
    "conmon",
    "containerd",
    "coreutils",
    "crun",
    "dash",
    "docker-cli",
    "docker.io",
    "grep",
    "iproute2",
    "iptables",
    "libc-bin",
    "mount",
    "netavark",
    "nftables",
    "podman",
    "procps",
    "runc",
    "sed",
    "tar",
    "util-linux",
    "xz-utils",
];

/// Lists what a root was made of.
const LIST: &str = "etc/longshore-packages";

/// When a root is made anew.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the packages' scripts would have written: (path, text).
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ndocker:x:101:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/resolv.conf", ""),
    ("etc/machine-id", "00000000000000000000000000000000\n"),
];

/// Names that Debian's alternatives give to programs of iptables.
const TABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

/// Where roots are kept.
fn folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache.filter(|path| path.is_absolute()).or_else(home);
    Ok(cache
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("longshore/roots"))
}

/// The newest root of a suite.
pub(crate) fn root(suite: Suite) -> Result<PathBuf> {
    let roots = of_suite(&folder()?, suite.name())?;
    roots
        .into_iter()
        .next_back()
        .with_context(|| format!("there is no root of {}", suite.name()))
}

/// Whether there is a root of `suite` that need not be made anew.
pub(super) fn has(suite: Suite) -> bool {
    let roots = folder().and_then(|folder| of_suite(&folder, suite.name()));
    roots.is_ok_and(|roots| roots.iter().any(|root| is_fresh(root)))
}

fn is_fresh(root: &Path) -> bool {
    let list = root.join(LIST);
    let age = fs::metadata(&list).and_then(|meta| meta.modified());
    let young = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < MONTH));
    young && fs::read_to_string(&list).is_ok_and(|text| holds(&text))
}

/// Whether a list of packages has all of ours.
fn holds(list: &str) -> bool {
    let there: Vec<&str> = list.lines().collect();
    PACKAGES.iter().all(|package| there.contains(package))
}

/// The finished roots of a suite, the oldest first.
fn of_suite(folder: &Path, suite: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let start = format!("{suite}-");
    let mut roots = files(folder)?;
    roots.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&start))
    });
    Ok(roots)
}

/// Makes the root of a suite, whole or not at all, and removes those that it replaces.
pub(super) fn make(suite: Suite) -> Result<()> {
    let (wanted, suite) = (suite, suite.name());
    let folder = folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let lock = folder.join(format!(".{suite}.lock"));
    let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
    lock.lock().context("lock the folder of roots")?;
    if has(wanted) {
        return Ok(());
    }
    println!("making a root of {suite} in {}", folder.display());
    let [new, old] = ["new", "old"].map(|what| folder.join(format!(".{suite}.{what}")));
    for path in [&new, &old] {
        remove(path)?;
    }
    let root = new.join("root");
    fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    let apt = Apt::open(&new.join("apt"), suite)?;
    fill(&root, &apt.fetch(PACKAGES)?)?;
    fs::create_dir_all(&old).with_context(|| format!("make {}", old.display()))?;
    for stale in of_suite(&folder, suite)? {
        let aside = old.join(stale.file_name().context("a root has a name")?);
        fs::rename(&stale, &aside).with_context(|| format!("move {} aside", stale.display()))?;
    }
    let date = run::read_words("date", &["+%F"])?;
    let made = folder.join(format!("{suite}-{}", date.trim()));
    fs::rename(&root, &made).with_context(|| format!("make {}", made.display()))?;
    remove(&old)?;
    remove(&new)
}

/// Unpacks packages and does what little of their scripts is needed.
fn fill(root: &Path, packages: &[PathBuf]) -> Result<()> {
    let is_base = |path: &&PathBuf| path.to_string_lossy().contains("/base-files_");
    // It has the links /bin, /lib and /sbin that all others rely upon.
    let (base, rest): (Vec<&PathBuf>, Vec<&PathBuf>) = packages.iter().partition(is_base);
    for package in base.into_iter().chain(rest) {
        unpack(package, root)?;
    }
    for (path, text) in FILES {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for name in TABLES {
        let link = root.join("usr/sbin").join(name);
        symlink("xtables-nft-multi", &link).with_context(|| format!("link {}", link.display()))?;
    }
    let list = root.join(LIST);
    fs::write(&list, PACKAGES.join("\n")).with_context(|| format!("write {}", list.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_lacks_a_package_is_made_anew() {
        assert!(holds(&PACKAGES.join("\n")));
        assert!(holds(&format!("{}\nmore", PACKAGES.join("\n"))));
        assert!(!holds(&PACKAGES[1..].join("\n")));
        assert!(!holds(""));
    }

    #[test]
    fn half_made_roots_are_not_found() {
        let folder = std::env::temp_dir().join(format!("longshore-roots-{}", std::process::id()));
        for name in [
            ".late.new",
            "late-2001-02-03",
            "late-2001-01-09",
            "later-2001-02-04",
        ] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let found = of_suite(&folder, "late").unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            found,
            ["late-2001-01-09", "late-2001-02-03"].map(|name| folder.join(name))
        );
        assert!(of_suite(&folder, "late").unwrap().is_empty());
    }
}
