//! containerd's store of blobs, from the outside: read one, write one. Blocking, as those who pack and unpack
//! are; the connection lives on a runtime beside them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, Streaming};

use crate::channel::{Channel, fault};
use crate::fault::{Fault, FaultKind};
use crate::wire::containerd::content as w;
use crate::wire::containerd::content::content_client::ContentClient;
use crate::wire::containerd::leases::CreateRequest;
use crate::wire::containerd::leases::leases_client::LeasesClient;
use crate::wire::containerd::namespaces::ListNamespacesRequest;
use crate::wire::containerd::namespaces::namespaces_client::NamespacesClient;

/// A piece of a blob as it is sent: below the 4 MiB that a gRPC message may have by default.
const PIECE: usize = 1 << 20;

/// How many pieces may be on their way unanswered.
const AHEAD: u64 = 4;

/// Whose blobs they are.
const NAMESPACE: &str = "containerd-namespace";
/// Who keeps them alive.
const LEASE: &str = "containerd-lease";

/// How long a blob is kept that nobody has promised to keep: by then it is part of an image, or never.
const KEPT: Duration = Duration::from_secs(3600);

/// A connection to containerd's store of blobs, in one namespace.
#[derive(Debug, Clone)]
pub struct Contents {
    runtime: Handle,
    channel: Channel,
    client: ContentClient<Channel>,
    headers: MetadataMap,
    /// Whoever asked has gone away.
    given_up: Arc<AtomicBool>,
}

impl Contents {
    /// Connects to containerd's socket from a thread that may block. Of a call's `headers` those are sent
    /// along that say whose blobs are meant and who keeps them.
    pub fn connect(
        runtime: Handle,
        socket: &Path,
        headers: &MetadataMap,
        given_up: Arc<AtomicBool>,
    ) -> Result<Self, Fault> {
        let channel = runtime.block_on(Channel::connect(socket))?;
        let client = ContentClient::with_origin(channel.clone(), Channel::origin());
        let mut kept = MetadataMap::new();
        for name in [NAMESPACE, LEASE] {
            if let Some(value) = headers.get(name) {
                kept.insert(name, value.clone());
            }
        }
        Ok(Self {
            runtime,
            channel,
            client: client.max_decoding_message_size(16 << 20),
            headers: kept,
            given_up,
        })
    }

    /// Whether it is known whose blobs are meant.
    pub fn has_namespace(&self) -> bool {
        self.headers.contains_key(NAMESPACE)
    }

    fn enter(&mut self, namespace: &str) -> Result<(), Fault> {
        let value = namespace.parse().map_err(|_| {
            let name = crate::id::quoted(namespace);
            Fault::invalid(format!("find blobs: {name} is no namespace of containerd"))
        })?;
        self.headers.insert(NAMESPACE, value);
        Ok(())
    }

    /// Goes to the namespace that is likeliest, or else to one that has a blob of that digest: which one does
    /// not matter to who reads it.
    pub fn find(&mut self, likeliest: Option<String>, digest: &str) -> Result<(), Fault> {
        let listed = self.namespaces()?;
        for namespace in likeliest.into_iter().chain(listed) {
            self.enter(&namespace)?;
            let asked = self.request(w::InfoRequest {
                digest: digest.to_owned(),
            });
            let mut client = self.client.clone();
            match self.runtime.block_on(client.info(asked)) {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(fault(&status)),
            }
        }
        let digest = crate::id::quoted(digest);
        Err(Fault::not_found(format!(
            "find blob {digest}: containerd has none in any namespace"
        )))
    }

    /// Goes to a namespace where something is to be written: the likeliest, or the only one.
    pub fn settle(&mut self, likeliest: Option<String>) -> Result<(), Fault> {
        if let Some(namespace) = likeliest {
            return self.enter(&namespace);
        }
        match self.namespaces()?.as_slice() {
            [only] => self.enter(only),
            _ => Err(Fault::unsupported(
                "write a blob: the call names no namespace of containerd, and the trees are none of ours",
            )),
        }
    }

    fn namespaces(&self) -> Result<Vec<String>, Fault> {
        let mut client = NamespacesClient::with_origin(self.channel.clone(), Channel::origin());
        let asked = Request::new(ListNamespacesRequest::default());
        let listed = self.runtime.block_on(client.list(asked));
        let listed = listed.map_err(|status| fault(&status))?.into_inner().namespaces;
        Ok(listed.into_iter().map(|one| one.name).collect())
    }

    /// Where nobody has promised to keep what is written, asks that it be kept for a while.
    pub fn keep(&mut self) -> Result<(), Fault> {
        if self.headers.contains_key(LEASE) {
            return Ok(());
        }
        let until = jiff::Timestamp::now()
            .checked_add(KEPT)
            .map_err(|error| Fault::internal("tell the time in an hour").because(error))?;
        let asked = self.request(CreateRequest {
            id: fresh_name(),
            labels: BTreeMap::from([("containerd.io/gc.expire".to_owned(), until.to_string())]),
        });
        let mut client = LeasesClient::with_origin(self.channel.clone(), Channel::origin());
        let made = self.runtime.block_on(client.create(asked));
        let lease = made.map_err(|status| fault(&status))?.into_inner().lease;
        let id = lease.unwrap_or_default().id.parse();
        let id = id.map_err(|_| Fault::internal("read a lease: its name is no header"))?;
        self.headers.insert(LEASE, id);
        Ok(())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    /// Opens a blob to be read from its start.
    pub fn read(&self, digest: &str) -> Result<Blob, Fault> {
        let asked = self.request(w::ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        });
        let mut client = self.client.clone();
        let stream = self.runtime.block_on(client.read(asked));
        Ok(Blob {
            runtime: self.runtime.clone(),
            stream: stream.map_err(|status| fault(&status))?.into_inner(),
            piece: Bytes::new(),
            given_up: Arc::clone(&self.given_up),
        })
    }

    /// Begins a blob; what an earlier attempt under the same name has left is written over.
    pub fn write(&self, name: &str) -> Result<Draft, Fault> {
        let (sender, receiver) = mpsc::channel(8);
        let mut client = self.client.clone();
        let first = w::WriteContentRequest {
            action: w::WriteAction::Stat.into(),
            r#ref: name.to_owned(),
            ..w::WriteContentRequest::default()
        };
        let asked = self.request(Messages(receiver));
        let replies = self.runtime.block_on(async {
            let _ = sender.send(first).await;
            let mut replies = client.write(asked).await?.into_inner();
            replies.message().await?;
            Ok::<_, Status>(replies)
        });
        Ok(Draft {
            contents: self.clone(),
            name: name.to_owned(),
            sender,
            replies: replies.map_err(|status| fault(&status))?,
            piece: BytesMut::with_capacity(PIECE),
            offset: 0,
            unanswered: 0,
            refused: None,
        })
    }

    /// Gives a blob that is there already labels that it lacks.
    fn label(&self, digest: &str, labels: &BTreeMap<String, String>) -> Result<(), Fault> {
        let info = w::Info {
            digest: digest.to_owned(),
            labels: labels.clone(),
            ..w::Info::default()
        };
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let asked = self.request(w::UpdateRequest {
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        });
        let mut client = self.client.clone();
        let outcome = self.runtime.block_on(client.update(asked));
        outcome.map(drop).map_err(|status| fault(&status))
    }

    /// Forgets what was written under a name and not committed.
    pub fn abort(&self, name: &str) {
        let asked = self.request(w::AbortRequest {
            r#ref: name.to_owned(),
        });
        let mut client = self.client.clone();
        if let Err(status) = self.runtime.block_on(client.abort(asked)) {
            tracing::debug!(name, %status, "abort a blob");
        }
    }
}

/// A name for a blob until it is committed, which nobody else has.
pub fn fresh_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "longshore-diff-{}-{}-{}",
        std::process::id(),
        now.unwrap_or_default().as_nanos(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "whoever asked has gone away")
}

fn broken(status: &Status) -> io::Error {
    io::Error::other(fault(status))
}

/// A blob being read.
#[derive(Debug)]
pub struct Blob {
    runtime: Handle,
    stream: Streaming<w::ReadContentResponse>,
    piece: Bytes,
    given_up: Arc<AtomicBool>,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(gone());
            }
            match self.runtime.block_on(self.stream.message()) {
                Ok(Some(next)) => self.piece = next.data,
                Ok(None) => return Ok(0),
                Err(status) => return Err(broken(&status)),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// The messages of a stream, as they are sent to it.
struct Messages(mpsc::Receiver<w::WriteContentRequest>);

impl Stream for Messages {
    type Item = w::WriteContentRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// A blob being written. Only [`Draft::commit`] makes it one.
#[derive(Debug)]
pub struct Draft {
    contents: Contents,
    name: String,
    sender: mpsc::Sender<w::WriteContentRequest>,
    replies: Streaming<w::WriteContentResponse>,
    piece: BytesMut,
    offset: u64,
    unanswered: u64,
    /// Why containerd took no more.
    refused: Option<Fault>,
}

impl Draft {
    /// Why containerd took no more, where a write has failed for that.
    pub fn refusal(&mut self) -> Option<Fault> {
        self.refused.take()
    }

    fn reply(&mut self) -> Result<w::WriteContentResponse, Fault> {
        match self.contents.runtime.block_on(self.replies.message()) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Fault::new(
                FaultKind::Unavailable,
                "write a blob: containerd has ended the stream",
            )),
            Err(status) => Err(fault(&status)),
        }
    }

    fn say(&mut self, message: w::WriteContentRequest) -> Result<(), Fault> {
        let sent = self.contents.runtime.block_on(self.sender.send(message));
        if sent.is_err() {
            // The stream has ended; its last word is why.
            return self.reply().map(drop);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Fault> {
        while self.unanswered >= AHEAD {
            self.reply()?;
            self.unanswered -= 1;
        }
        let data = self.piece.split().freeze();
        let length = data.len() as u64;
        let offset = position(self.offset)?;
        self.say(w::WriteContentRequest {
            action: w::WriteAction::Write.into(),
            r#ref: self.name.clone(),
            offset,
            data,
            ..w::WriteContentRequest::default()
        })?;
        self.offset += length;
        self.unanswered += 1;
        self.piece.reserve(PIECE);
        Ok(())
    }

    /// Makes it a blob of that digest and with those labels. One that is there already is given the labels.
    pub fn commit(mut self, digest: &str, labels: &BTreeMap<String, String>) -> Result<(), Fault> {
        if let Some(fault) = self.refused.take() {
            return Err(fault);
        }
        if !self.piece.is_empty() {
            self.send()?;
        }
        while self.unanswered > 0 {
            self.reply()?;
            self.unanswered -= 1;
        }
        let size = position(self.offset)?;
        self.say(w::WriteContentRequest {
            action: w::WriteAction::Commit.into(),
            r#ref: self.name.clone(),
            total: size,
            expected: digest.to_owned(),
            offset: size,
            data: Bytes::new(),
            labels: labels.clone(),
        })?;
        match self.reply() {
            Ok(_) => Ok(()),
            Err(fault) if fault.kind == FaultKind::AlreadyExists => self.contents.label(digest, labels),
            Err(fault) => Err(fault),
        }
    }
}

fn position(offset: u64) -> Result<i64, Fault> {
    i64::try_from(offset).map_err(|_| Fault::invalid("write a blob: it is too large"))
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.contents.given_up.load(Ordering::Relaxed) {
            return Err(gone());
        }
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE
            && let Err(fault) = self.send()
        {
            let sentence = fault.sentence();
            self.refused = Some(fault);
            return Err(io::Error::other(sentence));
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
