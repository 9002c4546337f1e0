//! Skips are loud.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns from the test, loudly, unless the machine has every program named (and we are root).
#[macro_export]
macro_rules! requires {
    ($($tool:literal),+ $(,)?) => {
        if !$crate::world::have(&[$($tool),+]) {
            return;
        }
    };
}

/// Whether we are root and every program is there; otherwise the skip is reported.
pub(crate) fn have(tools: &[&str]) -> bool {
    let reasons: Vec<String> = missing(tools);
    if reasons.is_empty() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test without a name");
    let line = format!("{test}: needs {}", reasons.join(", "));
    assert!(
        std::env::var("LONGSHORE_REQUIRE").as_deref() != Ok("all"),
        "{line}, and LONGSHORE_REQUIRE=all forbids to skip it"
    );
    eprintln!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("LONGSHORE_SKIPS") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    false
}

fn missing(tools: &[&str]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // The workspace's own programs lie beside each other.
    dirs.extend(
        Path::new(env!("CARGO_BIN_EXE_longshore"))
            .parent()
            .map(Path::to_owned),
    );
    let in_path = |tool: &str| dirs.iter().any(|dir| dir.join(tool).is_file());
    let mut reasons: Vec<String> = Vec::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t0")) {
        reasons.push("root".to_owned());
    }
    let always = ["unshare", "nsenter", "setpriv", "ip", "nft", "bash"];
    for tool in always.iter().chain(tools) {
        if !in_path(tool) {
            reasons.push(format!("the program {tool}"));
        }
    }
    reasons
}
