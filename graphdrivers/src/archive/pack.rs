//! Compression: gzip and zstd, in this process. What is packed is packed in blocks that do not know each
//! other, by as many threads as there are processors; the bytes do not depend on their number.

use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, FlushCompress};
use plugin_api::differ::{Digest, Packed, Packing, Stream};
use sha2::{Digest as _, Sha256};

use super::ArchiveError;
use super::flow::{self, PIECE, Piece, Pool, joined};

type Result<T> = std::result::Result<T, ArchiveError>;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The best known trade between time and size, and what the engines use.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Bytes that are packed at a time. Larger blocks pack better and keep fewer threads busy.
const BLOCK: usize = 1 << 20;

/// More threads than this only wait for who reads the tree.
const MOST_THREADS: usize = 8;

fn tell(begin: &[u8]) -> Packing {
    let skippable = begin.len() >= 4 && begin[0] & 0xf0 == 0x50 && begin[1..4] == [0x2a, 0x4d, 0x18];
    if begin.starts_with(&GZIP_MAGIC) {
        Packing::Gzip
    } else if begin.starts_with(&ZSTD_MAGIC) || skippable {
        Packing::Zstd
    } else {
        Packing::Plain
    }
}

/// The archive in `source`, which is packed as said, or as it tells itself.
pub(super) fn decoder<'a>(
    source: &'a mut dyn Read,
    packing: Option<Packing>,
) -> io::Result<Box<dyn Read + 'a>> {
    if packing == Some(Packing::Plain) {
        return Ok(Box::new(source));
    }
    let mut begin = [0; 4];
    let length = flow::fill(source, &mut begin)?;
    let told = tell(&begin[..length]);
    if packing.is_some_and(|packing| packing != told) {
        let why = "the blob is not compressed as its media type says";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let whole = io::Cursor::new(begin).take(length as u64).chain(source);
    Ok(match told {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => {
            let whole = BufReader::with_capacity(PIECE, whole);
            Box::new(flate2::bufread::MultiGzDecoder::new(whole))
        }
        Packing::Zstd => Box::new(zstd::Decoder::with_buffer(BufReader::with_capacity(
            PIECE, whole,
        ))?),
    })
}

/// Lets `work` write an archive and writes it to `out`, packed; the calling thread does the latter.
pub(super) fn pack(
    out: &mut dyn Write,
    packing: Packing,
    work: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
) -> Result<Packed> {
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS);
    let ((to_hash, for_hash), (to_pack, for_pack)) = (sync_channel(threads + 2), sync_channel(threads + 2));
    let (to_out, for_out) = sync_channel(2 * threads + 2);
    let for_pack = Mutex::new(for_pack);
    thread::scope(|scope| {
        let hasher = scope.spawn(move || flow::hash(for_hash));
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = next(&for_pack) {
                    job.run(packing);
                }
            });
        }
        let worker = scope.spawn(move || {
            let mut blocks = Blocks {
                pool: Pool::new(BLOCK),
                buffer: Vec::new(),
                used: 0,
                to_hash,
                to_pack,
                to_out,
            };
            work(&mut blocks)?;
            blocks.send(true).map_err(ArchiveError::Receiver)
        });
        let blob = put_out(out, packing, &for_out);
        drop(for_out);
        let (done, archive) = (joined(worker), joined(hasher));
        // If nobody takes the blob, that is why the worker could not go on.
        let blob = blob.map_err(ArchiveError::Receiver)?;
        done?;
        Ok(Packed { archive, blob })
    })
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A block that is packed.
struct Done {
    bytes: Vec<u8>,
    /// Of the block before.
    check: crc32fast::Hasher,
}

/// A block to be packed, and who waits for it.
struct Job {
    piece: Arc<Piece>,
    last: bool,
    to: SyncSender<io::Result<Done>>,
}

impl Job {
    fn run(self, packing: Packing) {
        let mut check = crc32fast::Hasher::new();
        let bytes = self.piece.bytes();
        let packed = match packing {
            Packing::Plain => Ok(bytes.to_vec()),
            Packing::Gzip => {
                check.update(bytes);
                deflate(bytes, self.last)
            }
            // An empty frame is one too; without any there would be no blob.
            Packing::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
        };
        let _ = self.to.send(packed.map(|bytes| Done { bytes, check }));
    }
}

/// A part of a deflate stream that ends at a byte and refers to nothing before it.
fn deflate(bytes: &[u8], last: bool) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(Compression::new(GZIP_LEVEL), false);
    let mut packed = Vec::with_capacity(bytes.len() + bytes.len() / 1000 + 1024);
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Full
    };
    loop {
        let taken = usize::try_from(state.total_in()).expect("a block is small");
        state
            .compress_vec(&bytes[taken..], &mut packed, flush)
            .map_err(io::Error::other)?;
        // Room that is left says that nothing more was to come.
        if packed.len() < packed.capacity() {
            return Ok(packed);
        }
        packed.reserve(BLOCK / 4);
    }
}

/// Writes the packed blocks in their order, and what stands around them.
fn put_out(
    out: &mut dyn Write,
    packing: Packing,
    blocks: &Receiver<Receiver<io::Result<Done>>>,
) -> io::Result<Stream> {
    let mut out = Counted {
        out,
        state: Sha256::new(),
        bytes: 0,
    };
    let mut check = crc32fast::Hasher::new();
    let gzip = packing == Packing::Gzip;
    if gzip {
        // No name and no time, so that the same archive gives the same bytes; made on no known system.
        out.put(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
    }
    for block in blocks {
        // A worker that failed has told nobody that this was the last one.
        let Ok(done) = block.recv() else { break };
        let done = done?;
        out.put(&done.bytes)?;
        check.combine(&done.check);
    }
    if gzip {
        let length = u32::try_from(check.total_len() & 0xffff_ffff).expect("it was cut to 32 bits");
        out.put(&check.finalize().to_le_bytes())?;
        out.put(&length.to_le_bytes())?;
    }
    out.out.flush()?;
    Ok(Stream {
        digest: Digest(out.state.finalize().into()),
        bytes: out.bytes,
    })
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    state: Sha256,
    bytes: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Cuts an archive into blocks and sends them on their ways.
struct Blocks {
    pool: Arc<Pool>,
    buffer: Vec<u8>,
    used: usize,
    to_hash: SyncSender<Arc<Piece>>,
    to_pack: SyncSender<Job>,
    to_out: SyncSender<Receiver<io::Result<Done>>>,
}

impl Blocks {
    fn send(&mut self, last: bool) -> io::Result<()> {
        let piece = Piece::new(std::mem::take(&mut self.buffer), self.used, &self.pool);
        self.used = 0;
        let (to, from) = sync_channel(1);
        let ended = |()| io::Error::from(io::ErrorKind::BrokenPipe);
        // First its place in the order, so that whoever writes fails when nobody takes it.
        self.to_out.send(from).map_err(|_| ended(()))?;
        let job = Job {
            piece: Arc::clone(&piece),
            last,
            to,
        };
        self.to_hash.send(piece).map_err(|_| ended(()))?;
        self.to_pack.send(job).map_err(|_| ended(()))
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.buffer = self.pool.take();
        }
        let length = bytes.len().min(BLOCK - self.used);
        self.buffer[self.used..][..length].copy_from_slice(&bytes[..length]);
        self.used += length;
        if self.used == BLOCK {
            self.send(false)?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        let words =
            (0_u32..).flat_map(|number| format!("{} ", number.wrapping_mul(2_654_435_761)).into_bytes());
        words.take(length).collect()
    }

    fn packed(bytes: &[u8], packing: Packing) -> (Vec<u8>, Packed) {
        let mut out = Vec::new();
        let told = pack(&mut out, packing, |out| {
            out.write_all(bytes).map_err(ArchiveError::Receiver)
        });
        (out, told.unwrap())
    }

    fn unpacked(bytes: &[u8], packing: Option<Packing>) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decoder(&mut &*bytes, packing)?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn what_is_packed_is_unpacked_to_the_same_and_its_digests_are_told() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK / 2] {
            let bytes = text(length);
            for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
                let (out, told) = packed(&bytes, packing);
                assert!(
                    unpacked(&out, Some(packing)).unwrap() == bytes,
                    "{packing:?} {length}"
                );
                if packing != Packing::Plain {
                    assert!(unpacked(&out, None).unwrap() == bytes, "{packing:?} {length}");
                }
                let digest = |bytes: &[u8]| Digest(Sha256::digest(bytes).into());
                assert_eq!(
                    (told.archive.digest, told.archive.bytes),
                    (digest(&bytes), length as u64)
                );
                assert_eq!(
                    (told.blob.digest, told.blob.bytes),
                    (digest(&out), out.len() as u64)
                );
                assert!(
                    packed(&bytes, packing).0 == out,
                    "the same bytes were packed otherwise"
                );
            }
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test pipes megabytes through a program, which kernel::exec is not made for"
    )]
    fn other_programs_read_what_is_packed() {
        let bytes = text(3 * BLOCK);
        for (program, packing) in [("gzip", Packing::Gzip), ("zstd", Packing::Zstd)] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("packed");
            std::fs::write(&file, packed(&bytes, packing).0).unwrap();
            let input = std::fs::File::open(&file).unwrap();
            let output = std::process::Command::new(program)
                .arg("-dc")
                .stdin(input)
                .output();
            // zstd need not be installed.
            let Ok(output) = output else {
                assert_eq!(program, "zstd");
                continue;
            };
            assert!(output.stdout == bytes, "{program}");
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        for packing in [Packing::Gzip, Packing::Zstd] {
            let twice = [packed(b"one, ", packing).0, packed(b"two", packing).0].concat();
            assert_eq!(unpacked(&twice, None).unwrap(), b"one, two");
        }
        let skippable = [
            &b"\x50\x2a\x4d\x18\x02\0\0\0xx"[..],
            &packed(b"x", Packing::Zstd).0,
        ]
        .concat();
        assert_eq!(unpacked(&skippable, None).unwrap(), b"x");
    }

    #[test]
    fn a_blob_that_is_not_what_it_is_called_is_refused() {
        let gzip = packed(b"x", Packing::Gzip).0;
        for (bytes, packing) in [
            (&gzip[..], Packing::Zstd),
            (b"plain", Packing::Gzip),
            (&gzip[..gzip.len() - 1], Packing::Gzip),
        ] {
            assert!(unpacked(bytes, Some(packing)).is_err(), "{packing:?}");
        }
    }

    #[test]
    fn a_receiver_that_goes_away_stops_the_worker() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let refused = pack(&mut Full(3 << 20), Packing::Plain, |out| {
            io::copy(&mut io::repeat(1), out)
                .map(drop)
                .map_err(ArchiveError::Receiver)
        });
        let Err(ArchiveError::Receiver(error)) = refused else {
            panic!("it was taken")
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
