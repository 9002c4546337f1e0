//! A container's output, kept as it came: each piece with its stream, its time and its length.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// One piece of output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
}

/// Longest piece; what is longer is written as several.
const PIECE_BYTES: usize = 16 << 10;

/// Copies one stream into the log until it ends.
pub(crate) fn keep(mut from: impl Read, stream: Stream, log: &Arc<Mutex<File>>) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = frame(stream, &crate::state::now(), &buffer[..length]);
        log.lock()
            .expect("no thread panics with the log")
            .write_all(&piece)?;
    }
}

fn frame(stream: Stream, time: &str, bytes: &[u8]) -> Vec<u8> {
    let word = match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    };
    let mut piece = format!("{word} {time} {}\n", bytes.len()).into_bytes();
    piece.extend_from_slice(bytes);
    piece.push(b'\n');
    piece
}

/// Reads a log from where the file stands, also while it grows.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    from: R,
    /// Bytes of a piece that is not whole yet.
    pending: Vec<u8>,
}

impl Reader<BufReader<File>> {
    pub(crate) fn new(file: File) -> Self {
        Self {
            from: BufReader::new(file),
            pending: Vec::new(),
        }
    }
}

impl<R: BufRead> Reader<R> {
    /// The next whole piece, or nothing for now.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(piece) = self.take()? {
            return Ok(Some(piece));
        }
        loop {
            let more = self.from.fill_buf().context("read log")?;
            if more.is_empty() {
                return Ok(None);
            }
            let length = more.len();
            self.pending.extend_from_slice(more);
            self.from.consume(length);
            if let Some(piece) = self.take()? {
                return Ok(Some(piece));
            }
        }
    }

    fn take(&mut self) -> Result<Option<Piece>> {
        let Some(end) = self.pending.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&self.pending[..end]).context("the log is damaged")?;
        let words: Vec<&str> = head.split(' ').collect();
        let [stream, _, length] = words.as_slice() else {
            bail!("the log is damaged");
        };
        let stream = if *stream == "err" {
            Stream::Err
        } else {
            Stream::Out
        };
        let length: usize = length.parse().context("the log is damaged")?;
        let last = end + 1 + length;
        if self.pending.len() <= last {
            return Ok(None);
        }
        let bytes = self.pending[end + 1..last].to_vec();
        self.pending.drain(..=last);
        Ok(Some(Piece { stream, bytes }))
    }
}

/// Writes a piece to our own output of that name.
/// A reader that went away, as `| head` does, is no error.
pub(crate) fn show(piece: &Piece) -> std::io::Result<()> {
    let outcome = match piece.stream {
        Stream::Out => {
            let mut out = std::io::stdout();
            out.write_all(&piece.bytes).and_then(|()| out.flush())
        }
        Stream::Err => std::io::stderr().write_all(&piece.bytes),
    };
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_back_what_it_was_given_even_in_halves() {
        let bytes = [
            frame(Stream::Out, "t", b"a\nb"),
            frame(Stream::Err, "t", &[0xff, b'\n', 0]),
        ]
        .concat();
        for cut in 0..bytes.len() {
            let mut reader = Reader {
                from: &bytes[..cut],
                pending: Vec::new(),
            };
            let mut pieces = Vec::new();
            while let Some(piece) = reader.next().unwrap() {
                pieces.push(piece);
            }
            let mut rest = Reader {
                from: &bytes[cut..],
                pending: reader.pending,
            };
            while let Some(piece) = rest.next().unwrap() {
                pieces.push(piece);
            }
            assert_eq!(pieces.len(), 2, "cut at {cut}");
            assert_eq!(pieces[0].bytes, b"a\nb");
            assert_eq!(
                (pieces[1].stream, pieces[1].bytes.as_slice()),
                (Stream::Err, &[0xff, b'\n', 0][..])
            );
        }
    }
}
