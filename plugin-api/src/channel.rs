//! One HTTP/2 connection to a Unix socket, for the gRPC clients.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

use crate::fault::{Fault, FaultKind};

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Channel(http2::SendRequest<Body>);

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

impl Channel {
    /// Connects; the connection lives on the runtime it was made on, until its last user is gone.
    pub(crate) async fn connect(path: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| lost(path, error))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(path, error))?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// What stands where other connections have their server's name.
    pub(crate) fn origin() -> http::Uri {
        http::Uri::from_static("http://localhost")
    }
}

/// A socket that nobody answers.
pub(crate) fn lost(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("connect to {}", path.display())).because(error)
}

/// What a gRPC code says.
pub(crate) fn fault(status: &Status) -> Fault {
    Fault::new(kind(status.code()), status.message())
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
