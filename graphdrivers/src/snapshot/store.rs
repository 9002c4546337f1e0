//! The snapshots' records.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::Fault;
use plugin_api::snapshot::{Labels, SnapshotInfo, SnapshotKey, SnapshotKind};

use crate::store::Number;
use crate::{damaged, kernel_fault};

const SNAPSHOTS: &str = "snapshots";
const VERSION: u8 = 1;

/// Snapshots by key.
pub(super) type Snapshots = BTreeMap<SnapshotKey, Snapshot>;

/// What is recorded of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Where its content is; a view has none of its own.
    pub(super) layer: Option<Number>,
    pub(super) parent: Option<SnapshotKey>,
    pub(super) kind: SnapshotKind,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    pub(super) labels: Labels,
}

impl Snapshot {
    pub(super) fn info(&self, key: &SnapshotKey) -> SnapshotInfo {
        SnapshotInfo {
            key: key.clone(),
            parent: self.parent.clone(),
            kind: self.kind,
            created: self.created,
            updated: self.updated,
            labels: self.labels.clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            SnapshotKind::View => 1,
            SnapshotKind::Active => 2,
            SnapshotKind::Committed => 3,
        };
        let value = Encoder::new(VERSION)
            .maybe(self.layer.map(|layer| layer.to_string()).as_deref())
            .maybe(self.parent.as_ref().map(SnapshotKey::as_str))
            .number(kind);
        let value = put_time(put_time(value, self.created), self.updated);
        value
            .list(self.labels.iter(), |value, (key, text)| {
                value.text(key).text(text)
            })
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut value = Decoder::new("snapshot", VERSION, bytes)?;
        let layer = match value.maybe()? {
            None => None,
            Some(text) => Some(Number::parse(&text).ok_or_else(|| value.damaged())?),
        };
        let parent = value.maybe()?.map(SnapshotKey::new).transpose();
        let parent = parent.map_err(|_| value.damaged())?;
        let kind = match value.number()? {
            1 => SnapshotKind::View,
            2 => SnapshotKind::Active,
            3 => SnapshotKind::Committed,
            _ => return Err(value.damaged()),
        };
        let (created, updated) = (time(&mut value)?, time(&mut value)?);
        let labels = value.list(|value| Ok((value.text()?, value.text()?)))?;
        value.end()?;
        Ok(Self {
            layer,
            parent,
            kind,
            created,
            updated,
            labels: labels.into_iter().collect(),
        })
    }
}

fn put_time(value: Encoder, time: SystemTime) -> Encoder {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    value
        .number(since.as_secs())
        .number(u64::from(since.subsec_nanos()))
}

fn time(value: &mut Decoder<'_>) -> Result<SystemTime, Damaged> {
    let (seconds, nanos) = (value.number()?, value.number()?);
    let nanos = u32::try_from(nanos).map_err(|_| value.damaged())?;
    let span = Duration::from_secs(seconds) + Duration::from_nanos(u64::from(nanos));
    UNIX_EPOCH.checked_add(span).ok_or_else(|| value.damaged())
}

/// Every recorded snapshot.
pub(super) fn load(records: &Records) -> Result<Snapshots, Fault> {
    let mut all = Snapshots::new();
    for (key, value) in records.list(SNAPSHOTS).map_err(kernel_fault)? {
        let snapshot = Snapshot::decode(&value).map_err(damaged)?;
        all.insert(SnapshotKey::new(key)?, snapshot);
    }
    Ok(all)
}

/// Records what a snapshot is now.
pub(super) fn put(batch: Batch, key: &SnapshotKey, now: &Snapshot) -> Batch {
    batch.put(SNAPSHOTS, key.as_str(), now.encode())
}

/// Forgets a key.
pub(super) fn delete(batch: Batch, key: &SnapshotKey) -> Batch {
    batch.delete(SNAPSHOTS, key.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_it_was_written() {
        let snapshot = Snapshot {
            layer: Number::parse("s7"),
            parent: Some(SnapshotKey::new("a b/é").unwrap()),
            kind: SnapshotKind::Active,
            created: UNIX_EPOCH + Duration::new(1, 2),
            updated: UNIX_EPOCH + Duration::new(3, 4),
            labels: [("k".to_owned(), "v".to_owned()), ("l".to_owned(), "w".to_owned())].into(),
        };
        let bytes = snapshot.encode();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
        for end in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..end]).is_err());
        }
    }
}
