//! `VolumeDriver.*`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Loose, Verb, bytes, loose_of, nullable, options_of, reply, request, text_of};
use crate::Options;
use crate::fault::Fault;
use crate::id::{HolderId, VolumeName};
use crate::volume::{Scope, VolumeInfo};

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Request {
    #[serde(rename = "Name", deserialize_with = "nullable")]
    name: String,
    #[serde(
        rename = "Opts",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    options: Loose,
    #[serde(
        rename = "ID",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    id: String,
}

/// Body of `Create`.
pub fn create_request(name: &VolumeName, options: &Options) -> Vec<u8> {
    bytes(&Request {
        name: name.to_string(),
        options: loose_of(options),
        id: String::new(),
    })
}

/// Name and options in the body of `Create`.
pub fn create_request_in(body: &[u8]) -> Result<(VolumeName, Options), Fault> {
    let read: Request = request(Verb::VolumeCreate, body)?;
    Ok((VolumeName::new(read.name)?, options_of(&read.options)?))
}

/// Body of `Get`, `Path` and `Remove`.
pub fn name_request(name: &VolumeName) -> Vec<u8> {
    bytes(&Request {
        name: name.to_string(),
        ..Request::default()
    })
}

/// Name in the body of `Get`, `Path` and `Remove`.
pub fn name_request_in(verb: Verb, body: &[u8]) -> Result<VolumeName, Fault> {
    Ok(VolumeName::new(request::<Request>(verb, body)?.name)?)
}

/// Body of `Mount` and `Unmount`.
pub fn hold_request(name: &VolumeName, holder: &HolderId) -> Vec<u8> {
    bytes(&Request {
        name: name.to_string(),
        id: holder.as_str().to_owned(),
        ..Request::default()
    })
}

/// Name and holder in the body of `Mount` and `Unmount`.
pub fn hold_request_in(verb: Verb, body: &[u8]) -> Result<(VolumeName, HolderId), Fault> {
    let read: Request = request(verb, body)?;
    Ok((VolumeName::new(read.name)?, HolderId::new(read.id)?))
}

// === replies ===

#[derive(Serialize, Deserialize)]
struct CapabilitiesReply {
    #[serde(rename = "Capabilities")]
    capabilities: ScopeField,
}

#[derive(Serialize, Deserialize)]
struct ScopeField {
    #[serde(rename = "Scope")]
    scope: String,
}

/// Reply to `Capabilities`.
pub fn capabilities_reply(scope: Scope) -> Vec<u8> {
    bytes(&CapabilitiesReply {
        capabilities: ScopeField {
            scope: scope.as_str().to_owned(),
        },
    })
}

/// Scope in the reply to `Capabilities`; engines take everything but `global` as local.
pub fn capabilities_reply_in(body: &[u8]) -> Result<Scope, Fault> {
    let read: CapabilitiesReply = reply(Verb::VolumeCapabilities, body)?;
    Ok(if read.capabilities.scope.eq_ignore_ascii_case("global") {
        Scope::Global
    } else {
        Scope::Local
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct MountpointReply {
    #[serde(rename = "Mountpoint", deserialize_with = "nullable")]
    mountpoint: String,
    #[serde(rename = "Err", deserialize_with = "nullable")]
    err: String,
}

/// Reply to `Mount` and `Path`; no path is an empty one.
pub fn mountpoint_reply(path: Option<&Path>) -> Vec<u8> {
    let mountpoint = path
        .map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default();
    bytes(&MountpointReply {
        mountpoint,
        err: String::new(),
    })
}

/// Path in the reply to `Mount` and `Path`.
pub fn mountpoint_reply_in(verb: Verb, body: &[u8]) -> Result<Option<PathBuf>, Fault> {
    let read: MountpointReply = reply(verb, body)?;
    Ok(some_path(read.mountpoint))
}

fn some_path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Volume {
    #[serde(rename = "Name", deserialize_with = "nullable")]
    name: String,
    #[serde(rename = "Mountpoint", deserialize_with = "nullable")]
    mountpoint: String,
    // An empty string here makes Docker's decoder refuse the whole reply: left out when unknown.
    #[serde(
        rename = "CreatedAt",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    created_at: String,
    #[serde(
        rename = "Status",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    status: Loose,
}

impl From<&VolumeInfo> for Volume {
    fn from(info: &VolumeInfo) -> Self {
        let mountpoint = info
            .mountpoint
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        Self {
            name: info.name.to_string(),
            mountpoint: mountpoint.unwrap_or_default(),
            created_at: info.created.map(rfc3339).unwrap_or_default(),
            status: loose_of(&info.status),
        }
    }
}

impl TryFrom<Volume> for VolumeInfo {
    type Error = Fault;

    fn try_from(volume: Volume) -> Result<Self, Fault> {
        let show = |value: &Value| text_of(value).unwrap_or_else(|| value.to_string());
        let status: BTreeMap<_, _> = volume
            .status
            .iter()
            .map(|(key, value)| (key.clone(), show(value)))
            .collect();
        let created = volume
            .created_at
            .parse::<jiff::Timestamp>()
            .ok()
            .map(SystemTime::from);
        Ok(Self {
            name: VolumeName::new(volume.name)?,
            mountpoint: some_path(volume.mountpoint),
            created,
            status,
        })
    }
}

/// Whole seconds are enough and look alike everywhere.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    let stamp = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    stamp.map(|stamp| stamp.to_string()).unwrap_or_default()
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct GetReply {
    #[serde(rename = "Volume")]
    volume: Option<Volume>,
    #[serde(rename = "Err", deserialize_with = "nullable")]
    err: String,
}

/// Reply to `Get`.
pub fn get_reply(info: &VolumeInfo) -> Vec<u8> {
    bytes(&GetReply {
        volume: Some(info.into()),
        err: String::new(),
    })
}

/// Volume in the reply to `Get`; none is `NotFound`.
pub fn get_reply_in(body: &[u8]) -> Result<VolumeInfo, Fault> {
    let read: GetReply = reply(Verb::VolumeGet, body)?;
    read.volume
        .ok_or_else(|| Fault::not_found("the plugin knows no such volume"))?
        .try_into()
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct ListReply {
    #[serde(rename = "Volumes", deserialize_with = "nullable")]
    volumes: Vec<Volume>,
    #[serde(rename = "Err", deserialize_with = "nullable")]
    err: String,
}

/// Reply to `List`.
pub fn list_reply(infos: &[VolumeInfo]) -> Vec<u8> {
    bytes(&ListReply {
        volumes: infos.iter().map(Into::into).collect(),
        err: String::new(),
    })
}

/// Volumes in the reply to `List`.
pub fn list_reply_in(body: &[u8]) -> Result<Vec<VolumeInfo>, Fault> {
    reply::<ListReply>(Verb::VolumeList, body)?
        .volumes
        .into_iter()
        .map(TryInto::try_into)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_at_is_rfc3339_or_absent() {
        let name = VolumeName::new("v").unwrap();
        let created = Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400));
        let mut info = VolumeInfo {
            name,
            mountpoint: None,
            created,
            status: BTreeMap::new(),
        };
        let body = String::from_utf8(get_reply(&info)).unwrap();
        assert!(body.contains(r#""CreatedAt":"1970-01-02T00:00:00Z""#), "{body}");
        assert_eq!(get_reply_in(body.as_bytes()).unwrap(), info);
        info.created = None;
        assert!(!String::from_utf8(get_reply(&info)).unwrap().contains("CreatedAt"));
    }

    #[test]
    fn missing_null_and_empty_options_are_alike() {
        for body in [
            r#"{"Name":"v"}"#,
            r#"{"Name":"v","Opts":null}"#,
            r#"{"Name":"v","Opts":{}}"#,
        ] {
            let (name, options) = create_request_in(body.as_bytes()).unwrap();
            assert_eq!((name.as_str(), options.len()), ("v", 0));
        }
        assert!(create_request_in(br#"{"Name":"v","Opts":{"a":[1]}}"#).is_err());
        assert!(create_request_in(br#"{"Name":"../../etc"}"#).is_err());
    }
}
