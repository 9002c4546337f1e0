//! The same verbs from the other side: a blocking client of one plugin socket.
//!
//! [`Client::volume`] and its kin implement the traits of the language over the socket, so that the
//! reference engine and the contract suites speak to a driver in this process and to a plugin of any
//! language alike. A client may be shared between threads; each request takes an idle connection or
//! opens another, as engines do. **It never retries:** what an engine does when a plugin dies is the
//! engine's business.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::fault::{Fault, FaultKind};
use crate::graph::{Change, GraphInit, GraphPlugin, NewLayer};
use crate::id::{HolderId, LayerId, NetworkId, PoolId, VolumeName};
use crate::ipam::{
    AddressLease, AddressRequest, DefaultSpaces, IpamCapabilities, IpamDriver, PoolLease, PoolRequest,
};
use crate::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinPlan, JoinSpec,
    NetworkCapabilities, NetworkDriver, NetworkSpec,
};
use crate::report::Report;
use crate::volume::{Scope, VolumeDriver, VolumeInfo};
use crate::wire::{self, Verb};
use crate::{Done, Options};

/// Largest JSON reply taken.
const MAX_REPLY: usize = 64 << 20;

/// One plugin socket.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.shared.path.display())
    }
}

/// A body that is whole, or comes in pieces.
enum Outgoing {
    Whole(Full<Bytes>),
    /// An error breaks the request off, so that a plugin never takes a part for the whole.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(full) => {
                let frame = std::pin::Pin::new(full).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Pieces(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Pieces(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// A connection with the little runtime that drives it on the caller's own thread.
struct Connection {
    runtime: Runtime,
    sender: SendRequest<Outgoing>,
}

impl Connection {
    fn open(path: &Path) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(path).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            Ok::<_, io::Error>(sender)
        })?;
        Ok(Self { runtime, sender })
    }
}

impl Client {
    /// Opens a first connection, to learn whether anybody answers.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, Fault> {
        let path = path.as_ref().to_owned();
        let connection = Connection::open(&path).map_err(|error| unreachable_socket(&path, error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                idle: Mutex::new(vec![connection]),
            }),
        })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Says hello and returns what the plugin implements: `VolumeDriver`, `NetworkDriver`…
    pub fn activate(&self) -> Result<Vec<String>, Fault> {
        wire::manifest_in(&self.call(Verb::Activate, Vec::new())?)
    }

    /// Volumes of the plugin.
    pub fn volume(&self) -> RemoteVolume {
        RemoteVolume(self.clone())
    }

    /// Networks of the plugin.
    pub fn network(&self) -> RemoteNetwork {
        RemoteNetwork(self.clone())
    }

    /// Addresses of the plugin.
    pub fn ipam(&self) -> RemoteIpam {
        RemoteIpam(self.clone())
    }

    /// Layers of the plugin.
    pub fn graph(&self) -> RemoteGraph {
        RemoteGraph(self.clone())
    }

    /// What the plugin has, or only what concerns one network; only longshore answers this.
    pub fn report(&self, network: Option<&NetworkId>) -> Result<Report, Fault> {
        wire::status::report_reply_in(&self.call(Verb::Status, wire::status::request(network))?)
    }

    /// Sends one verb with a JSON body and returns the body of its reply; a failure told is a [`Fault`].
    pub fn call(&self, verb: Verb, body: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let mut connection = self.take()?;
        let request = post(&format!("/{}", verb.name()), Outgoing::Whole(Full::from(body)));
        let Connection { runtime, sender } = &mut connection;
        let (status, bytes) = runtime
            .block_on(async {
                let response = ready(sender).await?.send_request(request).await?;
                whole(response).await
            })
            .map_err(|error| self.broken(verb, error))?;
        self.give_back(connection);
        told(status, bytes)
    }

    fn take(&self) -> Result<Connection, Fault> {
        loop {
            let idle = self
                .shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            match idle {
                Some(connection) if is_alive(&connection) => return Ok(connection),
                Some(_) => {}
                None => {
                    return Connection::open(self.path())
                        .map_err(|error| unreachable_socket(self.path(), error));
                }
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        self.shared
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    fn broken(&self, verb: Verb, error: hyper::Error) -> Fault {
        let text = format!(
            "{} on {}: the connection broke off",
            verb.name(),
            self.path().display()
        );
        Fault::new(FaultKind::Unavailable, text).because(error)
    }
}

fn unreachable_socket(path: &Path, error: io::Error) -> Fault {
    Fault::new(
        FaultKind::Unavailable,
        format!("connect to the plugin socket {}", path.display()),
    )
    .because(error)
}

/// Lets the connection's task notice a peer that closed, then asks.
fn is_alive(connection: &Connection) -> bool {
    connection.runtime.block_on(tokio::task::yield_now());
    !connection.sender.is_closed()
}

async fn ready(sender: &mut SendRequest<Outgoing>) -> hyper::Result<&mut SendRequest<Outgoing>> {
    sender.ready().await?;
    Ok(sender)
}

fn post(uri: &str, body: Outgoing) -> Request<Outgoing> {
    Request::post(uri)
        .header("Host", "plugin.moby.localhost")
        .header("Accept", wire::CONTENT_TYPE)
        .body(body)
        .expect("a verb's path and two fixed headers make a request")
}

async fn whole(response: Response<Incoming>) -> hyper::Result<(u16, Vec<u8>)> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data()
            && bytes.len() + data.len() <= MAX_REPLY
        {
            bytes.extend_from_slice(&data);
        }
    }
    Ok((status, bytes))
}

fn told(status: u16, bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    match wire::failure_in(status, &bytes) {
        None => Ok(bytes),
        Some(sentence) => Err(Fault::new(kind_of(status), sentence)),
    }
}

/// The wire tells no kind; what can be told from the status is.
fn kind_of(status: u16) -> FaultKind {
    match status {
        404 => FaultKind::Unsupported,
        400 | 405 | 413 => FaultKind::Invalid,
        _ => FaultKind::Internal,
    }
}

fn changed(_reply: Vec<u8>) -> Done {
    // The wire does not tell a change from a repetition.
    Done::Changed
}

// === volumes ===

/// [`VolumeDriver`] over a socket.
#[derive(Debug, Clone)]
pub struct RemoteVolume(Client);

impl VolumeDriver for RemoteVolume {
    fn scope(&self) -> Scope {
        let reply = self.0.call(Verb::VolumeCapabilities, wire::no_fields());
        reply
            .and_then(|body| wire::volume::capabilities_reply_in(&body))
            .unwrap_or(Scope::Local)
    }

    fn engine_arrived(&self, _peer: crate::EnginePeer) {
        let _ = self.0.activate();
    }

    fn create(&self, name: &VolumeName, options: &Options) -> Result<Done, Fault> {
        self.0
            .call(Verb::VolumeCreate, wire::volume::create_request(name, options))
            .map(changed)
    }

    fn remove(&self, name: &VolumeName) -> Result<Done, Fault> {
        self.0
            .call(Verb::VolumeRemove, wire::volume::name_request(name))
            .map(changed)
    }

    fn mount(
        &self,
        name: &VolumeName,
        holder: &HolderId,
        _peer: crate::EnginePeer,
    ) -> Result<PathBuf, Fault> {
        let body = self
            .0
            .call(Verb::VolumeMount, wire::volume::hold_request(name, holder))?;
        let path = wire::volume::mountpoint_reply_in(Verb::VolumeMount, &body)?;
        path.ok_or_else(|| Fault::internal("the plugin gave no mount point"))
    }

    fn unmount(&self, name: &VolumeName, holder: &HolderId) -> Result<Done, Fault> {
        self.0
            .call(Verb::VolumeUnmount, wire::volume::hold_request(name, holder))
            .map(changed)
    }

    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        wire::volume::get_reply_in(&self.0.call(Verb::VolumeGet, wire::volume::name_request(name))?)
    }

    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        wire::volume::list_reply_in(&self.0.call(Verb::VolumeList, wire::no_fields())?)
    }
}

// === networks ===

/// [`NetworkDriver`] over a socket.
#[derive(Debug, Clone)]
pub struct RemoteNetwork(Client);

impl RemoteNetwork {
    /// What the plugin announces, or why it does not answer.
    pub fn announced(&self) -> Result<NetworkCapabilities, Fault> {
        wire::network::capabilities_reply_in(&self.0.call(Verb::NetworkCapabilities, Vec::new())?)
    }
}

impl NetworkDriver for RemoteNetwork {
    fn capabilities(&self) -> NetworkCapabilities {
        let nothing = NetworkCapabilities {
            scope: Scope::Local,
            connectivity: Scope::Local,
            checks_gateway: false,
        };
        self.announced().unwrap_or(nothing)
    }

    fn create_network(&self, spec: &NetworkSpec) -> Result<Done, Fault> {
        self.0
            .call(Verb::NetworkCreate, wire::network::create_network_request(spec))
            .map(changed)
    }

    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        self.0
            .call(Verb::NetworkDelete, wire::network::network_request(id))
            .map(changed)
    }

    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
        let body = self
            .0
            .call(Verb::EndpointCreate, wire::network::create_endpoint_request(spec))?;
        wire::network::create_endpoint_reply_in(&body)
    }

    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault> {
        self.0
            .call(Verb::EndpointDelete, wire::network::endpoint_request(at))
            .map(changed)
    }

    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        wire::network::info_reply_in(
            &self
                .0
                .call(Verb::EndpointInfo, wire::network::endpoint_request(at))?,
        )
    }

    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
        wire::network::join_reply_in(&self.0.call(Verb::Join, wire::network::join_request(spec))?)
    }

    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault> {
        self.0
            .call(Verb::Leave, wire::network::endpoint_request(at))
            .map(changed)
    }

    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        Some(self)
    }
}

impl ExternalConnectivity for RemoteNetwork {
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
        absent_is_fine(self.0.call(Verb::Program, wire::network::program_request(spec)))
    }

    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault> {
        absent_is_fine(self.0.call(Verb::Revoke, wire::network::endpoint_request(at)))
    }
}

/// Engines swallow a 404 for these two verbs.
fn absent_is_fine(outcome: Result<Vec<u8>, Fault>) -> Result<Done, Fault> {
    match outcome {
        Err(fault) if fault.kind == FaultKind::Unsupported => Ok(Done::AlreadySo),
        other => other.map(changed),
    }
}

// === addresses ===

/// [`IpamDriver`] over a socket.
#[derive(Debug, Clone)]
pub struct RemoteIpam(Client);

impl IpamDriver for RemoteIpam {
    fn capabilities(&self) -> IpamCapabilities {
        let reply = self.0.call(Verb::IpamCapabilities, Vec::new());
        reply
            .and_then(|body| wire::ipam::capabilities_reply_in(&body))
            .unwrap_or_default()
    }

    fn default_spaces(&self) -> Result<DefaultSpaces, Fault> {
        wire::ipam::default_spaces_reply_in(&self.0.call(Verb::IpamDefaultSpaces, Vec::new())?)
    }

    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault> {
        wire::ipam::pool_reply_in(
            &self
                .0
                .call(Verb::IpamRequestPool, wire::ipam::pool_request(request))?,
        )
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        self.0
            .call(Verb::IpamReleasePool, wire::ipam::release_pool_request(id))
            .map(changed)
    }

    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault> {
        wire::ipam::address_reply_in(
            &self
                .0
                .call(Verb::IpamRequestAddress, wire::ipam::address_request(request))?,
        )
    }

    fn release_address(&self, pool: &PoolId, address: IpAddr) -> Result<Done, Fault> {
        let body = wire::ipam::release_address_request(pool, address);
        self.0.call(Verb::IpamReleaseAddress, body).map(changed)
    }
}

// === layers ===

/// [`GraphPlugin`] over a socket.
#[derive(Debug, Clone)]
pub struct RemoteGraph(Client);

impl RemoteGraph {
    fn layer(&self, verb: Verb, id: &LayerId) -> Result<Vec<u8>, Fault> {
        self.0.call(verb, wire::graph::layer_request(id, ""))
    }

    fn pair(&self, verb: Verb, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<u8>, Fault> {
        self.0.call(verb, wire::graph::pair_request(id, parent))
    }
}

impl GraphPlugin for RemoteGraph {
    fn init(&self, init: &GraphInit) -> Result<Done, Fault> {
        self.0
            .call(Verb::GraphInit, wire::graph::init_request(init))
            .map(changed)
    }

    fn reproduces_exact_diffs(&self) -> bool {
        let reply = self.0.call(Verb::GraphCapabilities, wire::no_fields());
        reply
            .and_then(|body| wire::graph::capabilities_reply_in(&body))
            .unwrap_or(false)
    }

    fn status(&self) -> Result<Vec<(String, String)>, Fault> {
        wire::graph::status_reply_in(&self.0.call(Verb::GraphStatus, wire::no_fields())?)
    }

    fn create(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.0
            .call(Verb::GraphCreate, wire::graph::new_layer_request(layer))
            .map(changed)
    }

    fn create_read_write(&self, layer: &NewLayer) -> Result<Done, Fault> {
        self.0
            .call(Verb::GraphCreateReadWrite, wire::graph::new_layer_request(layer))
            .map(changed)
    }

    fn get(&self, id: &LayerId, mount_label: &str) -> Result<PathBuf, Fault> {
        wire::graph::dir_reply_in(
            &self
                .0
                .call(Verb::GraphGet, wire::graph::layer_request(id, mount_label))?,
        )
    }

    fn put(&self, id: &LayerId) -> Result<Done, Fault> {
        self.layer(Verb::GraphPut, id).map(changed)
    }

    fn exists(&self, id: &LayerId) -> Result<bool, Fault> {
        wire::graph::exists_reply_in(&self.layer(Verb::GraphExists, id)?)
    }

    fn remove(&self, id: &LayerId) -> Result<Done, Fault> {
        self.layer(Verb::GraphRemove, id).map(changed)
    }

    fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, Fault> {
        wire::graph::metadata_reply_in(&self.layer(Verb::GraphMetadata, id)?)
    }

    fn changes(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<Vec<Change>, Fault> {
        wire::graph::changes_reply_in(&self.pair(Verb::GraphChanges, id, parent)?)
    }

    fn diff(&self, id: &LayerId, parent: Option<&LayerId>, out: &mut dyn Write) -> Result<(), Fault> {
        let verb = Verb::GraphDiff;
        let mut connection = self.0.take()?;
        let body = Outgoing::Whole(Full::from(wire::graph::pair_request(id, parent)));
        let request = post(&format!("/{}", verb.name()), body);
        let Connection { runtime, sender } = &mut connection;
        let outcome = runtime.block_on(async {
            let response = ready(sender).await.map_err(|e| self.0.broken(verb, e))?;
            let response = response
                .send_request(request)
                .await
                .map_err(|e| self.0.broken(verb, e))?;
            if response.status() == 200 {
                return copy_out(response, out).await.map_err(|error| {
                    Fault::new(FaultKind::Unavailable, format!("diff of layer {}", id.short())).because(error)
                });
            }
            let (status, bytes) = whole(response).await.map_err(|e| self.0.broken(verb, e))?;
            told(status, bytes).map(drop)
        });
        if outcome.is_ok() {
            self.0.give_back(connection);
        }
        outcome
    }

    fn diff_size(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<u64, Fault> {
        let verb = Verb::GraphDiffSize;
        wire::graph::size_reply_in(verb, &self.pair(verb, id, parent)?)
    }

    fn apply_diff(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        archive: &mut dyn Read,
    ) -> Result<u64, Fault> {
        let verb = Verb::GraphApplyDiff;
        let mut connection = self.0.take()?;
        let (pieces, receiver) = mpsc::channel(4);
        let uri = format!("/{}?{}", verb.name(), wire::graph::apply_query(id, parent));
        let request = post(&uri, Outgoing::Pieces(receiver));
        let Connection { runtime, sender } = &mut connection;
        let (status, bytes) = runtime.block_on(async {
            ready(sender).await.map_err(|e| self.0.broken(verb, e))?;
            let reply = sender.send_request(request);
            let (fed, reply) = tokio::join!(feed(archive, pieces), reply);
            fed.map_err(|error| {
                Fault::invalid(format!("read the archive of layer {}", id.short())).because(error)
            })?;
            whole(reply.map_err(|e| self.0.broken(verb, e))?)
                .await
                .map_err(|e| self.0.broken(verb, e))
        })?;
        // A plugin that answered before it read everything leaves the connection in doubt.
        if status == 200 {
            self.0.give_back(connection);
        }
        wire::graph::size_reply_in(verb, &told(status, bytes)?)
    }

    fn cleanup(&self) -> Result<Done, Fault> {
        self.0.call(Verb::GraphCleanup, wire::no_fields()).map(changed)
    }
}

async fn copy_out(response: Response<Incoming>, out: &mut dyn Write) -> io::Result<()> {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            out.write_all(&data)?;
        }
    }
    out.flush()
}

/// Reads the archive piece by piece; ends early when nobody takes the pieces any more.
async fn feed(archive: &mut dyn Read, pieces: mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut piece = vec![0; 256 << 10];
        let length = match archive.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                let _ = pieces.send(Err(told)).await;
                return Err(error);
            }
        };
        piece.truncate(length);
        if length == 0 || pieces.send(Ok(piece.into())).await.is_err() {
            return Ok(());
        }
    }
}
