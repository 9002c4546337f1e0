//! The one place where xtask starts other programs.
//!
//! **Invariant:** no shell; every argument is a word of its own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A command that is yet to be started, in the repository's root.
#[allow(
    clippy::disallowed_methods,
    reason = "xtask imports nothing of ours, so kernel::exec is out of reach"
)]
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root()).env("PATH", search_path());
    command
}

/// The repository's root: the parent of this crate's own folder.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    here.parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo itself, the same one that built us where there is one.
pub(crate) fn cargo() -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end with our own output streams; any status but success is an error.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let spoken = spoken(command);
    let status = command.status().with_context(|| format!("start {spoken}"))?;
    if !status.success() {
        bail!("{spoken}: {status}");
    }
    Ok(())
}

/// Runs to the end and answers what it printed; any status but success is an error with its stderr.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let spoken = spoken(command);
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {spoken}"))?;
    if !status.success() {
        bail!("{spoken}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// `read` for a program and its words.
pub(crate) fn read_words(name: &str, words: &[&str]) -> Result<String> {
    read(program(name).args(words))
}

/// The command as a person would type it.
pub(crate) fn spoken(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// The search path with the machine's usual folders: `sudo` and cron often leave the `sbin` folders out.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(usual)).unwrap_or(path)
}

/// Where `name` would be started from.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Whether we are root, by the owner of our own process folder.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The folder cargo builds into.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let text = read(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}
