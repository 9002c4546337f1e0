//! Decisions without hands.

use std::path::{Path, PathBuf};

use plugin_api::Fault;
use plugin_api::snapshot::{LONGEST_LABEL, LabelChange, Labels, SnapshotKey, SnapshotKind, SnapshotMount};

use crate::backend::View;

use super::store::{Snapshot, Snapshots};

pub(super) fn find<'a>(all: &'a Snapshots, key: &SnapshotKey) -> Result<&'a Snapshot, Fault> {
    all.get(key)
        .ok_or_else(|| Fault::not_found(format!("snapshot {key} does not exist")))
}

/// Whether a snapshot may be made.
pub(super) fn make(all: &Snapshots, key: &SnapshotKey, parent: Option<&SnapshotKey>) -> Result<(), Fault> {
    if all.contains_key(key) {
        let message = format!("make snapshot {key}: one of that key exists");
        return Err(Fault::already_exists(message));
    }
    let Some(parent) = parent else { return Ok(()) };
    match all.get(parent) {
        None => Err(Fault::not_found(format!(
            "make snapshot {key}: its parent {parent} does not exist"
        ))),
        Some(found) if found.kind != SnapshotKind::Committed => Err(Fault::invalid(format!(
            "make snapshot {key}: its parent {parent} is not committed"
        ))),
        Some(_) => Ok(()),
    }
}

/// The snapshot that is to be committed.
pub(super) fn commit(all: &Snapshots, name: &SnapshotKey, key: &SnapshotKey) -> Result<Snapshot, Fault> {
    let found = find(all, key)?;
    if found.kind != SnapshotKind::Active {
        let message = format!("commit snapshot {key}: it is not one to be written");
        return Err(Fault::wrong_state(message));
    }
    if all.contains_key(name) {
        let message = format!("commit snapshot {key} as {name}: one of that name exists");
        return Err(Fault::already_exists(message));
    }
    Ok(found.clone())
}

/// Whether a snapshot may be committed upon that parent: what was written is told against the parent it was
/// prepared upon, so only one that was prepared upon nothing gets another.
pub(super) fn rebase(
    all: &Snapshots,
    key: &SnapshotKey,
    now: &Snapshot,
    parent: &SnapshotKey,
) -> Result<(), Fault> {
    if find(all, parent)?.kind != SnapshotKind::Committed {
        let message = format!("commit snapshot {key} upon {parent}: that one is not committed");
        return Err(Fault::invalid(message));
    }
    match &now.parent {
        Some(other) if other != parent => Err(Fault::invalid(format!(
            "commit snapshot {key} upon {parent}: it was made upon {other}"
        ))),
        _ => Ok(()),
    }
}

/// The snapshot that is to be removed.
pub(super) fn remove(all: &Snapshots, key: &SnapshotKey) -> Result<Snapshot, Fault> {
    let found = find(all, key)?;
    let child = all.iter().find(|(_, other)| other.parent.as_ref() == Some(key));
    match child {
        None => Ok(found.clone()),
        Some((child, _)) => Err(Fault::in_use(format!(
            "remove snapshot {key}: snapshot {child} stands upon it"
        ))),
    }
}

/// Labels after a change, without empty ones.
pub(super) fn labels(before: &Labels, change: &LabelChange) -> Result<Labels, Fault> {
    let (mut after, change) = match change {
        LabelChange::All(all) => (Labels::new(), all),
        LabelChange::Some(some) => (before.clone(), some),
    };
    for (key, value) in change {
        if key.is_empty() || key.len() + value.len() > LONGEST_LABEL {
            let key = plugin_api::id::quoted(key);
            let message = format!(
                "label {key} of a snapshot: key and value hold more than {LONGEST_LABEL} bytes, or none"
            );
            return Err(Fault::invalid(message));
        }
        if value.is_empty() {
            after.remove(key);
        } else {
            after.insert(key.clone(), value.clone());
        }
    }
    Ok(after)
}

/// A mount for containerd to execute. `write`: as the layer's own, else only to look at it.
pub(super) fn mount(spec: View, write: bool) -> Result<SnapshotMount, Fault> {
    let (mut lowers, upper) = match spec {
        View::Directory { path } => {
            let options = ["rbind", if write { "rw" } else { "ro" }];
            return Ok(SnapshotMount {
                kind: "bind".to_owned(),
                source: text(&path)?.to_owned(),
                options: options.map(str::to_owned).to_vec(),
            });
        }
        View::Overlay { lowers, upper, .. } => (lowers, upper),
    };
    let mut options = vec!["index=off".to_owned()];
    match upper {
        Some((upper, work)) if write => {
            options.push(format!("workdir={}", text(&work)?));
            options.push(format!("upperdir={}", text(&upper)?));
        }
        // What was written is the topmost of what is looked at.
        Some((upper, _)) => lowers.insert(0, upper),
        None => {}
    }
    let lowers: Result<Vec<&str>, Fault> = lowers.iter().map(|path: &PathBuf| text(path)).collect();
    options.push(format!("lowerdir={}", lowers?.join(":")));
    Ok(SnapshotMount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options,
    })
}

/// A path as it stands among mount options, which cannot be quoted in all the places they go through.
pub(super) fn text(path: &Path) -> Result<&str, Fault> {
    let plain = path.to_str().filter(|text| !text.contains([':', ',', '\\']));
    plain.ok_or_else(|| {
        Fault::unsupported(format!(
            "describe a mount of {}: the state folder's name holds a colon, a comma or a backslash",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use plugin_api::FaultKind;

    use super::*;

    fn key(text: &str) -> SnapshotKey {
        SnapshotKey::new(text).unwrap()
    }

    fn all() -> Snapshots {
        use SnapshotKind::{Active, Committed, View};
        let rows = [
            ("base", None, Committed),
            ("a", Some("base"), Active),
            ("v", Some("base"), View),
        ];
        let row = |(name, parent, kind): (&str, Option<&str>, SnapshotKind)| {
            let snapshot = Snapshot {
                layer: None,
                parent: parent.map(key),
                kind,
                created: UNIX_EPOCH,
                updated: UNIX_EPOCH,
                labels: Labels::new(),
            };
            (key(name), snapshot)
        };
        rows.map(row).into()
    }

    fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> FaultKind {
        outcome.unwrap_err().kind
    }

    #[test]
    fn parents_are_there_and_committed() {
        let all = all();
        make(&all, &key("n"), Some(&key("base"))).unwrap();
        make(&all, &key("n"), None).unwrap();
        assert_eq!(refused(make(&all, &key("a"), None)), FaultKind::AlreadyExists);
        assert_eq!(
            refused(make(&all, &key("n"), Some(&key("x")))),
            FaultKind::NotFound
        );
        assert_eq!(
            refused(make(&all, &key("n"), Some(&key("a")))),
            FaultKind::Invalid
        );
        assert_eq!(
            refused(make(&all, &key("n"), Some(&key("v")))),
            FaultKind::Invalid
        );
    }

    #[test]
    fn only_what_was_written_is_committed() {
        let all = all();
        commit(&all, &key("n"), &key("a")).unwrap();
        for name in ["v", "base"] {
            assert_eq!(
                refused(commit(&all, &key("n"), &key(name))),
                FaultKind::WrongState
            );
        }
        assert_eq!(
            refused(commit(&all, &key("base"), &key("a"))),
            FaultKind::AlreadyExists
        );
        assert_eq!(refused(commit(&all, &key("n"), &key("x"))), FaultKind::NotFound);
        assert_eq!(refused(remove(&all, &key("base"))), FaultKind::InUse);
        remove(&all, &key("v")).unwrap();
    }

    #[test]
    fn a_look_at_a_written_layer_has_no_upper_folder() {
        let spec = || View::Overlay {
            lowers: vec!["/s/1".into()],
            upper: Some(("/s/2".into(), "/s/w".into())),
            label: None,
        };
        let look = mount(spec(), false).unwrap();
        assert_eq!(look.options, ["index=off", "lowerdir=/s/2:/s/1"]);
        let write = mount(spec(), true).unwrap();
        assert_eq!(
            write.options[1..],
            ["workdir=/s/w", "upperdir=/s/2", "lowerdir=/s/1"]
        );
        let odd = View::Directory { path: "/a,b".into() };
        assert_eq!(refused(mount(odd, true)), FaultKind::Unsupported);
    }

    #[test]
    fn an_empty_value_removes_a_label_and_a_long_one_is_refused() {
        let before: Labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        let one = |key: &str, value: &str| LabelChange::Some([(key.to_owned(), value.to_owned())].into());
        let after = labels(&before, &one("a", "")).unwrap();
        assert_eq!(after.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(
            labels(&before, &LabelChange::All(Labels::new())).unwrap(),
            Labels::new()
        );
        let long = "x".repeat(LONGEST_LABEL);
        assert_eq!(refused(labels(&before, &one("a", &long))), FaultKind::Invalid);
        labels(&before, &one("a", &long[1..])).unwrap();
    }
}
