//! Just enough HTTP/1.1 to hear what an engine says and to answer it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// The path with its query, such as `/VolumeDriver.Get`.
    pub(super) path: String,
    /// Names and values in the order in which they came.
    pub(super) headers: Vec<(String, String)>,
    /// The body, freed of any chunking.
    pub(super) body: Vec<u8>,
}

impl Request {
    /// `VolumeDriver.Get` of `/VolumeDriver.Get?x=y`.
    pub(super) fn verb(&self) -> &str {
        self.path
            .split('?')
            .next()
            .unwrap_or_default()
            .trim_start_matches('/')
    }

    /// The value of a word of the query.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The next request of a connection; none at its end.
pub(super) fn read(from: &mut BufReader<UnixStream>) -> Result<Option<Request>> {
    let start = line(from)?;
    if start.is_empty() {
        return Ok(None);
    }
    let path = start
        .split(' ')
        .nth(1)
        .context("a request line without a path")?
        .to_owned();
    let mut request = Request {
        path,
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let text = line(from)?;
        if text.is_empty() {
            break;
        }
        let (key, value) = text.split_once(':').context("a header without a colon")?;
        request.headers.push((key.to_owned(), value.trim().to_owned()));
    }
    request.body = body(from, &request)?;
    Ok(Some(request))
}

fn body(from: &mut BufReader<UnixStream>, request: &Request) -> Result<Vec<u8>> {
    if request
        .header("Transfer-Encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        return chunks(from);
    }
    let length = request
        .header("Content-Length")
        .unwrap_or("0")
        .parse()
        .context("read Content-Length")?;
    exactly(from, length)
}

fn chunks(from: &mut BufReader<UnixStream>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let size = line(from)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .context("read chunk size")?;
        all.extend(exactly(from, size)?);
        if !line(from)?.is_empty() {
            bail!("a chunk longer than its size");
        }
        if size == 0 {
            return Ok(all);
        }
    }
}

fn exactly(from: &mut BufReader<UnixStream>, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).context("read a body")?;
    Ok(bytes)
}

/// One line without its end; empty at the end of the stream too.
fn line(from: &mut BufReader<UnixStream>) -> Result<String> {
    let mut text = String::new();
    from.read_line(&mut text).context("read a line")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Answers with status 200, or 500 when `ok` is false.
pub(super) fn answer(to: &mut UnixStream, status: u16, body: &[u8]) -> Result<()> {
    let reason = if status == 200 {
        "OK"
    } else {
        "Internal Server Error"
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    to.write_all(&[head.as_bytes(), body].concat())
        .context("write an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> Vec<Request> {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(bytes).unwrap();
        drop(near);
        let mut far = BufReader::new(far);
        std::iter::from_fn(|| read(&mut far).unwrap()).collect()
    }

    #[test]
    fn two_requests_on_one_connection_are_two() {
        let all =
            heard(b"POST /A.B HTTP/1.1\r\nHost: \r\nContent-Length: 3\r\n\r\n{}\nPOST /C.D HTTP/1.1\r\n\r\n");
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].verb(), all[0].body.as_slice()),
            ("A.B", b"{}\n".as_slice())
        );
        assert_eq!(all[0].headers[0], ("Host".to_owned(), String::new()));
        assert_eq!(all[1].verb(), "C.D");
    }

    #[test]
    fn a_chunked_body_is_joined() {
        let all = heard(
            b"POST /G.A?id=x&parent=y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        );
        assert_eq!(all[0].body, b"abc");
        assert_eq!(
            (all[0].query("id"), all[0].query("parent")),
            (Some("x"), Some("y"))
        );
    }
}
