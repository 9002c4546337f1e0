//! containerd's diff service: blobs come from containerd's own store and go there, by calls back to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::grpc::{guarded, status};
use crate::content::{Contents, fresh_name};
use crate::differ::{Differ, DifferOf, Difference, Packing};
use crate::fault::Fault;
use crate::snapshot::{SnapshotKind, SnapshotMount, Snapshotter};
use crate::wire::containerd::diff as w;
use crate::wire::containerd::diff::diff_server::Diff;
use crate::wire::containerd::{self, Layer, PLAIN};

/// Under which label containerd looks for the digest of what is in a compressed blob.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

#[derive(Clone)]
pub(super) struct Door {
    pub(super) differ: DifferOf,
    pub(super) snapshots: Arc<dyn Snapshotter>,
    /// Where the verbs run; a connection's own thread must not block.
    pub(super) pool: tokio::runtime::Handle,
}

/// Tells the worker when the call is dropped: its caller has gone, and a layer may be gigabytes.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a verb works with.
struct Desk {
    differ: Arc<dyn Differ>,
    snapshots: Arc<dyn Snapshotter>,
    containerd: PathBuf,
    pool: tokio::runtime::Handle,
    headers: MetadataMap,
    given_up: Arc<AtomicBool>,
}

impl Desk {
    fn contents(&self) -> Result<Contents, Fault> {
        let given_up = Arc::clone(&self.given_up);
        Contents::connect(self.pool.clone(), &self.containerd, &self.headers, given_up)
    }

    /// The namespace in whose name a tree of ours was made: containerd 1.7 does not tell for whom it asks, but
    /// its keys begin with it.
    fn namespace(&self, mounts: &[SnapshotMount]) -> Result<Option<String>, Fault> {
        for snapshot in self.snapshots.list()? {
            let made = snapshot.kind != SnapshotKind::Committed
                && self
                    .snapshots
                    .mounts(&snapshot.key)
                    .is_ok_and(|own| own == mounts);
            if let (true, Some((namespace, _))) = (made, snapshot.key.as_str().split_once('/')) {
                return Ok(Some(namespace.to_owned()));
            }
        }
        Ok(None)
    }

    fn apply(&self, asked: w::ApplyRequest) -> Result<w::Descriptor, Fault> {
        let blob = asked.diff.unwrap_or_default();
        let layer = Layer::of(&blob.media_type)?;
        let mounts = containerd::trees_in(asked.mounts)?;
        let mut contents = self.contents()?;
        if !contents.has_namespace() {
            contents.find(self.namespace(&mounts)?, &blob.digest)?;
        }
        let mut content = contents.read(&blob.digest)?;
        // containerd calls whatever is compressed gzip: the blob itself knows.
        let packing = layer.packing.filter(|packing| *packing == Packing::Plain);
        let archive = self.differ.apply(&mut content, packing, &mounts)?;
        Ok(w::Descriptor {
            media_type: PLAIN.to_owned(),
            digest: archive.digest.to_string(),
            size: size(archive.bytes)?,
            ..w::Descriptor::default()
        })
    }

    fn diff(&self, asked: w::DiffRequest) -> Result<w::Descriptor, Fault> {
        let (media_type, packing) = Layer::to_write(&asked.media_type)?;
        let difference = Difference {
            left: containerd::trees_in(asked.left)?,
            right: containerd::trees_in(asked.right)?,
            packing,
            latest: containerd::moment_in(asked.source_date_epoch),
        };
        let mut contents = self.contents()?;
        if !contents.has_namespace() {
            contents.settle(self.namespace(&difference.right)?)?;
        }
        contents.keep()?;
        let (name, ours) = if asked.r#ref.is_empty() {
            (fresh_name(), true)
        } else {
            (asked.r#ref, false)
        };
        let mut draft = contents.write(&name)?;
        let written = match self.differ.diff(&difference, &mut draft) {
            Ok(packed) => {
                let mut labels = asked.labels;
                if packing != Packing::Plain {
                    labels.insert(UNCOMPRESSED.to_owned(), packed.archive.digest.to_string());
                }
                let digest = packed.blob.digest.to_string();
                draft.commit(&digest, &labels).map(|()| packed.blob)
            }
            Err(fault) => Err(draft.refusal().unwrap_or(fault)),
        };
        if written.is_err() && ours {
            contents.abort(&name);
        }
        let blob = written?;
        Ok(w::Descriptor {
            media_type: media_type.to_owned(),
            digest: blob.digest.to_string(),
            size: size(blob.bytes)?,
            ..w::Descriptor::default()
        })
    }
}

fn size(bytes: u64) -> Result<i64, Fault> {
    i64::try_from(bytes).map_err(|_| Fault::invalid("a layer is too large for its descriptor"))
}

impl Door {
    /// Runs a verb on the blocking pool, without a deadline: its caller has one, and drops the call.
    async fn run<T: Send + 'static>(
        &self,
        verb: &'static str,
        headers: MetadataMap,
        work: impl FnOnce(&Desk) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Status> {
        let begun = Instant::now();
        let given_up = Arc::new(AtomicBool::new(false));
        let desk = Desk {
            differ: Arc::clone(&self.differ.differ),
            snapshots: Arc::clone(&self.snapshots),
            containerd: self.differ.containerd.clone(),
            pool: self.pool.clone(),
            headers,
            given_up: Arc::clone(&given_up),
        };
        let _caller = Caller(given_up);
        let work = self.pool.spawn_blocking(move || guarded(verb, || work(&desk)));
        let outcome = work
            .await
            .unwrap_or_else(|_| Err(Fault::internal(format!("{verb}: the worker was lost"))));
        tracing::debug!(
            verb,
            us = begun.elapsed().as_micros(),
            ok = outcome.is_ok(),
            "answered"
        );
        outcome.map_err(|fault| status(verb, &fault))
    }
}

#[tonic::async_trait]
impl Diff for Door {
    async fn apply(&self, request: Request<w::ApplyRequest>) -> Result<Response<w::ApplyResponse>, Status> {
        let (headers, _, asked) = request.into_parts();
        let work = move |desk: &Desk| desk.apply(asked);
        let applied = Some(self.run("Diff.Apply", headers, work).await?);
        Ok(Response::new(w::ApplyResponse { applied }))
    }

    async fn diff(&self, request: Request<w::DiffRequest>) -> Result<Response<w::DiffResponse>, Status> {
        let (headers, _, asked) = request.into_parts();
        let work = move |desk: &Desk| desk.diff(asked);
        let diff = Some(self.run("Diff.Diff", headers, work).await?);
        Ok(Response::new(w::DiffResponse { diff }))
    }
}
