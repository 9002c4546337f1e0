//! Who may import whom, read from the manifests.

use serde_json::Value;

use super::Complaint;

/// Each crate of ours and the crates of ours it may depend on, in tests too.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "longshore",
        &["graphdrivers", "netdrivers", "voldrivers", "plugin-api", "kernel"],
    ),
    ("graphdrivers", &["plugin-api", "kernel"]),
    ("netdrivers", &["plugin-api", "kernel", "cluster"]),
    ("voldrivers", &["plugin-api", "kernel", "cluster"]),
    ("engine", &["plugin-api", "kernel"]),
    ("benches", &["plugin-api", "kernel"]),
    ("plugin-api", &[]),
    ("kernel", &[]),
    ("cluster", &[]),
    ("xtask", &[]),
];

/// Crates that reach past the standard library into the system.
const CELLAR_ONLY: &[&str] = &["rustix", "libc", "nix"];

/// Complaints about the packages of `cargo metadata --no-deps`.
pub(super) fn check(metadata: &Value) -> Vec<Complaint> {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let mut all = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            all.push(format!(
                "{name}/Cargo.toml: crate {name} has no arrows in xtask/src/tidy/arrows.rs"
            ));
            continue;
        };
        let dependencies = package["dependencies"].as_array().unwrap_or(&empty);
        all.extend(
            dependencies
                .iter()
                .filter_map(|dependency| complaint(name, allowed, dependency)),
        );
    }
    all
}

fn complaint(from: &str, allowed: &[&str], dependency: &Value) -> Option<Complaint> {
    let to = dependency["name"].as_str().unwrap_or_default();
    // Only crates of the workspace have a path; a package of the same name from
    // a registry would be a foreign one.
    if dependency["path"].is_string() {
        return (!allowed.contains(&to)).then(|| format!("{from}/Cargo.toml: {from} must not import {to}"));
    }
    (from != "kernel" && CELLAR_ONLY.contains(&to))
        .then(|| format!("{from}/Cargo.toml: only kernel may depend on {to}, not {from}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(from: &str, dependency: &Value) -> Vec<Complaint> {
        check(&json!({"packages": [{"name": from, "dependencies": [dependency]}]}))
    }

    #[test]
    fn an_allowed_arrow_is_silent() {
        assert!(one("netdrivers", &json!({"name": "kernel", "path": "/r/kernel"})).is_empty());
    }

    #[test]
    fn a_sideways_arrow_is_refused() {
        let all = one(
            "netdrivers",
            &json!({"name": "graphdrivers", "path": "/r/graphdrivers"}),
        );
        assert_eq!(
            all,
            ["netdrivers/Cargo.toml: netdrivers must not import graphdrivers"]
        );
    }

    #[test]
    fn a_sideways_arrow_of_tests_is_refused() {
        let all = one(
            "cluster",
            &json!({"name": "kernel", "path": "/r/kernel", "kind": "dev"}),
        );
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn a_system_crate_outside_the_cellar_is_refused() {
        let all = one("voldrivers", &json!({"name": "libc"}));
        assert_eq!(
            all,
            ["voldrivers/Cargo.toml: only kernel may depend on libc, not voldrivers"]
        );
        assert!(one("kernel", &json!({"name": "libc"})).is_empty());
    }

    #[test]
    fn a_crate_without_arrows_is_refused() {
        assert_eq!(one("newcomer", &json!({"name": "serde"})).len(), 1);
    }
}
