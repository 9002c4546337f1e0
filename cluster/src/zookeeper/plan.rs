//! From what was found to the steps of one request, all or none of which happen.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{self, Node};
use crate::{Expect, Guard, LeaseId, Op};

/// One step, with paths below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The node has this version.
    Check { path: String, version: i32 },
    /// There is no node, and now there is.
    Create { path: String, bytes: Vec<u8> },
    /// The node is written; with a version, if it still has that.
    Write {
        path: String,
        bytes: Vec<u8>,
        version: Option<i32>,
    },
    /// The node is removed if it still has this version.
    Remove { path: String, version: i32 },
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By key.
    pub(super) nodes: BTreeMap<String, Node>,
    /// By name: how often a row was removed from the folder. Without that, a row that was removed and
    /// made again could pass for the old one, since versions begin anew.
    pub(super) folders: BTreeMap<String, i32>,
}

impl Found {
    /// What the world sees.
    pub(super) fn row(&self, key: &str) -> Option<&crate::Row> {
        let node = self.nodes.get(key).filter(|node| node.alive);
        node.map(|node| &node.row)
    }
}

pub(super) const ROWS: &str = "rows";
pub(super) const LEASES: &str = "leases";
/// Written with every change: its last change is the store's revision.
pub(super) const GENERATION: &str = "generation";

pub(super) fn row_path(key: &str) -> String {
    let (folder, name) = node::names(key);
    format!("{ROWS}/{folder}/{name}")
}

pub(super) fn folder_path(folder: &str) -> String {
    format!("{ROWS}/{folder}")
}

pub(super) fn lease_path(lease: &LeaseId) -> String {
    format!("{LEASES}/{}", lease.0)
}

/// The leases that changes bind rows to, each once: the first steps of a plan check them, in this order.
pub(super) fn leases(ops: &[Op]) -> Vec<&LeaseId> {
    let all = ops.iter().filter_map(|op| match op {
        Op::Put { lease, .. } => lease.as_ref(),
        Op::Delete { .. } => None,
    });
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The steps; the last one answers the revision.
pub(super) fn steps(guards: &[Guard], ops: &[Op], found: &Found) -> Vec<Step> {
    let mut steps: Vec<Step> = leases(ops)
        .into_iter()
        .map(|lease| Step::Check {
            path: lease_path(lease),
            version: 0,
        })
        .collect();
    let guarded = guards
        .iter()
        .filter(|guard| guard.expect != Expect::Any && ops.iter().all(|op| op.key() != guard.key));
    let guarded: BTreeSet<&str> = guarded.map(|guard| guard.key.as_str()).collect();
    steps.extend(folders(&guarded, ops, found));
    for key in guarded {
        match found.nodes.get(key) {
            Some(node) => steps.push(Step::Check {
                path: row_path(key),
                version: node.version,
            }),
            None => steps.extend(absent(key)),
        }
    }
    for op in ops {
        let path = row_path(op.key());
        let node = found.nodes.get(op.key());
        match (op, node) {
            (Op::Delete { key }, None) => steps.extend(absent(key)),
            (Op::Delete { .. }, Some(node)) => steps.push(Step::Remove {
                path,
                version: node.version,
            }),
            (Op::Put { value, lease, .. }, None) => steps.push(Step::Create {
                path,
                bytes: node::encode(value, lease.as_ref()),
            }),
            (Op::Put { value, lease, .. }, Some(node)) => steps.push(Step::Write {
                path,
                bytes: node::encode(value, lease.as_ref()),
                version: Some(node.version),
            }),
        }
    }
    steps.push(Step::Write {
        path: GENERATION.to_owned(),
        bytes: Vec::new(),
        version: None,
    });
    steps
}

/// A folder whose rows are relied on must not have lost one; one that loses a row counts it.
fn folders(guarded: &BTreeSet<&str>, ops: &[Op], found: &Found) -> Vec<Step> {
    let mut removes: BTreeMap<String, bool> = BTreeMap::new();
    let touched = guarded.iter().map(|key| (*key, false));
    let touched = touched.chain(ops.iter().map(|op| (op.key(), matches!(op, Op::Delete { .. }))));
    for (key, remove) in touched.filter(|(key, _)| found.nodes.contains_key(*key)) {
        *removes.entry(node::names(key).0).or_default() |= remove;
    }
    let step = |(folder, remove): (String, bool)| {
        let (path, version) = (folder_path(&folder), *found.folders.get(&folder)?);
        Some(if remove {
            Step::Write {
                path,
                bytes: Vec::new(),
                version: Some(version),
            }
        } else {
            Step::Check { path, version }
        })
    };
    removes.into_iter().filter_map(step).collect()
}

/// ZooKeeper has no check for what is not there; but what is made and removed was not.
fn absent(key: &str) -> [Step; 2] {
    let path = row_path(key);
    let make = Step::Create {
        path: path.clone(),
        bytes: node::encode(&[], None),
    };
    [make, Step::Remove { path, version: 0 }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Revision, Row};

    fn found(keys: &[&str]) -> Found {
        let node = |key: &str| Node {
            row: Row {
                key: key.to_owned(),
                value: Vec::new(),
                revision: Revision(5),
                lease: None,
            },
            version: 7,
            alive: true,
        };
        Found {
            nodes: keys.iter().map(|key| ((*key).to_owned(), node(key))).collect(),
            folders: keys.iter().map(|key| (node::names(key).0, 3)).collect(),
        }
    }

    fn spoken(steps: &[Step]) -> Vec<String> {
        let one = |step: &Step| match step {
            Step::Check { path, version } => format!("check {path} {version}"),
            Step::Create { path, .. } => format!("create {path}"),
            Step::Write {
                path,
                version: Some(version),
                ..
            } => format!("write {path} {version}"),
            Step::Write { path, .. } => format!("write {path}"),
            Step::Remove { path, version } => format!("remove {path} {version}"),
        };
        steps.iter().map(one).collect()
    }

    fn put(key: &str, lease: Option<&str>) -> Op {
        Op::Put {
            key: key.to_owned(),
            value: Vec::new(),
            lease: lease.map(|lease| LeaseId(lease.to_owned())),
        }
    }

    fn delete(key: &str) -> Op {
        Op::Delete { key: key.to_owned() }
    }

    #[test]
    fn what_was_found_is_pinned() {
        let there = found(&["a/x"]);
        let plan = |ops: &[Op]| spoken(&steps(&[], ops, &there));
        assert_eq!(
            plan(&[put("a/x", None)]),
            ["check rows/=a 3", "write rows/=a/=x 7", "write generation"]
        );
        assert_eq!(
            plan(&[delete("a/x")]),
            ["write rows/=a 3", "remove rows/=a/=x 7", "write generation"]
        );
        assert_eq!(
            plan(&[put("a/y", None)]),
            ["create rows/=a/=y", "write generation"]
        );
        assert_eq!(
            plan(&[delete("a/y")]),
            ["create rows/=a/=y", "remove rows/=a/=y 0", "write generation"]
        );
    }

    #[test]
    fn leases_come_first_and_once_and_folders_once() {
        let there = found(&["a/x", "a/y"]);
        let ops = [put("a/x", Some("l")), delete("a/y"), put("b", Some("l"))];
        assert_eq!(
            spoken(&steps(&[], &ops, &there)),
            [
                "check leases/l 0",
                "write rows/=a 3",
                "write rows/=a/=x 7",
                "remove rows/=a/=y 7",
                "create rows/=/=b",
                "write generation"
            ]
        );
    }

    #[test]
    fn guards_of_rows_that_are_not_changed_are_steps() {
        let guard = |key: &str, expect| Guard {
            key: key.to_owned(),
            expect,
        };
        let guards = [
            guard("a/x", Expect::Revision(Revision(5))),
            guard("a/n", Expect::Absent),
            guard("a/any", Expect::Any),
        ];
        assert_eq!(
            spoken(&steps(&guards, &[put("b", None)], &found(&["a/x"]))),
            [
                "check rows/=a 3",
                "create rows/=a/=n",
                "remove rows/=a/=n 0",
                "check rows/=a/=x 7",
                "create rows/=/=b",
                "write generation"
            ]
        );
    }
}
