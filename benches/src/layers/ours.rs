//! Our two doors over one fresh file system.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plugin_api::snapshot_client::SnapshotClient;
use serde_json::{Value, json};

use crate::client::{Client, request};
use crate::engine::{Piece, ask};
use crate::ground::Disk;
use crate::server::Server;

/// A server of layers with its state on a disk of its own.
pub(super) struct Ours {
    pub(super) server: Server,
    client: Client,
    // Last: the server lets go of it first.
    _disk: Disk,
}

impl Ours {
    pub(super) fn start(longshore: &Path) -> Result<Self> {
        Self::beside(longshore, None)
    }

    /// The same, with blobs from a containerd.
    pub(super) fn beside(longshore: &Path, containerd: Option<&Path>) -> Result<Self> {
        let disk = Disk::fresh()?;
        let server = Server::layers(longshore, &disk.path().join("state"), containerd)?;
        let client = Client::connect(&server.graph())?;
        Ok(Self {
            server,
            client,
            _disk: disk,
        })
    }

    /// One verb of the graph plugin; the reply's JSON.
    pub(super) fn call(&mut self, verb: &str, body: &Value) -> Result<Value> {
        let request = request(&format!("GraphDriver.{verb}"), &body.to_string());
        let reply = self.client.reply(&request)?;
        Ok(serde_json::from_slice(reply).unwrap_or(Value::Null))
    }

    pub(super) fn create(&mut self, id: &str, parent: &str) -> Result<()> {
        self.call("Create", &json!({"ID": id, "Parent": parent}))
            .map(drop)
    }

    /// A container's layer.
    pub(super) fn create_writable(&mut self, id: &str, parent: &str) -> Result<()> {
        self.call("CreateReadWrite", &json!({"ID": id, "Parent": parent}))
            .map(drop)
    }

    /// `count` image layers upon each other, `l0` at the bottom, and `top` of a container.
    pub(super) fn chain(&mut self, count: usize) -> Result<()> {
        let mut parent = String::new();
        for nth in 0..count {
            let id = format!("l{nth}");
            self.create(&id, &parent)?;
            parent = id;
        }
        self.create_writable("top", &parent)
    }

    pub(super) fn apply(&self, id: &str, archive: &Path) -> Result<()> {
        let uri = format!("/GraphDriver.ApplyDiff?id={id}&parent=");
        let body = [Piece::File(archive)];
        ask(&self.server.graph(), "POST", &uri, "application/x-tar", &body).map(drop)
    }

    pub(super) fn get(&mut self, id: &str) -> Result<PathBuf> {
        let reply = self.call("Get", &json!({"ID": id, "MountLabel": ""}))?;
        Ok(PathBuf::from(reply["Dir"].as_str().unwrap_or_default()))
    }

    pub(super) fn put(&mut self, id: &str) -> Result<()> {
        self.call("Put", &json!({"ID": id})).map(drop)
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<()> {
        self.call("Remove", &json!({"ID": id})).map(drop)
    }

    /// containerd's door.
    pub(super) fn snapshots(&self) -> Result<SnapshotClient> {
        Ok(SnapshotClient::connect(&self.server.snapshots(), None)?)
    }
}
