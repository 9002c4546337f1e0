//! What lanes need from the machine, and how the missing part gets there.

use std::path::Path;

use anyhow::{Context, Result};

use super::suites::{self, Suite};
use super::unpacked;
use crate::{run, vm};

/// Something a lane needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Root, for namespaces and mounts.
    Root,
    /// A program, and the Debian package that brings it.
    Program(&'static str, &'static str),
    /// A file that is no program, and the Debian package that brings it.
    File(&'static str, &'static str),
    /// The test runner, which comes by cargo.
    Nextest,
    /// Debian's own kernel for guests, which is unpacked and not installed.
    Kernel,
    /// A program of another suite of the machine's own Debian mirror: its package is unpacked beside
    /// what is built, and not installed. Tests that need it skip loudly by themselves.
    Unpacked {
        /// What is looked for in the package's `usr/bin`.
        program: &'static str,
        /// The package.
        package: &'static str,
        /// The suite.
        suite: &'static str,
        /// Whether a program of that name that is installed already will do.
        any: bool,
    },
    /// A root of another suite, with engines in it. Tests that need it skip loudly by themselves.
    Suite(Suite),
}

impl Need {
    /// The need as the table prints it.
    pub(crate) fn spoken(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Program(program, _) | Self::Unpacked { program, .. } => program,
            Self::Suite(suite) => suite.name(),
            Self::File(file, _) => file,
            Self::Nextest => "cargo-nextest",
            Self::Kernel => "a kernel for guests",
        }
    }

    fn met(self) -> bool {
        match self {
            Self::Root => run::is_root(),
            Self::Program(program, _) => run::which(program).is_some(),
            Self::File(file, _) => Path::new(file).is_file(),
            Self::Nextest => run::which("cargo-nextest").is_some() || in_cargo_home("cargo-nextest"),
            Self::Kernel => vm::have_kernel(),
            Self::Unpacked { program, any, .. } => {
                any && run::which(program).is_some() || unpacked::has(program)
            }
            Self::Suite(suite) => suites::has(suite),
        }
    }
}

fn in_cargo_home(program: &str) -> bool {
    // Cargo tells its children where it lives.
    std::env::var_os("CARGO_HOME").is_some_and(|home| Path::new(&home).join("bin").join(program).is_file())
}

/// Brings what is missing of `needs` where we can, and answers what is still missing.
pub(crate) fn provide(needs: &[Need]) -> Result<Vec<Need>> {
    // A kernel can be fetched only when the programs for that are there, so it is looked for at the end.
    let (kernel, needs): (Vec<Need>, Vec<Need>) = needs.iter().partition(|need| **need == Need::Kernel);
    let missing: Vec<Need> = needs.into_iter().filter(|need| !need.met()).collect();
    if missing.contains(&Need::Nextest) {
        run::must(run::cargo().args(["install", "cargo-nextest", "--locked"]))?;
    }
    let packages = packages(&missing);
    if !packages.is_empty() && run::is_root() && run::which("apt-get").is_some() {
        install(&packages)?;
    }
    for need in &missing {
        if let Need::Unpacked { package, suite, .. } = need {
            // A mirror out of reach costs the tests of one server, and they say so.
            if let Err(error) = unpacked::bring(package, suite) {
                eprintln!("{package} of {suite}: {error:#}");
            }
        }
    }
    make_suites(&missing);
    let lanes_need = |need: &Need| !matches!(need, Need::Unpacked { .. } | Need::Suite(_));
    let missing = missing.into_iter().chain(kernel);
    Ok(missing.filter(|need| lanes_need(need) && !need.met()).collect())
}

/// Makes roots side by side: most of the time is the mirror's.
fn make_suites(missing: &[Need]) {
    std::thread::scope(|scope| {
        for need in missing {
            if let Need::Suite(suite) = *need {
                scope.spawn(move || {
                    if let Err(error) = suites::make(suite) {
                        eprintln!("the root of {}: {error:#}", suite.name());
                    }
                });
            }
        }
    });
}

fn packages(missing: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing
        .iter()
        .filter_map(|need| match need {
            Need::Program(_, package) | Need::File(_, package) => Some(*package),
            Need::Root | Need::Nextest | Need::Kernel | Need::Unpacked { .. } | Need::Suite(_) => None,
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(" "));
    // A package that starts a daemon at once would meet the tests' own one.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        write_executable(policy, "#!/bin/sh\nexit 101\n")?;
    }
    let outcome = apt(&["update"]).map(|()| {
        let words = ["install", "-y", "--no-install-recommends"];
        if apt(&[&words, packages].concat()).is_ok() {
            return;
        }
        // One that cannot be had must not keep away the others; it stays missing, which its lane tells.
        for package in packages {
            if let Err(error) = apt(&[&words[..], &[package]].concat()) {
                eprintln!("{package} could not be installed: {error:#}");
            }
        }
    });
    if ours {
        std::fs::remove_file(policy).with_context(|| format!("remove {}", policy.display()))?;
    }
    outcome
}

fn apt(words: &[&str]) -> Result<()> {
    run::must(
        run::program("apt-get")
            .arg("-qq")
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once() {
        let missing = [
            Need::Program("ip", "iproute2"),
            Need::Root,
            Need::Program("ss", "iproute2"),
        ];
        assert_eq!(packages(&missing), ["iproute2"]);
    }

    #[test]
    fn a_program_that_nobody_has_is_missing() {
        assert!(!Need::Program("longshore-no-such-program", "none").met());
        assert!(Need::Program("sh", "dash").met());
    }
}
