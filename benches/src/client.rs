//! A client with nothing in it: bytes made beforehand, one stream, one buffer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// One kept-open connection.
pub(crate) struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends `request` and waits for the whole answer, which must be a success.
    pub(crate) fn call(&mut self, request: &[u8]) -> Result<()> {
        self.reply(request).map(drop)
    }

    /// The same, and the body of the answer.
    pub(crate) fn reply(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).context("send a request")?;
        let mut filled = 0;
        loop {
            let read = self
                .stream
                .read(&mut self.buffer[filled..])
                .context("read an answer")?;
            ensure!(read > 0, "the server hung up");
            filled += read;
            let text = &self.buffer[..filled];
            if let Some(head) = find(text, b"\r\n\r\n") {
                if !text.starts_with(b"HTTP/1.1 200") {
                    bail!("refused: {}", String::from_utf8_lossy(text));
                }
                if filled >= head + 4 + content_length(&text[..head])? {
                    return Ok(&self.buffer[head + 4..filled]);
                }
            }
        }
    }

    /// Microseconds that each of `count` calls took.
    pub(crate) fn times(&mut self, request: &[u8], count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.call(request)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }
}

/// A request as Docker sends it.
pub(crate) fn request(verb: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /{verb} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn content_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head).context("a head that is no text")?;
    let value = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    value
        .context("an answer without content-length")?
        .parse()
        .context("read content-length")
}
