//! The lane `vm`: one boot of a guest, and every test of the binary `vm` in it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{FEATURES, nextest};
use crate::{run, vm};

/// Empty disks of the guest: the first for the data, the second for the metadata of a pool.
const DISKS: [u64; 2] = [256 << 20, 32 << 20];
/// Modules that are loaded before the tests, so that none of them depends on another's order.
const MODULES: [&str; 3] = ["dm_thin_pool", "dm_flakey", "loop"];

/// Runs the test binary that `filter` names in one guest; an error when a test failed or none ran.
pub(super) fn run(filter: &str, limit: Duration) -> Result<()> {
    let binary = binary(filter)?;
    let start = Instant::now();
    let ended = vm::run(&vm::Wishes {
        disks: DISKS.to_vec(),
        guests: 1,
        memory: 1024,
        modules: MODULES.map(str::to_owned).to_vec(),
        deadline: limit.as_secs(),
        words: [&binary.to_string_lossy(), "--test-threads", "1"]
            .map(str::to_owned)
            .to_vec(),
    })?;
    let end = ended.first().context("no guest ran")?;
    let (passed, failed) = counts(&end.said).context("the tests in the guest came to no result")?;
    println!(
        "vm: {passed} passed, {failed} failed in one guest, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    if end.code != 0 || failed > 0 || passed == 0 {
        bail!(
            "{failed} tests failed in the guest, {passed} passed, exit code {}",
            end.code
        );
    }
    Ok(())
}

/// Where the test binary lies, which the lanes have built already.
fn binary(filter: &str) -> Result<PathBuf> {
    let mut list = nextest("list")?;
    list.args(FEATURES).args([
        "--list-type",
        "binaries-only",
        "--message-format",
        "json",
        "-E",
        filter,
    ]);
    let text = run::read(&mut list)?;
    find(&text).context("nextest names no test binary vm")
}

fn find(list: &str) -> Option<PathBuf> {
    let list: serde_json::Value = serde_json::from_str(list).ok()?;
    let binaries = list["rust-binaries"].as_object()?;
    let ours = |binary: &&serde_json::Value| binary["binary-name"] == "vm" && binary["kind"] == "test";
    Some(PathBuf::from(
        binaries.values().find(ours)?["binary-path"].as_str()?,
    ))
}

/// Passed and failed, from `test result: ok. 3 passed; 0 failed; …`.
fn counts(said: &str) -> Option<(u32, u32)> {
    let line = said
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("test result: "))?;
    let count = |what: &str| {
        let part = line
            .split(['.', ';'])
            .map(str::trim)
            .find_map(|part| part.strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_last_result() {
        let said = "running 3 tests\ntest a ... ok\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured\n";
        assert_eq!(counts(said), Some((2, 1)));
        assert_eq!(counts("running 3 tests\n"), None);
    }

    #[test]
    fn the_test_binary_is_found_by_name_and_kind() {
        let list = r#"{"rust-binaries": {
            "a": {"binary-name": "vm", "kind": "lib", "binary-path": "/a"},
            "b": {"binary-name": "vm", "kind": "test", "binary-path": "/b"}}}"#;
        assert_eq!(find(list), Some(PathBuf::from("/b")));
        assert_eq!(find("{}"), None);
    }
}
