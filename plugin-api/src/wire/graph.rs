//! `GraphDriver.*`. One reply shape for all verbs; `Diff` and `ApplyDiff` carry raw archives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Loose, Verb, bytes, loose_of, nullable, options_of, reply, request};
use crate::fault::Fault;
use crate::graph::{Change, ChangeKind, GraphInit, NewLayer};
use crate::id::LayerId;

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct LayerFields {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    id: String,
    #[serde(
        rename = "Parent",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    parent: String,
    #[serde(
        rename = "MountLabel",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    mount_label: String,
    #[serde(
        rename = "StorageOpt",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    options: Loose,
}

fn parent_in(text: &str) -> Result<Option<LayerId>, Fault> {
    Ok(if text.is_empty() {
        None
    } else {
        Some(LayerId::new(text)?)
    })
}

/// Body of `Create` and `CreateReadWrite`.
pub fn new_layer_request(layer: &NewLayer) -> Vec<u8> {
    bytes(&LayerFields {
        id: layer.id.to_string(),
        parent: super::show(layer.parent.as_ref()),
        mount_label: layer.mount_label.clone(),
        options: loose_of(&layer.options),
    })
}

/// The layer in the body of `Create` and `CreateReadWrite`.
pub fn new_layer_request_in(verb: Verb, body: &[u8]) -> Result<NewLayer, Fault> {
    let read: LayerFields = request(verb, body)?;
    Ok(NewLayer {
        id: LayerId::new(read.id)?,
        parent: parent_in(&read.parent)?,
        mount_label: read.mount_label,
        options: options_of(&read.options)?,
    })
}

/// Body of the verbs that name a layer: `Get`, `Put`, `Exists`, `Remove`, `GetMetadata`.
pub fn layer_request(id: &LayerId, mount_label: &str) -> Vec<u8> {
    bytes(&LayerFields {
        id: id.to_string(),
        mount_label: mount_label.to_owned(),
        ..LayerFields::default()
    })
}

/// Layer and label in the body of the verbs that name a layer.
pub fn layer_request_in(verb: Verb, body: &[u8]) -> Result<(LayerId, String), Fault> {
    let read: LayerFields = request(verb, body)?;
    Ok((LayerId::new(read.id)?, read.mount_label))
}

/// Body of the verbs that compare: `Changes`, `Diff`, `DiffSize`.
pub fn pair_request(id: &LayerId, parent: Option<&LayerId>) -> Vec<u8> {
    bytes(&LayerFields {
        id: id.to_string(),
        parent: super::show(parent),
        ..LayerFields::default()
    })
}

/// Layer and parent in the body of the verbs that compare.
pub fn pair_request_in(verb: Verb, body: &[u8]) -> Result<(LayerId, Option<LayerId>), Fault> {
    let read: LayerFields = request(verb, body)?;
    Ok((LayerId::new(read.id)?, parent_in(&read.parent)?))
}

/// Query string of `ApplyDiff`. Ids need no escaping, and engines do none.
pub fn apply_query(id: &LayerId, parent: Option<&LayerId>) -> String {
    format!("id={id}&parent={}", super::show(parent))
}

/// Layer and parent in the query string of `ApplyDiff`.
pub fn apply_query_in(query: &str) -> Result<(LayerId, Option<LayerId>), Fault> {
    let field = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == key)
            .map_or("", |(_, value)| value)
    };
    Ok((LayerId::new(field("id"))?, parent_in(field("parent"))?))
}

// === Init ===

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct InitFields {
    #[serde(rename = "Home", deserialize_with = "nullable")]
    home: String,
    #[serde(rename = "Opts", deserialize_with = "nullable")]
    options: Vec<String>,
    #[serde(rename = "UIDMaps", deserialize_with = "nullable")]
    uid_maps: Vec<IdMap>,
    #[serde(rename = "GIDMaps", deserialize_with = "nullable")]
    gid_maps: Vec<IdMap>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct IdMap {
    container_id: u32,
    host_id: u32,
    size: u32,
}

/// Body of `Init`.
pub fn init_request(init: &GraphInit) -> Vec<u8> {
    let maps = |rows: &[(u32, u32, u32)]| {
        rows.iter()
            .map(|&(container_id, host_id, size)| IdMap {
                container_id,
                host_id,
                size,
            })
            .collect()
    };
    bytes(&InitFields {
        home: init.home.to_string_lossy().into_owned(),
        options: init.options.clone(),
        uid_maps: maps(&init.uid_maps),
        gid_maps: maps(&init.gid_maps),
    })
}

/// What the body of `Init` says.
pub fn init_request_in(body: &[u8]) -> Result<GraphInit, Fault> {
    let read: InitFields = request(Verb::GraphInit, body)?;
    let rows = |maps: &[IdMap]| maps.iter().map(|m| (m.container_id, m.host_id, m.size)).collect();
    Ok(GraphInit {
        home: PathBuf::from(read.home),
        options: read.options,
        uid_maps: rows(&read.uid_maps),
        gid_maps: rows(&read.gid_maps),
    })
}

// === replies ===

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Reply {
    #[serde(rename = "Err", deserialize_with = "nullable")]
    err: String,
    #[serde(
        rename = "Dir",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    dir: String,
    #[serde(rename = "Exists", skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    #[serde(rename = "Status", skip_serializing_if = "Option::is_none")]
    status: Option<Vec<(String, String)>>,
    #[serde(rename = "Changes", skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<WireChange>>,
    #[serde(rename = "Size", skip_serializing_if = "Option::is_none")]
    size: Option<i64>,
    #[serde(rename = "Metadata", skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "Capabilities", skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Capabilities {
    #[serde(rename = "ReproducesExactDiffs", deserialize_with = "nullable")]
    exact: bool,
}

#[derive(Serialize, Deserialize)]
struct WireChange {
    #[serde(rename = "Path")]
    path: String,
    #[serde(rename = "Kind")]
    kind: u8,
}

/// Reply to `Capabilities`.
pub fn capabilities_reply(exact: bool) -> Vec<u8> {
    bytes(&Reply {
        capabilities: Some(Capabilities { exact }),
        ..Reply::default()
    })
}

/// Whether diffs are exact, in the reply to `Capabilities`.
pub fn capabilities_reply_in(body: &[u8]) -> Result<bool, Fault> {
    Ok(reply::<Reply>(Verb::GraphCapabilities, body)?
        .capabilities
        .unwrap_or_default()
        .exact)
}

/// Reply to `Status`.
pub fn status_reply(rows: Vec<(String, String)>) -> Vec<u8> {
    bytes(&Reply {
        status: Some(rows),
        ..Reply::default()
    })
}

/// Rows in the reply to `Status`.
pub fn status_reply_in(body: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    Ok(reply::<Reply>(Verb::GraphStatus, body)?
        .status
        .unwrap_or_default())
}

/// Reply to `Get`.
pub fn dir_reply(dir: &Path) -> Vec<u8> {
    bytes(&Reply {
        dir: dir.to_string_lossy().into_owned(),
        ..Reply::default()
    })
}

/// The directory in the reply to `Get`.
pub fn dir_reply_in(body: &[u8]) -> Result<PathBuf, Fault> {
    let read: Reply = reply(Verb::GraphGet, body)?;
    if read.dir.is_empty() {
        Err(Fault::internal("the plugin gave no directory"))
    } else {
        Ok(read.dir.into())
    }
}

/// Reply to `Exists`.
pub fn exists_reply(exists: bool) -> Vec<u8> {
    bytes(&Reply {
        exists: Some(exists),
        ..Reply::default()
    })
}

/// The answer in the reply to `Exists`.
pub fn exists_reply_in(body: &[u8]) -> Result<bool, Fault> {
    Ok(reply::<Reply>(Verb::GraphExists, body)?
        .exists
        .unwrap_or_default())
}

/// Reply to `GetMetadata`.
pub fn metadata_reply(metadata: BTreeMap<String, String>) -> Vec<u8> {
    bytes(&Reply {
        metadata: Some(metadata),
        ..Reply::default()
    })
}

/// Rows in the reply to `GetMetadata`.
pub fn metadata_reply_in(body: &[u8]) -> Result<BTreeMap<String, String>, Fault> {
    Ok(reply::<Reply>(Verb::GraphMetadata, body)?
        .metadata
        .unwrap_or_default())
}

/// Reply to `Changes`.
pub fn changes_reply(changes: &[Change]) -> Vec<u8> {
    let wire = |change: &Change| WireChange {
        path: change.path.clone(),
        kind: match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        },
    };
    bytes(&Reply {
        changes: Some(changes.iter().map(wire).collect()),
        ..Reply::default()
    })
}

/// Rows in the reply to `Changes`.
pub fn changes_reply_in(body: &[u8]) -> Result<Vec<Change>, Fault> {
    let noun = |change: WireChange| {
        let kind = match change.kind {
            0 => ChangeKind::Modified,
            1 => ChangeKind::Added,
            2 => ChangeKind::Deleted,
            other => {
                return Err(Fault::internal(format!(
                    "the plugin told a change of kind {other}"
                )));
            }
        };
        Ok(Change {
            path: change.path,
            kind,
        })
    };
    reply::<Reply>(Verb::GraphChanges, body)?
        .changes
        .unwrap_or_default()
        .into_iter()
        .map(noun)
        .collect()
}

/// Reply to `DiffSize` and `ApplyDiff`.
pub fn size_reply(size: u64) -> Vec<u8> {
    bytes(&Reply {
        size: Some(i64::try_from(size).unwrap_or(i64::MAX)),
        ..Reply::default()
    })
}

/// The size in the reply to `DiffSize` and `ApplyDiff`.
pub fn size_reply_in(verb: Verb, body: &[u8]) -> Result<u64, Fault> {
    Ok(u64::try_from(reply::<Reply>(verb, body)?.size.unwrap_or_default()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_hold_only_their_own_field() {
        assert_eq!(exists_reply(false), b"{\"Err\":\"\",\"Exists\":false}\n");
        assert_eq!(size_reply(7), b"{\"Err\":\"\",\"Size\":7}\n");
        let changes = [Change {
            path: "/a".into(),
            kind: ChangeKind::Deleted,
        }];
        let body = changes_reply(&changes);
        assert_eq!(
            body,
            b"{\"Err\":\"\",\"Changes\":[{\"Path\":\"/a\",\"Kind\":2}]}\n"
        );
        assert_eq!(changes_reply_in(&body).unwrap(), changes);
    }

    #[test]
    fn the_query_of_apply_diff() {
        let (id, parent) = apply_query_in("id=abc&parent=").unwrap();
        assert_eq!((id.as_str(), parent), ("abc", None));
        let (_, parent) = apply_query_in("parent=p-init&id=abc").unwrap();
        assert_eq!(parent.unwrap().as_str(), "p-init");
        assert!(apply_query_in("parent=p").is_err());
        assert!(apply_query_in("id=..%2f..").is_err());
    }
}
