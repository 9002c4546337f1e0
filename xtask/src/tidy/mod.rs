//! Rules of the house that neither the compiler nor clippy knows.
//!
//! Each rule is a pure function from text to complaints, so that a test can
//! feed it a wrong text and see it complain; [`complaints`] feeds them the repository.

mod arrows;
mod links;
mod text;

use std::path::Path;

use anyhow::{Context, Result};

use crate::run;

/// One broken rule, as `file:line: what is wrong`.
pub(crate) type Complaint = String;

/// Everything wrong with the repository below `root`; empty when tidy.
pub(crate) fn complaints(root: &Path) -> Result<Vec<Complaint>> {
    let metadata = run::read(run::cargo().current_dir(root).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ]))?;
    let metadata = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let mut all = arrows::check(&metadata);
    for file in tracked(root)? {
        // A file may be listed and be gone from the working tree while a change is under way.
        let Ok(bytes) = std::fs::read(root.join(&file)) else {
            continue;
        };
        // Binary files hold no rules of ours.
        let Ok(body) = String::from_utf8(bytes) else {
            continue;
        };
        all.extend(text::check(&file, &body));
        if Path::new(&file).extension().is_some_and(|ext| ext == "md") {
            all.extend(links::check(root, &file, &body));
        }
    }
    Ok(all)
}

/// Tracked and new files, ignored ones left out, as paths below `root`.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = run::read(run::program("git").current_dir(root).args(words))?;
    Ok(list
        .split('\0')
        .filter(|file| !file.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let all = complaints(&run::root()).unwrap();
        assert!(all.is_empty(), "{} complaints:\n{}", all.len(), all.join("\n"));
    }

    #[test]
    fn the_repository_has_files_to_check() {
        let files = tracked(&run::root()).unwrap();
        for expected in ["Cargo.toml", "kernel/src/record/mod.rs", "xtask/src/tidy/mod.rs"] {
            assert!(
                files.iter().any(|file| file == expected),
                "{expected} is not among the checked files"
            );
        }
    }
}
