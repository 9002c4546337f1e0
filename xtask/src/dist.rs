//! `cargo xtask dist`: the binaries as they are installed, linked statically, and their papers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// What is installed.
const BINARIES: [&str; 3] = ["longshore", "longshore-contract", "longshore-engine"];

/// Builds everything into `target/dist`.
pub(crate) fn dist() -> Result<()> {
    let release = build(&["longshore", "engine"])?;
    let dist = run::target_dir()?.join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("empty {}", dist.display()))?;
    }
    for folder in ["man", "completions", "packaging"] {
        fs::create_dir_all(dist.join(folder)).with_context(|| format!("create {}", dist.display()))?;
    }
    for binary in BINARIES {
        check_static(&release.join(binary))?;
        copy(&release.join(binary), &dist.join(binary))?;
    }
    papers(&dist)?;
    println!("{}", dist.display());
    Ok(())
}

/// Builds packages with optimisation and without any library of the host, and says where.
///
/// The target is named although it is the host's own: without it cargo would link build scripts and
/// macros statically as well, which the compiler cannot load.
pub(crate) fn build(packages: &[&str]) -> Result<PathBuf> {
    let about = run::read_words("rustc", &["-vV"])?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let mut cargo = run::cargo();
    cargo.args(["build", "--release", "--locked", "--bins", "--target", host]);
    for package in packages {
        cargo.args(["-p", package]);
    }
    run::must(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(run::target_dir()?.join(host).join("release"))
}

fn papers(dist: &Path) -> Result<()> {
    let longshore = dist.join("longshore");
    run::must(run::program(&longshore).arg("man").arg(dist.join("man")))?;
    for (shell, name) in [
        ("bash", "longshore.bash"),
        ("zsh", "_longshore"),
        ("fish", "longshore.fish"),
    ] {
        let script = run::read(run::program(&longshore).args(["completions", shell]))?;
        let file = dist.join("completions").join(name);
        fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    }
    let packaging = run::root().join("packaging");
    for file in [
        "longshore.toml",
        "systemd/longshore.service",
        "systemd/longshore.socket",
    ] {
        let name = Path::new(file).file_name().context("a file has a name")?;
        copy(&packaging.join(file), &dist.join("packaging").join(name))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// A program that asks for an interpreter (PT_INTERP, elf(5)) is linked dynamically.
fn check_static(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    match wants_interpreter(&bytes) {
        Some(false) => Ok(()),
        Some(true) => bail!("{} needs libraries of the host", file.display()),
        None => bail!("{} is no program for 64-bit little-endian Linux", file.display()),
    }
}

/// Whether an ELF64 little-endian file has a PT_INTERP header; `None` if it is no such file.
fn wants_interpreter(bytes: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    (bytes.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
    let table = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let number = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            bytes.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let (size, count) = (number(54)?, number(56)?);
    let mut kinds = (0..count).map(|index| {
        let at = table.checked_add(index * size)?;
        Some(u32::from_le_bytes(
            bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
        ))
    });
    kinds.try_fold(false, |found, kind| Some(found || kind? == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_none() {
        // This very test is linked with the host's libraries.
        let own = fs::read("/proc/self/exe").unwrap();
        assert_eq!(wants_interpreter(&own), Some(true));
        assert_eq!(wants_interpreter(b"#!/bin/sh"), None);
        assert_eq!(wants_interpreter(&own[..80]), None);
    }
}
