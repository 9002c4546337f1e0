//! Bytes on their way through several threads: read and decompressed by one, hashed by another, used by a
//! third. A few megabytes are on their way at a time, however large the archive.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use plugin_api::differ::{Digest, Packing, Stream};
use sha2::{Digest as _, Sha256};

use super::ArchiveError;
use super::pack;

type Result<T> = std::result::Result<T, ArchiveError>;

/// Bytes of a piece: large enough that handing it over costs nothing, small enough for the cache.
pub(super) const PIECE: usize = 256 << 10;

/// Pieces that may wait for a thread.
const AHEAD: usize = 16;

/// Buffers that were used before: fresh ones cost page faults.
#[derive(Debug)]
pub(super) struct Pool {
    size: usize,
    used: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Arc<Self> {
        let used = Mutex::default();
        Arc::new(Self { size, used })
    }

    /// A buffer of any content.
    pub(super) fn take(&self) -> Vec<u8> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| vec![0; self.size])
    }

    fn give(&self, buffer: Vec<u8>) {
        if buffer.len() == self.size {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.push(buffer);
        }
    }
}

/// A part of a stream, shared by those who read it; its buffer goes back when the last one lets go.
#[derive(Debug)]
pub(super) struct Piece {
    buffer: Vec<u8>,
    length: usize,
    pool: Arc<Pool>,
}

impl Piece {
    /// The first `length` bytes of a buffer that came from `pool`.
    pub(super) fn new(buffer: Vec<u8>, length: usize, pool: &Arc<Pool>) -> Arc<Self> {
        let pool = Arc::clone(pool);
        Arc::new(Self { buffer, length, pool })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.buffer));
    }
}

/// The pieces as one stream, read where they lie.
struct Pieces {
    from: Receiver<Arc<Piece>>,
    piece: Option<Arc<Piece>>,
    at: usize,
}

impl Pieces {
    fn new(from: Receiver<Arc<Piece>>) -> Self {
        Self {
            from,
            piece: None,
            at: 0,
        }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let used_up = self.piece.as_ref().is_none_or(|piece| piece.length == self.at);
        if used_up {
            self.piece = self.from.recv().ok();
            self.at = 0;
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece.bytes()[self.at..]))
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let length = here.len().min(buffer.len());
        buffer[..length].copy_from_slice(&here[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Fills a buffer as far as the stream goes.
pub(super) fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match source.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(length) => have += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// The digest and the number of all bytes that come.
pub(super) fn hash(pieces: Receiver<Arc<Piece>>) -> Stream {
    let mut state = Sha256::new();
    let mut bytes = 0;
    for piece in pieces {
        state.update(piece.bytes());
        bytes += piece.length as u64;
    }
    Stream {
        digest: Digest(state.finalize().into()),
        bytes,
    }
}

/// What a thread has come to; its panic goes on here.
pub(super) fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Gives `work` the archive in `source`, decompressed (`packing`: as it must be, or nothing where it tells
/// itself), and tells the archive's digest and size. The source is read to its end, by the calling thread.
pub(super) fn unpack<T: Send>(
    source: &mut dyn Read,
    packing: Option<Packing>,
    work: impl FnOnce(&mut dyn BufRead) -> Result<T> + Send,
) -> Result<(T, Stream)> {
    let mut archive = pack::decoder(source, packing).map_err(ArchiveError::Stream)?;
    let ((to_work, for_work), (to_hash, for_hash)) = (sync_channel(AHEAD), sync_channel(AHEAD));
    thread::scope(|scope| {
        let worker = scope.spawn(move || work(&mut Pieces::new(for_work)));
        let hasher = scope.spawn(move || hash(for_hash));
        let read = hand_on(&mut *archive, &[to_work, to_hash]);
        let (done, stream) = (joined(worker), joined(hasher));
        // A stream that broke explains what the worker makes of it.
        read.map_err(ArchiveError::Stream)?;
        Ok((done?, stream))
    })
}

/// As [`unpack`], for an archive that is not compressed and whose digest nobody asks for.
pub(super) fn read_ahead<T: Send>(
    source: &mut dyn Read,
    work: impl FnOnce(&mut dyn BufRead) -> Result<T> + Send,
) -> Result<T> {
    let (to_work, for_work) = sync_channel(AHEAD);
    thread::scope(|scope| {
        let worker = scope.spawn(move || work(&mut Pieces::new(for_work)));
        let read = hand_on(source, &[to_work]);
        let done = joined(worker);
        read.map_err(ArchiveError::Stream)?;
        done
    })
}

/// Sends all of `source` to everybody, until one of them has ended.
fn hand_on(source: &mut dyn Read, to: &[SyncSender<Arc<Piece>>]) -> io::Result<()> {
    let pool = Pool::new(PIECE);
    loop {
        let mut buffer = pool.take();
        let length = fill(source, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let piece = Piece::new(buffer, length, &pool);
        for one in to {
            if one.send(Arc::clone(&piece)).is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &mut dyn BufRead) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        source.read_to_end(&mut all).map_err(ArchiveError::Stream)?;
        Ok(all)
    }

    #[test]
    fn a_stream_arrives_whole_with_its_digest() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let (got, stream) = unpack(&mut bytes.as_slice(), Some(Packing::Plain), all).unwrap();
        assert!(got == bytes);
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!((stream.digest.0, stream.bytes), (digest, bytes.len() as u64));
    }

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let (_, stream) = unpack(&mut io::empty(), None, all).unwrap();
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(stream.digest.to_string(), known);
    }

    #[test]
    fn a_worker_that_ends_early_ends_the_stream() {
        let mut endless = io::repeat(7);
        let refused = unpack(&mut endless, Some(Packing::Plain), |_| {
            Err::<(), _>(ArchiveError::Malformed {
                entry: 1,
                why: "it is endless",
            })
        });
        assert!(matches!(refused, Err(ArchiveError::Malformed { .. })));
    }

    #[test]
    fn a_broken_stream_is_told_as_such() {
        let half = io::repeat(0).take(1 << 20).chain(Broken);
        let refused = unpack(&mut { half }, Some(Packing::Plain), all).unwrap_err();
        assert!(matches!(refused, ArchiveError::Stream(_)), "{refused:?}");
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}
