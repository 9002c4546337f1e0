//! JSON, field for field as engines send it. The only place that knows serde.
//!
//! Each verb has four functions in its subsystem's file: request to bytes and back, reply to bytes and
//! back. Going in, everything is lenient where engines differ: `null`, missing and empty are alike,
//! unknown fields are ignored. What does not make a noun is a [`Fault`] with a sentence.

pub mod cni;
pub mod containerd;
pub mod graph;
pub mod ipam;
pub mod netavark;
pub mod network;
pub mod status;
pub mod verb;
pub mod volume;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::Options;
use crate::fault::{Fault, FaultKind};
pub use verb::{Subsystem, Verb};

/// Content type of requests and replies.
pub const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Reads `null` and a missing field alike as the default.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads the body of a request that has fields.
///
/// An engine whose connection broke sends the call again with an **empty body**, since its buffer is
/// used up; that is nothing to act upon.
fn request<T: DeserializeOwned>(verb: Verb, body: &[u8]) -> Result<T, Fault> {
    if body.is_empty() {
        let text = format!(
            "{} came with an empty body, as engines send when they repeat a call that broke off: \
             nothing was done, give the command again",
            verb.name()
        );
        return Err(Fault::new(FaultKind::Invalid, text));
    }
    serde_json::from_slice(body).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("read the body of {}", verb.name())).because(brief(&error))
    })
}

/// What the parser says, without the whole of a field that it repeats.
fn brief(error: &serde_json::Error) -> String {
    const LONGEST: usize = 300;
    let text = error.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Reads the body of a reply.
fn reply<T: DeserializeOwned>(verb: Verb, body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| {
        Fault::new(FaultKind::Internal, format!("read the reply to {}", verb.name())).because(brief(&error))
    })
}

/// Writes a body; engines end theirs with a newline.
fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("wire structs have string keys only");
    bytes.push(b'\n');
    bytes
}

/// An empty object: the request of verbs without fields.
pub fn no_fields() -> Vec<u8> {
    b"{}\n".to_vec()
}

// === errors ===

#[derive(Debug, Serialize, Deserialize, Default)]
#[serde(default)]
struct Failure {
    #[serde(rename = "Err", deserialize_with = "nullable")]
    err: String,
    #[serde(
        rename = "Error",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    error: String,
}

/// The body of a failed reply. IPAM's error field has another name than everybody else's, and engines
/// look at `Err` alone when the status is not 200: an IPAM failure carries both.
pub fn failure(verb: Option<Verb>, sentence: &str) -> Vec<u8> {
    let ipam = verb.is_some_and(|verb| verb.subsystem() == Subsystem::Ipam);
    let error = if ipam { sentence.to_owned() } else { String::new() };
    bytes(&Failure {
        err: sentence.to_owned(),
        error,
    })
}

/// The sentence of a reply that failed, if it did. A body without one is its own sentence.
pub fn failure_in(status: u16, body: &[u8]) -> Option<String> {
    let told: Failure = serde_json::from_slice(body).unwrap_or_default();
    let sentence = if told.err.is_empty() { told.error } else { told.err };
    if !sentence.is_empty() {
        return Some(sentence);
    }
    (status != 200).then(|| {
        let raw = String::from_utf8_lossy(body);
        format!("status {status}: {}", crate::id::quoted(raw.trim()))
    })
}

#[derive(Serialize)]
struct Nothing {
    #[serde(rename = "Err")]
    err: &'static str,
}

/// The reply of a verb that tells nothing but its success.
pub fn success() -> Vec<u8> {
    bytes(&Nothing { err: "" })
}

// === Plugin.Activate ===

#[derive(Serialize, Deserialize)]
struct Manifest {
    #[serde(rename = "Implements", default, deserialize_with = "nullable")]
    implements: Vec<String>,
}

/// The reply to `Plugin.Activate`.
pub fn manifest(implements: &[Subsystem]) -> Vec<u8> {
    bytes(&Manifest {
        implements: implements.iter().map(|s| s.name().to_owned()).collect(),
    })
}

/// The names in a reply to `Plugin.Activate`.
pub fn manifest_in(body: &[u8]) -> Result<Vec<String>, Fault> {
    Ok(reply::<Manifest>(Verb::Activate, body)?.implements)
}

// === options ===

type Loose = BTreeMap<String, Value>;

/// A value of an option as text; lists and maps make none.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Options of a user; one that is no text is refused.
fn options_of(loose: &Loose) -> Result<Options, Fault> {
    loose
        .iter()
        .map(|(key, value)| {
            let text = text_of(value).ok_or_else(|| {
                Fault::invalid(format!(
                    "option {} holds a list or a map; give it as text",
                    crate::id::quoted(key)
                ))
            })?;
            Ok((key.clone(), text))
        })
        .collect()
}

fn loose_of(options: &Options) -> Loose {
    options
        .iter()
        .map(|(key, value)| (key.clone(), Value::String(value.clone())))
        .collect()
}

/// Parses a field that may be empty.
fn parse_maybe<T: std::str::FromStr>(field: &str, text: &str) -> Result<Option<T>, Fault>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: T::Err| {
        Fault::invalid(format!("field {field}, {}", crate::id::quoted(text))).because(error)
    })
}

fn show<T: ToString>(value: Option<&T>) -> String {
    value.map(T::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipam_failures_carry_both_fields() {
        let body = failure(Some(Verb::IpamRequestPool), "no pool");
        assert_eq!(body, b"{\"Err\":\"no pool\",\"Error\":\"no pool\"}\n");
        let body = failure(Some(Verb::VolumeGet), "gone");
        assert_eq!(body, b"{\"Err\":\"gone\"}\n");
    }

    #[test]
    fn a_failure_is_found_wherever_it_is_told() {
        assert_eq!(failure_in(200, b"{}"), None);
        assert_eq!(failure_in(200, b"{\"Err\":\"\"}"), None);
        assert_eq!(failure_in(200, b"{\"Error\":\"x\"}").as_deref(), Some("x"));
        assert_eq!(failure_in(500, b"{\"Err\":\"y\"}").as_deref(), Some("y"));
        assert_eq!(
            failure_in(404, b"page not found\n").as_deref(),
            Some("status 404: \"page not found\"")
        );
    }

    #[test]
    fn an_empty_body_is_no_request() {
        let fault = request::<Failure>(Verb::VolumeCreate, b"").unwrap_err();
        assert!(
            fault
                .sentence()
                .contains("VolumeDriver.Create came with an empty body")
        );
    }
}
