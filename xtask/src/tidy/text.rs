//! Rules about the words of a file.

use std::path::Path;

use super::Complaint;

const LONGEST: usize = 800;
const WIRE: &str = "plugin-api/src/wire";
const CELLAR: &str = "kernel/";

/// Words that follow the keyword where it means something to the compiler.
const UNSAFE_FORMS: &[&str] = &["{", "fn", "impl", "trait", "extern", "("];

/// What no tracked file may hold, split so that this file passes its own rule.
const EVERYWHERE: &[(&str, &str, &str)] = &[
    ("gh", "cr.io", "a registry's host name"),
    ("qu", "ay.io", "a registry's host name"),
    ("gc", "r.io", "a registry's host name"),
    ("registry-1", ".docker", "a registry's host name"),
    ("index", ".docker", "a registry's host name"),
    ("arti", "factory", "a registry's host name"),
    ("index.cr", "ates.io", "a registry's host name"),
    ("static.cr", "ates.io", "a registry's host name"),
];

/// Folders in which a checkout or a toolchain of one machine lies.
const MACHINE: &[(&str, &str)] = &[("/ro", "ot/"), ("/ho", "me/"), ("/wo", "rk/")];

/// Where `Cargo.lock` may fetch from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Complaints about the text `body` of `file`, a path below the root.
pub(super) fn check(file: &str, body: &str) -> Vec<Complaint> {
    let mut all = everywhere(file, body);
    if file == "Cargo.lock" {
        all.extend(lock_sources(file, body));
    }
    if Path::new(file).extension().is_some_and(|ext| ext == "rs") {
        all.extend(length(file, body));
        all.extend(code(file, body));
    }
    all
}

fn everywhere(file: &str, body: &str) -> Vec<Complaint> {
    let mut all = Vec::new();
    for (number, line) in numbered(body) {
        for (head, tail, what) in EVERYWHERE {
            if line.contains(&format!("{head}{tail}")) {
                all.push(format!("{file}:{number}: {what} ({head}{tail})"));
            }
        }
        for (head, tail) in MACHINE {
            if names_machine_path(line, &format!("{head}{tail}")) {
                all.push(format!("{file}:{number}: a machine's path ({head}{tail})"));
            }
        }
        for (head, tail) in [("TO", "DO"), ("FIX", "ME")] {
            if has_word(line, &format!("{head}{tail}")) {
                all.push(format!("{file}:{number}: {head}{tail} left behind"));
            }
        }
    }
    all
}

/// Whether an absolute path with two more steps below `folder` stands in `line`; a shorter one is an
/// example's, and one with something before it is a folder of that name elsewhere.
fn names_machine_path(line: &str, folder: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "_-.})".contains(c);
    line.match_indices(folder).any(|(at, _)| {
        let below = line[at + folder.len()..].trim_start_matches(part);
        let first = below.len() < line.len() - at - folder.len();
        !line[..at].ends_with(part) && first && below.starts_with('/')
    })
}

fn lock_sources(file: &str, body: &str) -> Vec<Complaint> {
    numbered(body)
        .filter_map(|(number, line)| line.strip_prefix("source = ").map(|source| (number, source)))
        .filter(|(_, source)| source.trim_matches('"') != REGISTRY)
        .map(|(number, source)| format!("{file}:{number}: package from elsewhere: {source}"))
        .collect()
}

fn length(file: &str, body: &str) -> Option<Complaint> {
    let generated = body.lines().take(3).any(|line| line.contains("@generated"));
    let lines = body.lines().count();
    (lines > LONGEST && !generated).then(|| format!("{file}:1: {lines} lines, more than {LONGEST}"))
}

/// Rules that hold for code but not for the comments beside it.
fn code(file: &str, body: &str) -> Vec<Complaint> {
    let mut all = Vec::new();
    for (number, line) in numbered(body) {
        let line = line.split("//").next().unwrap_or_default();
        let mut complain = |what: String| all.push(format!("{file}:{number}: {what}"));
        if !file.starts_with(CELLAR) {
            if means_unsafe(line) {
                complain("unsafe code outside kernel".to_owned());
            }
            for name in ["rustix", "libc", "nix"] {
                if names_crate(line, name) {
                    complain(format!("{name} outside kernel"));
                }
            }
        }
        if !file.starts_with(WIRE) && has_word(line, concat!("Serial", "ize")) {
            complain(format!("{} outside {WIRE}", concat!("Serial", "ize")));
        }
        if line.trim_start().starts_with(concat!("#[", "ignore")) {
            complain("a test that never runs".to_owned());
        }
    }
    all
}

fn means_unsafe(line: &str) -> bool {
    words(line, concat!("uns", "afe")).any(|(_, after)| {
        let after = after.trim_start();
        UNSAFE_FORMS.iter().any(|form| after.starts_with(form))
    })
}

fn names_crate(line: &str, name: &str) -> bool {
    words(line, name).any(|(before, after)| {
        after.starts_with("::") && !before.ends_with("::") || before.trim_end().ends_with("use")
    })
}

fn has_word(line: &str, word: &str) -> bool {
    words(line, word).next().is_some()
}

/// Occurrences of `word` as a whole word: the text before and the text after each.
fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .map(move |(at, _)| (&line[..at], &line[at + word.len()..]))
        .filter(move |(before, after)| !before.ends_with(part) && !after.starts_with(part))
}

fn numbered(body: &str) -> impl Iterator<Item = (usize, &str)> {
    body.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each wrong text, where it stands, and a piece of the complaint it must cause.
    fn refused(file: &str, body: &str, piece: &str) {
        let all = check(file, body);
        assert!(
            all.iter().any(|text| text.contains(piece)),
            "{file}: {body:?} gave {all:?}, not {piece:?}"
        );
    }

    fn silent(file: &str, body: &str) {
        assert_eq!(check(file, body), Vec::<String>::new(), "{file}: {body:?}");
    }

    #[test]
    fn unsafe_code_belongs_in_the_cellar() {
        let block = concat!("let x = uns", "afe { y() };");
        refused("engine/src/main.rs", block, "outside kernel");
        refused(
            "engine/src/main.rs",
            concat!("uns", "afe fn f() {}"),
            "outside kernel",
        );
        silent("kernel/src/mount.rs", block);
        silent(
            "engine/src/main.rs",
            "// unsafe { } is elsewhere\nlet s = \"unsafe path\"; #![forbid(unsafe_code)]",
        );
    }

    #[test]
    fn system_crates_belong_in_the_cellar() {
        refused(
            "voldrivers/src/nfs.rs",
            concat!("let n = li", "bc::getpid();"),
            "libc outside kernel",
        );
        refused(
            "src/main.rs",
            concat!("use rus", "tix::fs;"),
            "rustix outside kernel",
        );
        silent("kernel/src/mount.rs", concat!("use rus", "tix::fs;"));
        silent("src/main.rs", "let os = std::os::unix::fs::symlink;");
    }

    #[test]
    fn only_the_wire_serializes() {
        let line = concat!("#[derive(Debug, Serial", "ize)]");
        refused("plugin-api/src/volume.rs", line, "outside plugin-api/src/wire");
        silent("plugin-api/src/wire/volume.rs", line);
        silent("src/config.rs", "#[derive(Debug, Deserialize)]");
    }

    #[test]
    fn long_files_are_refused_unless_generated() {
        let long = "fn f() {}\n".repeat(LONGEST + 1);
        refused("src/main.rs", &long, "801 lines");
        silent("src/main.rs", &"fn f() {}\n".repeat(LONGEST));
        silent("src/main.rs", &format!("// @generated\n{long}"));
    }

    #[test]
    fn reminders_are_refused() {
        refused("README.md", concat!("TO", "DO: write"), "left behind");
        refused("src/main.rs", concat!("// FIX", "ME later"), "left behind");
        silent("README.md", "a method called TODOS");
    }

    #[test]
    fn machine_paths_and_registries_are_refused() {
        for (head, tail, what) in EVERYWHERE {
            refused("packaging/x.service", &format!("A={head}{tail}x"), what);
        }
        for (head, tail) in MACHINE {
            refused(
                "packaging/x.service",
                &format!("A={head}{tail}x/y"),
                "a machine's path",
            );
            silent(
                "src/main.rs",
                &format!("let upper = \"/layers{head}{tail}x/y\"; // {head}{tail}x"),
            );
        }
    }

    #[test]
    fn packages_from_elsewhere_are_refused() {
        refused(
            "Cargo.lock",
            "source = \"git+https://example.org/x\"",
            "from elsewhere",
        );
        silent("Cargo.lock", &format!("source = \"{REGISTRY}\""));
    }

    #[test]
    fn tests_that_never_run_are_refused() {
        refused("kernel/src/mount.rs", concat!("    #[", "ignore]"), "never runs");
    }
}
