//! Just enough HTTP/1.1 to say wrong things on purpose.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;

/// A message: the first line, headers with lower-case names, and the body.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) first: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The status of a reply; 0 where there is none.
    pub(super) fn status(&self) -> u16 {
        let word = self.first.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    }
}

/// Reads one message; `None` where the peer closed before its first byte.
pub(super) fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Message>> {
    let Some(mut message) = read_head(stream)? else {
        return Ok(None);
    };
    message.body = read_body(stream, &message)?;
    Ok(Some(message))
}

/// Reads a message up to its body.
pub(super) fn read_head(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Message>> {
    let Some(first) = line(stream)? else {
        return Ok(None);
    };
    let mut headers = Vec::new();
    while let Some(text) = line(stream)?.filter(|text| !text.is_empty()) {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| io::Error::other(format!("the header {text:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Message {
        first,
        headers,
        body: Vec::new(),
    }))
}

fn line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    stream.take(64 << 10).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        String::from_utf8_lossy(&bytes)
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
    ))
}

/// Reads the body that the headers announce.
pub(super) fn read_body(stream: &mut BufReader<UnixStream>, head: &Message) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        loop {
            let text = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            let at = body.len();
            body.resize(at + size, 0);
            stream.read_exact(&mut body[at..])?;
            line(stream)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length: u64 = head
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    stream.take(length).read_to_end(&mut body)?;
    if (body.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}
