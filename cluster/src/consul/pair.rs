//! Rows as Consul tells them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::http::Answer;
use crate::{Error, LeaseId, Result, Revision, Row};

pub(super) fn encode(value: &[u8]) -> String {
    STANDARD.encode(value)
}

pub(super) fn corrupt(operation: &'static str, key: &str, why: impl std::fmt::Display) -> Error {
    Error::Corrupt {
        operation,
        key: key.to_owned(),
        why: format!("the agent's answer: {why}"),
    }
}

/// The rows of an answer; none where it is 404.
pub(super) fn rows(operation: &'static str, key: &str, answer: &Answer) -> Result<Vec<Row>> {
    if answer.status == 404 {
        return Ok(Vec::new());
    }
    let pairs: Vec<Value> =
        serde_json::from_slice(&answer.body).map_err(|error| corrupt(operation, key, error))?;
    pairs
        .iter()
        .map(|pair| row(pair).ok_or_else(|| corrupt(operation, key, format!("a row without a part: {pair}"))))
        .collect()
}

fn row(pair: &Value) -> Option<Row> {
    let value = match &pair["Value"] {
        Value::Null => Vec::new(),
        value => STANDARD.decode(value.as_str()?).ok()?,
    };
    let session = pair["Session"].as_str().unwrap_or_default();
    Some(Row {
        key: pair["Key"].as_str()?.to_owned(),
        value,
        revision: Revision(pair["ModifyIndex"].as_u64()?),
        lease: (!session.is_empty()).then(|| LeaseId(session.to_owned())),
    })
}
