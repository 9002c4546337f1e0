//! A client of a few lines, so that tests can say what no engine would.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A reply.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Status code.
    pub(crate) status: u16,
    /// Body as text.
    pub(crate) body: String,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// The sentence of a refusal; a success fails the test.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        assert!(self.status >= 400, "this should have failed: {self:?}");
        self.json()["Err"].as_str().expect("Err is text").to_owned()
    }

    /// The body of a success; a refusal fails the test.
    #[track_caller]
    pub(crate) fn ok(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

/// Sends `POST /VERB` with a body on a new connection.
pub(crate) fn call(socket: &Path, verb: &str, body: &str) -> std::io::Result<Reply> {
    let head = format!("POST /{verb} HTTP/1.1\r\nHost: \r\nConnection: close\r\n");
    let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    raw(socket, text.as_bytes())
}

/// Sends bytes on a new connection and reads the reply until the server closes.
pub(crate) fn raw(socket: &Path, bytes: &[u8]) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // A server may refuse before it has read everything; what it says counts.
    let sent = stream.write_all(bytes);
    let mut reply = Vec::new();
    if let Err(error) = stream.read_to_end(&mut reply)
        && reply.is_empty()
    {
        return Err(error);
    }
    let text = String::from_utf8_lossy(&reply);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        sent?;
        let kind = std::io::ErrorKind::UnexpectedEof;
        return Err(std::io::Error::new(kind, format!("no reply but {text:?}")));
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Reply {
        status: status.expect("a status line has a code"),
        body: body.to_owned(),
    })
}
