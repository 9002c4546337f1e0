//! Bodies: replies that are whole or streamed, and the two ends between blocking threads and sockets.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

/// Bytes per piece of a stream, and pieces under way.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// The body of a reply.
pub(super) enum ReplyBody {
    /// Known in full, sent with its length.
    Whole(Option<Bytes>),
    /// An archive that is still being written; an error breaks the connection.
    Stream(Option<Bytes>, mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(first, rest) => match first.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => rest
                    .poll_recv(cx)
                    .map(|piece| piece.map(|piece| piece.map(Frame::data))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(..) => SizeHint::default(),
        }
    }
}

/// The writing end of a streamed reply, used on a blocking thread.
pub(super) struct StreamWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

/// Both ends of a streamed reply.
pub(super) fn stream() -> (StreamWriter, mpsc::Receiver<io::Result<Bytes>>) {
    let (pieces, receiver) = mpsc::channel(PIECES);
    (
        StreamWriter {
            pieces,
            buffer: BytesMut::with_capacity(PIECE),
        },
        receiver,
    )
}

impl StreamWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE);
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Breaks the stream: the reader must not take it for whole.
    pub(super) fn abort(self, why: &str) {
        let _ = self.pieces.blocking_send(Err(io::Error::other(why.to_owned())));
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The reading end of a streamed request, used on a blocking thread.
pub(super) struct StreamReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for StreamReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.current.len());
        into[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// Turns a request's body into a reader; a body that breaks off is an error, never an early end.
pub(super) fn reader(mut body: Incoming) -> StreamReader {
    let (sender, pieces) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue, // trailers
                },
                Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            };
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    });
    StreamReader {
        pieces,
        current: Bytes::new(),
    }
}
