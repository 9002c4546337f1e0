//! The language between engines and drivers.
//!
//! # One request, from socket to answer
//!
//! An engine writes `POST /NetworkDriver.Join` to a Unix socket. [`server`] reads it, refuses what is
//! too large or too late, and hands the body to [`wire`], the only place that knows JSON. `wire` turns
//! the engine's fields into the nouns of [`id`], [`network`], [`volume`] and [`graph`]; a body that does
//! not make a noun is answered with a sentence and reaches no driver. The driver is a value that
//! implements one of the traits here. It answers with a noun or a [`Fault`]; `wire` turns that into the
//! engine's fields, and `server` writes it.
//!
//! [`client`] speaks the same verbs from the other side and implements the same traits, so that a
//! contract suite ([`contract`], feature `contract`) runs alike over a value in this process and over a
//! socket of any plugin in any language.
//!
//! **Invariant:** nouns and traits know no serde; only `wire` does.
//! **Invariant:** this crate imports nothing else of the workspace.

mod channel;
pub mod client;
pub mod content;
#[cfg(feature = "contract")]
pub mod contract;
pub mod differ;
pub mod door;
pub mod fault;
pub mod graph;
pub mod id;
pub mod ipam;
pub mod network;
pub mod report;
pub mod server;
pub mod snapshot;
pub mod snapshot_client;
pub mod undo;
pub mod volume;
pub mod wire;

pub use fault::{Fault, FaultKind};
pub use undo::Undo;

use std::collections::BTreeMap;

/// Options as a user typed them: `-o key=value`.
pub type Options = BTreeMap<String, String>;

/// What a verb that changes the world did. A retry is not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The world changed.
    Changed,
    /// The world already was as asked for.
    AlreadySo,
}

/// Which engine process is talking, as far as the socket can tell.
///
/// Nothing in a request names the engine; only the connection's peer credentials do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnginePeer {
    /// Process id of the peer, where the kernel told it.
    pub pid: Option<i32>,
}

impl EnginePeer {
    /// This process, as one that drives a driver without a socket.
    pub fn own() -> Self {
        Self {
            pid: i32::try_from(std::process::id()).ok(),
        }
    }
}
