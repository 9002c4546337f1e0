//! containerd's snapshots and diff services: protobuf messages to nouns and back.

mod filter;
mod media;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
pub mod content;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
pub mod diff;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
pub mod leases;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
pub mod namespaces;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    elided_lifetimes_in_paths,
    unreachable_pub,
    reason = "made by a generator"
)]
#[rustfmt::skip]
pub mod snapshots;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

pub use filter::Filters;
pub use media::{Layer, PLAIN};

use crate::fault::Fault;
use crate::graph::Usage;
use crate::snapshot::{LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotKind, SnapshotMount};

/// A parent as it is sent: empty is none.
pub fn parent_in(text: String) -> Result<Option<SnapshotKey>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    SnapshotKey::new(text).map(Some)
}

/// The parent for the wire.
pub fn parent_out(parent: Option<&SnapshotKey>) -> String {
    parent.map(|key| key.as_str().to_owned()).unwrap_or_default()
}

/// Mounts for the wire.
pub fn mounts_out(mounts: Vec<SnapshotMount>) -> Vec<snapshots::Mount> {
    let one = |mount: SnapshotMount| snapshots::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(one).collect()
}

/// Mounts of a differ from the wire. One whose place is below another's is `Unsupported`.
pub fn trees_in(mounts: Vec<diff::Mount>) -> Result<Vec<SnapshotMount>, Fault> {
    let one = |mount: diff::Mount| {
        if !mount.target.is_empty() {
            let target = crate::id::quoted(&mount.target);
            return Err(Fault::unsupported(format!(
                "read a mount: it has a place of its own, {target}"
            )));
        }
        Ok(SnapshotMount {
            kind: mount.r#type,
            source: mount.source,
            options: mount.options,
        })
    };
    mounts.into_iter().map(one).collect()
}

/// Mounts from the wire.
pub fn mounts_in(mounts: Vec<snapshots::Mount>) -> Vec<SnapshotMount> {
    let one = |mount: snapshots::Mount| SnapshotMount {
        kind: mount.r#type,
        source: mount.source,
        options: mount.options,
    };
    mounts.into_iter().map(one).collect()
}

fn time_out(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

/// Seconds and nanoseconds since 1970 from the wire.
pub fn moment_in(time: Option<Timestamp>) -> Option<(i64, u32)> {
    let time = time?;
    Some((time.seconds, time.nanos.try_into().ok()?))
}

fn time_in(time: Option<Timestamp>) -> SystemTime {
    let span = time.and_then(|time| {
        let (seconds, nanos) = (time.seconds.try_into().ok()?, time.nanos.try_into().ok()?);
        Some(Duration::new(seconds, nanos))
    });
    UNIX_EPOCH + span.unwrap_or_default()
}

/// A snapshot for the wire.
pub fn info_out(info: SnapshotInfo) -> snapshots::Info {
    let kind = match info.kind {
        SnapshotKind::View => snapshots::Kind::View,
        SnapshotKind::Active => snapshots::Kind::Active,
        SnapshotKind::Committed => snapshots::Kind::Committed,
    };
    snapshots::Info {
        parent: parent_out(info.parent.as_ref()),
        name: info.key.as_str().to_owned(),
        kind: kind.into(),
        created_at: time_out(info.created),
        updated_at: time_out(info.updated),
        labels: info.labels,
    }
}

/// A snapshot from the wire.
pub fn info_in(info: Option<snapshots::Info>) -> Result<SnapshotInfo, Fault> {
    let info = info.ok_or_else(|| Fault::invalid("read a snapshot: it is missing"))?;
    let kind = match info.kind() {
        snapshots::Kind::View => SnapshotKind::View,
        snapshots::Kind::Active => SnapshotKind::Active,
        snapshots::Kind::Committed => SnapshotKind::Committed,
        snapshots::Kind::Unknown => return Err(Fault::invalid("read a snapshot: its kind is unknown")),
    };
    Ok(SnapshotInfo {
        key: SnapshotKey::new(info.name)?,
        parent: parent_in(info.parent)?,
        kind,
        created: time_in(info.created_at),
        updated: time_in(info.updated_at),
        labels: info.labels,
    })
}

/// What an update asks for: `labels`, `labels.KEY`, or no path at all for all labels; any other path is
/// `Invalid`.
pub fn change_in(labels: Labels, paths: &[String]) -> Result<LabelChange, Fault> {
    let mut some = Labels::new();
    let mut all = paths.is_empty();
    for path in paths {
        if path == "labels" {
            all = true;
        } else if let Some(key) = path.strip_prefix("labels.").filter(|key| !key.is_empty()) {
            some.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
        } else {
            let path = crate::id::quoted(path);
            return Err(Fault::invalid(format!(
                "update a snapshot: {path} cannot be changed, only labels can"
            )));
        }
    }
    Ok(if all {
        LabelChange::All(labels)
    } else {
        LabelChange::Some(some)
    })
}

/// Usage for the wire.
pub fn usage_out(usage: Usage) -> snapshots::UsageResponse {
    snapshots::UsageResponse {
        size: usage.bytes.try_into().unwrap_or(i64::MAX),
        inodes: usage.inodes.try_into().unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(rows: &[(&str, &str)]) -> Labels {
        let row = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_mask_names_all_labels_or_some() {
        let given = labels(&[("a", "1"), ("b.c", "2")]);
        let change = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            change_in(given.clone(), &paths)
        };
        assert_eq!(change(&[]).unwrap(), LabelChange::All(given.clone()));
        assert_eq!(change(&["labels"]).unwrap(), LabelChange::All(given.clone()));
        let some = labels(&[("b.c", "2"), ("gone", "")]);
        assert_eq!(
            change(&["labels.b.c", "labels.gone"]).unwrap(),
            LabelChange::Some(some)
        );
        for path in ["name", "parent", "labels.", ""] {
            assert!(change(&[path]).is_err(), "{path:?} was taken");
        }
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written() {
        let info = SnapshotInfo {
            key: SnapshotKey::new("moby/1/extract-5 sha256:54").unwrap(),
            parent: None,
            kind: SnapshotKind::Active,
            created: UNIX_EPOCH + Duration::new(5, 7),
            updated: UNIX_EPOCH + Duration::new(6, 8),
            labels: labels(&[("a", "b")]),
        };
        assert_eq!(info_in(Some(info_out(info.clone()))).unwrap(), info);
        assert!(info_in(None).is_err());
    }
}
