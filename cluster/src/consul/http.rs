//! The little HTTP/1.1 that an agent needs: one request per connection, blocking, with a deadline.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::Secret;

/// Longer answers are refused.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
const MAX_HEADERS: usize = 64;
const CONNECT: Duration = Duration::from_secs(5);

/// An agent's address, and who we are to it.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) address: String,
    pub(super) token: Option<Secret>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Vec<u8>,
}

impl Agent {
    /// One request. `target` is the path and the query, escaped.
    pub(super) fn call(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        timeout: Duration,
    ) -> io::Result<Answer> {
        let end = Instant::now() + timeout;
        let mut stream = self.connect()?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        if let Some(token) = &self.token {
            request.extend(format!("X-Consul-Token: {}\r\n", token.word()).into_bytes());
        }
        request.extend(b"\r\n");
        request.extend(body);
        stream.write_all(&request)?;
        let mut bytes = Vec::new();
        let mut part = vec![0; 64 * 1024];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut part) {
                Ok(0) => return parse(&bytes),
                Ok(count) => bytes.extend(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a read timeout is called here.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
            if bytes.len() > MAX_ANSWER {
                return Err(bad("it is too long"));
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::other(format!("an answer that is no answer: {why}"))
}

/// Reads an answer after which the connection was closed.
fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(bytes).map_err(|error| bad(&error.to_string()))?;
    let httparse::Status::Complete(begin) = status else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let header = |name: &str| {
        let mut found = response.headers.iter();
        let found = found.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body = &bytes[begin..];
    let body = if header("transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked")) {
        unchunk(body)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| bad("its length is no number"))?;
        let whole = body.get(..length);
        whole.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec()
    } else {
        body.to_vec()
    };
    Ok(Answer {
        status: response.code.unwrap_or_default(),
        index: header("x-consul-index").and_then(|index| index.parse().ok()),
        body,
    })
}

fn unchunk(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(rest).map_err(|_| bad("a chunk has no size"))?;
        let httparse::Status::Complete((begin, size)) = parsed else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if size == 0 {
            return Ok(body);
        }
        let size = usize::try_from(size).map_err(|_| bad("a chunk is too long"))?;
        let end = begin
            .checked_add(size)
            .ok_or_else(|| bad("a chunk is too long"))?;
        let chunk = rest.get(begin..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        body.extend(chunk);
        rest = rest[end..]
            .strip_prefix(b"\r\n")
            .ok_or(io::ErrorKind::UnexpectedEof)?;
    }
}

/// `text` as a part of a path: slashes stay.
pub(super) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = parse(bytes).unwrap();
        assert_eq!(
            (answer.status, answer.index, &answer.body[..]),
            (200, Some(7), &b"abcde"[..])
        );
    }

    #[test]
    fn an_answer_that_was_cut_off_is_none() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
        assert!(parse(plain).is_ok() && parse(chunked).is_ok());
        for whole in [&plain[..], &chunked[..chunked.len() - 3]] {
            for cut in 0..whole.len() {
                assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_token_is_never_shown_and_never_breaks_a_header() {
        let agent = Agent {
            address: String::new(),
            token: Some(Secret::new("hush").unwrap()),
        };
        assert!(!format!("{agent:?}").contains("hush"));
        for bad in ["", "a\r\nb: c", "a b"] {
            assert!(Secret::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn whatever_means_something_in_a_path_is_escaped() {
        assert_eq!(escape("a/b c?d#e%f"), "a/b%20c%3Fd%23e%25f");
    }
}
