//! containerd's door: gRPC over HTTP/2 on a socket of its own, with the same threads and the same drain.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::{Code, Request, Response, Status};

use super::{Life, differ, stopping};
use crate::differ::DifferOf;
use crate::fault::{Fault, FaultKind};
use crate::snapshot::{SnapshotKey, Snapshotter};
use crate::wire::containerd::diff::diff_server::DiffServer;
use crate::wire::containerd::snapshots as w;
use crate::wire::containerd::snapshots::snapshots_server::{Snapshots, SnapshotsServer};
use crate::wire::containerd::{self, Filters};

/// How long a call may take before its caller is told to ask again.
const DEADLINE: Duration = Duration::from_secs(100);

/// Snapshots per message of a list: far below the 4 MiB that a message may have.
const ROWS: usize = 16;

/// Serves one connection until it ends or the server stops.
pub(super) async fn serve_connection(
    stream: UnixStream,
    snapshots: Arc<dyn Snapshotter>,
    differ: Option<DifferOf>,
    pool: tokio::runtime::Handle,
    mut life: Life,
) {
    let diffs = differ.map(|differ| {
        DiffServer::new(differ::Door {
            differ,
            snapshots: Arc::clone(&snapshots),
            pool: pool.clone(),
        })
    });
    let server = SnapshotsServer::new(Door { snapshots, pool });
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        // Either service answers what it does not know as not implemented.
        let diffs = diffs.clone().filter(|_| is_for_differ(request.uri().path()));
        let snapshots = server.clone();
        async move {
            match diffs {
                Some(mut diffs) => diffs.call(request).await,
                None => { snapshots }.call(request).await,
            }
        }
    });
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new());
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping(&mut life.stopped) => {
            // The caller is told that no new call is taken; those under way are answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection broke");
    }
}

fn is_for_differ(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.is_some_and(|(service, _)| service == crate::wire::containerd::diff::diff_server::SERVICE_NAME)
}

#[derive(Clone)]
struct Door {
    snapshots: Arc<dyn Snapshotter>,
    /// Where the verbs run; a connection's own thread must not block.
    pool: tokio::runtime::Handle,
}

impl Door {
    /// Runs a verb on the blocking pool.
    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&dyn Snapshotter) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Status> {
        let begun = Instant::now();
        let snapshots = Arc::clone(&self.snapshots);
        let work = self
            .pool
            .spawn_blocking(move || guarded(verb, || work(&*snapshots)));
        let outcome = match tokio::time::timeout(DEADLINE, work).await {
            Ok(outcome) => {
                outcome.unwrap_or_else(|_| Err(Fault::internal(format!("{verb}: the worker was lost"))))
            }
            Err(_) => Err(Fault::new(
                FaultKind::Timeout,
                format!(
                    "{verb} is not done after {} s and goes on; ask again",
                    DEADLINE.as_secs()
                ),
            )),
        };
        tracing::debug!(
            verb,
            us = begun.elapsed().as_micros(),
            ok = outcome.is_ok(),
            "answered"
        );
        outcome.map_err(|fault| status(verb, &fault))
    }
}

/// Turns a panic into a fault; the next call finds the store as it was left.
pub(super) fn guarded<T>(verb: &str, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Fault::internal(format!(
            "{verb}: a defect in the store of layers"
        )))
    })
}

pub(super) fn status(verb: &str, fault: &Fault) -> Status {
    let sentence = fault.sentence();
    match fault.kind {
        FaultKind::Internal | FaultKind::Corrupt => tracing::error!(verb, "{sentence}"),
        _ => tracing::info!(verb, kind = fault.kind.label(), "{sentence}"),
    }
    Status::new(code(fault.kind), sentence)
}

/// What containerd decides on.
fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::NotFound => Code::NotFound,
        FaultKind::AlreadyExists => Code::AlreadyExists,
        FaultKind::Invalid => Code::InvalidArgument,
        FaultKind::InUse | FaultKind::WrongState => Code::FailedPrecondition,
        FaultKind::Unsupported => Code::Unimplemented,
        FaultKind::Exhausted => Code::ResourceExhausted,
        FaultKind::Unavailable => Code::Unavailable,
        FaultKind::Timeout => Code::DeadlineExceeded,
        FaultKind::Conflict => Code::Aborted,
        FaultKind::Corrupt => Code::DataLoss,
        FaultKind::Internal => Code::Internal,
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for Door {
    async fn prepare(&self, request: Request<w::PrepareRequest>) -> Answer<w::PrepareResponse> {
        let asked = request.into_inner();
        let work = move |snapshots: &dyn Snapshotter| {
            let parent = containerd::parent_in(asked.parent)?;
            snapshots.prepare(&SnapshotKey::new(asked.key)?, parent.as_ref(), &asked.labels)
        };
        let mounts = containerd::mounts_out(self.run("Snapshots.Prepare", work).await?);
        Ok(Response::new(w::PrepareResponse { mounts }))
    }

    async fn view(&self, request: Request<w::ViewRequest>) -> Answer<w::ViewResponse> {
        let asked = request.into_inner();
        let work = move |snapshots: &dyn Snapshotter| {
            let parent = containerd::parent_in(asked.parent)?;
            snapshots.view(&SnapshotKey::new(asked.key)?, parent.as_ref(), &asked.labels)
        };
        let mounts = containerd::mounts_out(self.run("Snapshots.View", work).await?);
        Ok(Response::new(w::ViewResponse { mounts }))
    }

    async fn mounts(&self, request: Request<w::MountsRequest>) -> Answer<w::MountsResponse> {
        let key = request.into_inner().key;
        let work = move |snapshots: &dyn Snapshotter| snapshots.mounts(&SnapshotKey::new(key)?);
        let mounts = containerd::mounts_out(self.run("Snapshots.Mounts", work).await?);
        Ok(Response::new(w::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<w::CommitRequest>) -> Answer<()> {
        let asked = request.into_inner();
        let work = move |snapshots: &dyn Snapshotter| {
            let (name, key) = (SnapshotKey::new(asked.name)?, SnapshotKey::new(asked.key)?);
            match containerd::parent_in(asked.parent)? {
                Some(parent) => snapshots.commit_upon(&name, &key, &parent, &asked.labels),
                None => snapshots.commit(&name, &key, &asked.labels),
            }
        };
        self.run("Snapshots.Commit", work).await.map(Response::new)
    }

    async fn remove(&self, request: Request<w::RemoveRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        let work = move |snapshots: &dyn Snapshotter| snapshots.remove(&SnapshotKey::new(key)?);
        self.run("Snapshots.Remove", work).await.map(Response::new)
    }

    async fn stat(&self, request: Request<w::StatRequest>) -> Answer<w::StatResponse> {
        let key = request.into_inner().key;
        let work = move |snapshots: &dyn Snapshotter| snapshots.stat(&SnapshotKey::new(key)?);
        let info = self.run("Snapshots.Stat", work).await?;
        let info = Some(containerd::info_out(info));
        Ok(Response::new(w::StatResponse { info }))
    }

    async fn update(&self, request: Request<w::UpdateRequest>) -> Answer<w::UpdateResponse> {
        let asked = request.into_inner();
        let work = move |snapshots: &dyn Snapshotter| {
            let info = asked.info.unwrap_or_default();
            let paths = asked.update_mask.unwrap_or_default().paths;
            let change = containerd::change_in(info.labels, &paths)?;
            snapshots.update(&SnapshotKey::new(info.name)?, &change)
        };
        let info = self.run("Snapshots.Update", work).await?;
        let info = Some(containerd::info_out(info));
        Ok(Response::new(w::UpdateResponse { info }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<w::ListResponse, Status>> + Send>>;

    async fn list(&self, request: Request<w::ListRequest>) -> Answer<Self::ListStream> {
        let filters = request.into_inner().filters;
        let work = move |snapshots: &dyn Snapshotter| {
            let filters = Filters::read(&filters)?;
            let mut all = snapshots.list()?;
            all.retain(|info| filters.take(info));
            let all: Vec<w::Info> = all.into_iter().map(containerd::info_out).collect();
            Ok(all)
        };
        let all = self.run("Snapshots.List", work).await?;
        let pieces: Vec<_> = all
            .chunks(ROWS)
            .map(|piece| Ok(w::ListResponse { info: piece.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn usage(&self, request: Request<w::UsageRequest>) -> Answer<w::UsageResponse> {
        let key = request.into_inner().key;
        let work = move |snapshots: &dyn Snapshotter| snapshots.usage(&SnapshotKey::new(key)?);
        let usage = self.run("Snapshots.Usage", work).await?;
        Ok(Response::new(containerd::usage_out(usage)))
    }

    async fn cleanup(&self, _: Request<w::CleanupRequest>) -> Answer<()> {
        let work = |snapshots: &dyn Snapshotter| snapshots.cleanup();
        self.run("Snapshots.Cleanup", work).await.map(Response::new)
    }
}
