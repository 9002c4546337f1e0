//! Snapshots from the other side: the verbs of [`Snapshotter`] over a socket, as containerd says them.

use std::path::Path;
use std::sync::Mutex;

use tokio::runtime::Runtime;
use tonic::{Request, Status};

use crate::channel::{Channel, fault, lost};
use crate::fault::Fault;
use crate::graph::Usage;
use crate::snapshot::{LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotMount, Snapshotter};
use crate::wire::containerd::snapshots as w;
use crate::wire::containerd::snapshots::snapshots_client::SnapshotsClient;
use crate::wire::containerd::{self};

/// A snapshotter behind a socket.
#[derive(Debug)]
pub struct SnapshotClient {
    runtime: Runtime,
    client: Mutex<SnapshotsClient<Channel>>,
    namespace: Option<String>,
    snapshotter: String,
}

impl SnapshotClient {
    /// Connects to a socket. `namespace` is sent along as containerd does for its own callers.
    pub fn connect(path: &Path, namespace: Option<&str>) -> Result<Self, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| lost(path, error))?;
        let channel = runtime.block_on(Channel::connect(path))?;
        Ok(Self {
            runtime,
            client: Mutex::new(SnapshotsClient::with_origin(channel, Channel::origin())),
            namespace: namespace.map(str::to_owned),
            // Ours does not look at it.
            snapshotter: "longshore".to_owned(),
        })
    }

    /// Asks for a snapshotter by its name, where several are behind the socket as with containerd itself.
    pub fn asking_for(mut self, snapshotter: &str) -> Self {
        snapshotter.clone_into(&mut self.snapshotter);
        self
    }

    fn call<T, A, F>(
        &self,
        asked: T,
        verb: impl FnOnce(SnapshotsClient<Channel>, Request<T>) -> F,
    ) -> Result<A, Fault>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let client = self.client.lock().expect("nobody panics with it").clone();
        let mut request = Request::new(asked);
        if let Some(namespace) = self.namespace.as_ref().and_then(|name| name.parse().ok()) {
            request.metadata_mut().insert("containerd-namespace", namespace);
        }
        let outcome = self.runtime.block_on(verb(client, request));
        outcome.map_err(|status| fault(&status))
    }
}

fn text(key: &SnapshotKey) -> String {
    key.as_str().to_owned()
}

impl Snapshotter for SnapshotClient {
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        let asked = w::PrepareRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
            parent: containerd::parent_out(parent),
            labels: labels.clone(),
        };
        let reply = self.call(asked, async |mut client, asked| client.prepare(asked).await)?;
        Ok(containerd::mounts_in(reply.into_inner().mounts))
    }

    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        let asked = w::ViewRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
            parent: containerd::parent_out(parent),
            labels: labels.clone(),
        };
        let reply = self.call(asked, async |mut client, asked| client.view(asked).await)?;
        Ok(containerd::mounts_in(reply.into_inner().mounts))
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>, Fault> {
        let asked = w::MountsRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
        };
        let reply = self.call(asked, async |mut client, asked| client.mounts(asked).await)?;
        Ok(containerd::mounts_in(reply.into_inner().mounts))
    }

    fn commit(&self, name: &SnapshotKey, key: &SnapshotKey, labels: &Labels) -> Result<(), Fault> {
        let asked = w::CommitRequest {
            snapshotter: self.snapshotter.clone(),
            name: text(name),
            key: text(key),
            labels: labels.clone(),
            parent: String::new(),
        };
        self.call(asked, async |mut client, asked| client.commit(asked).await)
            .map(drop)
    }

    fn commit_upon(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: &SnapshotKey,
        labels: &Labels,
    ) -> Result<(), Fault> {
        let asked = w::CommitRequest {
            snapshotter: self.snapshotter.clone(),
            name: text(name),
            key: text(key),
            labels: labels.clone(),
            parent: text(parent),
        };
        self.call(asked, async |mut client, asked| client.commit(asked).await)
            .map(drop)
    }

    fn remove(&self, key: &SnapshotKey) -> Result<(), Fault> {
        let asked = w::RemoveRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
        };
        self.call(asked, async |mut client, asked| client.remove(asked).await)
            .map(drop)
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo, Fault> {
        let asked = w::StatRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
        };
        let reply = self.call(asked, async |mut client, asked| client.stat(asked).await)?;
        containerd::info_in(reply.into_inner().info)
    }

    fn update(&self, key: &SnapshotKey, change: &LabelChange) -> Result<SnapshotInfo, Fault> {
        let (labels, paths) = match change {
            LabelChange::All(labels) => (labels, vec!["labels".to_owned()]),
            LabelChange::Some(labels) => {
                let paths = labels.keys().map(|key| format!("labels.{key}"));
                (labels, paths.collect())
            }
        };
        let info = w::Info {
            name: text(key),
            labels: labels.clone(),
            ..w::Info::default()
        };
        let asked = w::UpdateRequest {
            snapshotter: self.snapshotter.clone(),
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let reply = self.call(asked, async |mut client, asked| client.update(asked).await)?;
        containerd::info_in(reply.into_inner().info)
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>, Fault> {
        self.list_by(&[])
    }

    fn usage(&self, key: &SnapshotKey) -> Result<Usage, Fault> {
        let asked = w::UsageRequest {
            snapshotter: self.snapshotter.clone(),
            key: text(key),
        };
        let reply = self.call(asked, async |mut client, asked| client.usage(asked).await)?;
        let reply = reply.into_inner();
        Ok(Usage {
            bytes: reply.size.try_into().unwrap_or_default(),
            inodes: reply.inodes.try_into().unwrap_or_default(),
        })
    }

    fn cleanup(&self) -> Result<(), Fault> {
        let asked = w::CleanupRequest {
            snapshotter: self.snapshotter.clone(),
        };
        self.call(asked, async |mut client, asked| client.cleanup(asked).await)
            .map(drop)
    }
}

impl SnapshotClient {
    /// The snapshots that pass one of the filters, `kind==committed,parent==NAME`; none lets all through.
    pub fn list_by(&self, filters: &[&str]) -> Result<Vec<SnapshotInfo>, Fault> {
        let asked = w::ListRequest {
            snapshotter: self.snapshotter.clone(),
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        };
        let all = self.call(asked, async |mut client, asked| {
            let mut stream = client.list(asked).await?.into_inner();
            let mut all = Vec::new();
            while let Some(piece) = stream.message().await? {
                all.extend(piece.info);
            }
            Ok(all)
        })?;
        all.into_iter()
            .map(|info| containerd::info_in(Some(info)))
            .collect()
    }
}
