//! Skips are loud.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::suite::Suite;

/// Returns from the test, loudly, unless the machine has every program named (and we are root).
///
/// `of SUITE` before the programs looks for them in that suite's root.
#[macro_export]
macro_rules! requires {
    (of $suite:expr; $($tool:literal),+ $(,)?) => {
        if !$crate::world::have($suite, &[$($tool),+]) {
            return;
        }
    };
    ($($tool:literal),+ $(,)?) => {
        $crate::requires!(of $crate::world::Suite::Own; $($tool),+)
    };
}

/// Whether we are root and every program is there; otherwise the skip is reported.
pub(crate) fn have(suite: Suite, tools: &[&str]) -> bool {
    let reasons: Vec<String> = missing(suite, tools);
    if reasons.is_empty() {
        return true;
    }
    skip(&reasons);
    false
}

fn skip(reasons: &[String]) {
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
}

/// A program that the test command has unpacked beside what is built, because no suite of this machine has it
/// or has it new enough; otherwise the skip is reported.
pub(crate) fn unpacked(program: &str) -> Option<String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("servers/usr/bin").join(program);
    if !path.is_file() {
        skip(&[format!("the unpacked program {program}")]);
        return None;
    }
    Some(
        path.to_str()
            .expect("the target folder's name is text")
            .to_owned(),
    )
}

fn missing(suite: Suite, tools: &[&str]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let slash = suite.slash();
    let inside = |dir: &PathBuf| slash.join(dir.strip_prefix("/").unwrap_or(dir));
    let mut theirs: Vec<PathBuf> = own.iter().map(inside).collect();
    // The workspace's own programs lie beside each other.
    let longshore = Path::new(env!("CARGO_BIN_EXE_longshore"));
    theirs.extend(longshore.parent().map(Path::to_owned));
    theirs.push(inside(&PathBuf::from("/usr/lib/cni")));
    let mut reasons: Vec<String> = Vec::new();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t0")) {
        reasons.push("root".to_owned());
    }
    reasons.extend(suite.missing());
    // The world itself is made with this machine's own.
    let always = ["unshare", "nsenter", "setpriv", "ip", "nft", "bash"];
    let all = always.iter().map(|tool| (tool, &own));
    for (tool, dirs) in all.chain(tools.iter().map(|tool| (tool, &theirs))) {
        if !dirs.iter().any(|dir| dir.join(tool).is_file()) {
            reasons.push(format!("the program {tool}"));
        }
    }
    reasons
}
