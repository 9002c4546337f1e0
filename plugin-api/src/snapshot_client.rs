//! Snapshots from the other side: the verbs of [`Snapshotter`] over a socket, as containerd says them.

use std::path::Path;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Request, Status};

use crate::fault::{Fault, FaultKind};
use crate::graph::Usage;
use crate::snapshot::{LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotMount, Snapshotter};
use crate::wire::containerd::snapshots as w;
use crate::wire::containerd::snapshots::snapshots_client::SnapshotsClient;
use crate::wire::containerd::{self};

/// One connection.
#[derive(Debug, Clone)]
struct Channel(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A snapshotter behind a socket.
#[derive(Debug)]
pub struct SnapshotClient {
    runtime: Runtime,
    client: Mutex<SnapshotsClient<Channel>>,
    namespace: Option<String>,
    snapshotter: String,
}

fn lost(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("connect to {}", path.display())).because(error)
}

impl SnapshotClient {
    /// Connects to a socket. `namespace` is sent along as containerd does for its own callers.
    pub fn connect(path: &Path, namespace: Option<&str>) -> Result<Self, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| lost(path, error))?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| lost(path, error))?;
            let http = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = http
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| lost(path, error))?;
            tokio::spawn(connection);
            Ok::<_, Fault>(sender)
        })?;
        let origin = http::Uri::from_static("http://localhost");
        Ok(Self {
            runtime,
            client: Mutex::new(SnapshotsClient::with_origin(Channel(sender), origin)),
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
        outcome.map_err(|status| Fault::new(kind(status.code()), status.message()))
    }
}

fn kind(code: Code) -> FaultKind {
    match code {
        Code::NotFound => FaultKind::NotFound,
        Code::AlreadyExists => FaultKind::AlreadyExists,
        Code::InvalidArgument => FaultKind::Invalid,
        Code::FailedPrecondition => FaultKind::WrongState,
        Code::Unimplemented => FaultKind::Unsupported,
        Code::ResourceExhausted => FaultKind::Exhausted,
        Code::Unavailable | Code::Unknown | Code::Cancelled => FaultKind::Unavailable,
        Code::DeadlineExceeded => FaultKind::Timeout,
        Code::Aborted => FaultKind::Conflict,
        Code::DataLoss => FaultKind::Corrupt,
        _ => FaultKind::Internal,
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
