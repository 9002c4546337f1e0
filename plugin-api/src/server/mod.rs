//! Sockets, connections and requests.
//!
//! One [`Plugin`] behind one socket; several sockets in one process. Connections are kept open for
//! ever, since an engine that loses one while it writes repeats the call with an empty body. Each has a
//! thread of its own: engines keep a handful, and a verb that is answered from memory then costs one
//! wake-up each way. Verbs that may block run on the blocking pool under a deadline; a panic is answered
//! as status 500 and takes nothing else down. On shutdown the sockets stop taking connections, those that wait in the queue are still
//! served, and requests under way are finished.

mod body;
mod differ;
mod dispatch;
mod grpc;
mod listen;

pub use listen::{BindError, Bound, adopt, bind};

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::EnginePeer;
use crate::differ::DifferOf;
use crate::graph::GraphPlugin;
use crate::ipam::IpamDriver;
use crate::network::NetworkDriver;
use crate::snapshot::Snapshotter;
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
    /// containerd's snapshots. A socket that has this speaks gRPC and nothing else.
    pub snapshot: Option<Arc<dyn Snapshotter>>,
    /// containerd's archives, on the socket of its snapshots.
    pub differ: Option<DifferOf>,
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
    stopped: watch::Receiver<bool>,
    grace: Duration,
) {
    // Every connection keeps a sender; when all are gone, so are the connections.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let caller = Caller {
        plugin: Arc::new(plugin),
        name: bound
            .path()
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into(),
        pool: tokio::runtime::Handle::current(),
    };
    let spawn = |stream| {
        let life = Life {
            stopped: stopped.clone(),
            _open: open.clone(),
        };
        spawn_connection(stream, caller.clone(), life);
    };
    let mut stop = stopped.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => spawn(stream),
                Err(error) => pause_after(&error).await,
            },
            () = stopping(&mut stop) => break,
        }
    }
    // Nobody finds the socket any more, or systemd keeps it: what waits in our queue is still ours.
    bound.retire();
    if bound.is_ours() {
        while let Some(stream) = queued(&bound) {
            spawn(stream);
        }
    }
    drop(listener);
    drop(open);
    if tokio::time::timeout(grace, all_closed.recv()).await.is_err() {
        tracing::warn!(socket = %bound.path().display(), "requests still under way are left behind");
    }
}

/// How long a connection may take to write its first request once we are stopping.
const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// How long a connection that was served before is still listened to once we are stopping: a request
/// that is already in its socket is read and answered.
const LAST_REQUEST: Duration = Duration::from_millis(5);

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

/// Stack of a connection's thread: it parses and dispatches, drivers' deep work is on the pool.
const STACK: usize = 512 << 10;

/// What a connection lives with.
#[derive(Clone)]
struct Caller {
    plugin: Arc<Plugin>,
    /// The socket's name, which is the driver's.
    name: Arc<str>,
    /// Where verbs that may block run.
    pool: tokio::runtime::Handle,
}

/// What tells a connection to end, and tells us that it has.
struct Life {
    stopped: watch::Receiver<bool>,
    _open: mpsc::Sender<()>,
}

fn spawn_connection(stream: UnixStream, caller: Caller, life: Life) {
    let moved = stream.into_std().and_then(|stream| {
        let thread = thread::Builder::new().name("connection".into()).stack_size(STACK);
        thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(serve_connection(stream, caller, life))
        })
    });
    if let Err(error) = moved {
        tracing::warn!(%error, "serve a connection");
    }
}

async fn serve_connection(stream: StdStream, caller: Caller, mut life: Life) -> io::Result<()> {
    let stream = UnixStream::from_std(stream)?;
    let peer = EnginePeer {
        pid: stream.peer_cred().ok().and_then(|cred| cred.pid()),
    };
    if let Some(snapshots) = caller.plugin.snapshot.clone() {
        let (differ, pool) = (caller.plugin.differ.clone(), caller.pool.clone());
        // The life ends last: who waits for it may open the store anew.
        drop(caller);
        grpc::serve_connection(stream, snapshots, differ, pool, life).await;
        return Ok(());
    }
    let (asked, mut was_asked) = watch::channel(false);
    let service = service_fn(move |request: Request<Incoming>| {
        let caller = caller.clone();
        asked.send_replace(true);
        async move { Ok::<_, std::convert::Infallible>(dispatch::answer(caller, peer, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(64 << 10);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = settled(&mut life.stopped, &mut was_asked) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection broke");
    }
    Ok(())
}

/// Ends when the server stops and the connection has had its chance to say what it came for.
async fn settled(stopped: &mut watch::Receiver<bool>, was_asked: &mut watch::Receiver<bool>) {
    stopping(stopped).await;
    if *was_asked.borrow() {
        tokio::time::sleep(LAST_REQUEST).await;
        return;
    }
    let asked = was_asked.wait_for(|asked| *asked);
    let _ = tokio::time::timeout(FIRST_REQUEST, asked).await;
}
