//! What failed on which key.

use std::error::Error as StdError;

use crate::{LeaseId, Row};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure. `operation` is the method's name, `key` the key, the prefix or the lease it worked on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request makes no sense; nothing was changed.
    #[error("{operation} {key:?}: {why}")]
    Invalid {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// What was expected of the row does not hold; nothing was changed.
    #[error("{operation} {key}: {}", there(found.as_deref()))]
    Conflict {
        /// What was tried.
        operation: &'static str,
        /// The first key of which something else was expected.
        key: String,
        /// What is there; nothing where no row is.
        found: Option<Box<Row>>,
    },
    /// The store did not answer, or not in time. A write may have happened or not.
    #[error("{operation} {key}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The lease has ended; nothing was changed.
    #[error("{operation} {key}: lease {lease} has ended")]
    LeaseLost {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// Which lease.
        lease: LeaseId,
    },
    /// More than the store takes; nothing was changed.
    #[error("{operation} {key}: {size} {unit} where the store takes {limit}")]
    TooLarge {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// How much it is.
        size: usize,
        /// How much it may be.
        limit: usize,
        /// Of what: `bytes`, `operations`.
        unit: &'static str,
    },
    /// The store refuses us: a token that is missing or may not do this.
    #[error("{operation} {key}: the store refuses it: {why}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// What the store says.
        why: String,
    },
    /// What the store holds, or answers, contradicts itself.
    #[error("{operation} {key}: {why}")]
    Corrupt {
        /// What was tried.
        operation: &'static str,
        /// On what: a key, or the file.
        key: String,
        /// The contradiction.
        why: String,
    },
}

fn there(found: Option<&Row>) -> String {
    match found {
        None => "there is no row".to_owned(),
        Some(row) => format!("revision {} is there", row.revision),
    }
}

impl Error {
    /// A store that does not answer.
    pub fn unavailable(
        operation: &'static str,
        key: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            operation,
            key: key.into(),
            source: source.into(),
        }
    }

    /// A request that makes no sense.
    pub fn invalid(operation: &'static str, key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid {
            operation,
            key: key.into(),
            why: why.into(),
        }
    }

    /// A row that is not as expected.
    pub fn conflict(operation: &'static str, key: impl Into<String>, found: Option<Row>) -> Self {
        Self::Conflict {
            operation,
            key: key.into(),
            found: found.map(Box::new),
        }
    }

    /// Whether something else is there than was expected.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}
