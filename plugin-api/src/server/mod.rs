//! Sockets, connections and requests.
//!
//! One [`Plugin`] behind one socket; several sockets in one process. Connections are kept open for
//! ever, since an engine that loses one while it writes repeats the call with an empty body. Every verb
//! runs on the blocking pool under a deadline; a panic is answered as status 500 and takes nothing else
//! down. On shutdown the sockets stop taking connections, those that wait in the queue are still
//! served, and requests under way are finished.

mod body;
mod dispatch;
mod listen;

pub use listen::{BindError, Bound, adopt, bind};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::EnginePeer;
use crate::graph::GraphPlugin;
use crate::ipam::IpamDriver;
use crate::network::NetworkDriver;
use crate::volume::VolumeDriver;
use crate::wire::Subsystem;

/// Largest JSON body taken; real engines send some hundred bytes, once 120 kB were seen.
pub const MAX_BODY: usize = 1 << 20;

/// The drivers behind one socket.
#[derive(Clone, Default)]
pub struct Plugin {
    /// `VolumeDriver.*`.
    pub volume: Option<Arc<dyn VolumeDriver>>,
    /// `NetworkDriver.*`.
    pub network: Option<Arc<dyn NetworkDriver>>,
    /// `IpamDriver.*`.
    pub ipam: Option<Arc<dyn IpamDriver>>,
    /// `GraphDriver.*`.
    pub graph: Option<Arc<dyn GraphPlugin>>,
}

impl Plugin {
    /// What `Plugin.Activate` announces.
    pub fn implements(&self) -> Vec<Subsystem> {
        let kinds = [
            (Subsystem::Volume, self.volume.is_some()),
            (Subsystem::Network, self.network.is_some()),
            (Subsystem::Ipam, self.ipam.is_some()),
            (Subsystem::Graph, self.graph.is_some()),
        ];
        kinds
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(kind, _)| kind)
            .collect()
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Plugin").field(&self.implements()).finish()
    }
}

/// Serves every socket until `shutdown` says so, then drains for at most `grace`.
///
/// Must be called within a tokio runtime. Returns when the last request is answered.
pub async fn serve(
    sockets: Vec<(Bound, Plugin)>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for (bound, plugin) in sockets {
        bound.listener().set_nonblocking(true)?;
        let listener = UnixListener::from_std(bound.listener().try_clone()?)?;
        tasks.spawn(serve_socket(listener, bound, plugin, stopped.clone(), grace));
    }
    shutdown.await;
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn serve_socket(
    listener: UnixListener,
    bound: Bound,
    plugin: Plugin,
    mut stopped: watch::Receiver<bool>,
    grace: Duration,
) {
    let plugin = Arc::new(plugin);
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => spawn_connection(stream, Arc::clone(&plugin), graceful.watcher(), None),
                Err(error) => pause_after(&error).await,
            },
            () = stopping(&mut stopped) => break,
        }
    }
    // Nobody finds the socket any more, or systemd keeps it: what waits in our queue is still ours.
    bound.retire();
    if bound.is_ours() {
        while let Some(stream) = queued(&bound) {
            spawn_connection(
                stream,
                Arc::clone(&plugin),
                graceful.watcher(),
                Some(FIRST_REQUEST),
            );
        }
    }
    drop(listener);
    // A connection that was just made may not have written its request yet.
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(socket = %bound.path().display(), "requests still under way are left behind");
    }
}

/// How long a connection taken while draining may take to write its request.
const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// Out of file descriptors, most likely: do not spin.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Ends when the server shall stop.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// A connection that waits in the queue, without waiting for one.
fn queued(bound: &Bound) -> Option<UnixStream> {
    let (stream, _) = bound.listener().accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    UnixStream::from_std(stream).ok()
}

fn spawn_connection(stream: UnixStream, plugin: Arc<Plugin>, watcher: Watcher, settle: Option<Duration>) {
    let peer = EnginePeer {
        pid: stream.peer_cred().ok().and_then(|cred| cred.pid()),
    };
    tokio::spawn(async move {
        if let Some(settle) = settle {
            let _ = tokio::time::timeout(settle, stream.readable()).await;
        }
        let service = service_fn(move |request: Request<Incoming>| {
            let plugin = Arc::clone(&plugin);
            async move { Ok::<_, std::convert::Infallible>(dispatch::answer(plugin, peer, request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(64 << 10);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection broke");
        }
    });
}
