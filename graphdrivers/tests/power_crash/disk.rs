//! A disk that remembers: a FUSE file below a loop device, whose every write and flush is kept in order.
//!
//! What a disk may hold after a power cut is known from that tape: all writes before the last flush, and
//! any part of those after it. The protocol is that of `linux/fuse.h`, version 7.31, as far as a single
//! regular file needs it: the file is itself the root of its file system.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::mount::{self, Limits};

/// What happened to the disk.
#[derive(Debug)]
pub(crate) enum Step {
    /// These bytes were written at this offset; they may be lost until the next flush.
    Write(usize, Vec<u8>),
    /// Everything before it is safe.
    Flush,
}

/// The disk's content and how it came to be.
#[derive(Debug)]
pub(crate) struct Tape {
    /// As it was when recording began.
    pub(crate) before: Vec<u8>,
    now: Vec<u8>,
    pub(crate) steps: Vec<Step>,
    /// Every write and flush from now on fails with this number.
    pub(crate) fails: Option<i32>,
}

#[cfg(test)]
impl Tape {
    /// One made by hand.
    pub(crate) fn of(before: Vec<u8>, steps: Vec<Step>) -> Self {
        Self {
            now: before.clone(),
            before,
            steps,
            fails: None,
        }
    }
}

/// A file served by a thread of this process.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) file: PathBuf,
    tape: Arc<Mutex<Tape>>,
    thread: Option<JoinHandle<()>>,
}

const LONGEST_WRITE: u32 = 1 << 20;
/// `fuse_in_header` and `fuse_write_in` come before the bytes of a write.
const HEAD: usize = 40;
const WRITE_HEAD: usize = 40;

impl Disk {
    /// Serves `content` as the file `file`, which is made and must not exist.
    pub(crate) fn serve(file: &Path, content: Vec<u8>) -> Self {
        File::create_new(file).unwrap();
        let mut options = File::options();
        let fuse = options.read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=100000,user_id=0,group_id=0", fuse.as_raw_fd());
        mount::mount_filesystem("fuse", "recorder", file, Limits::default(), &data).unwrap();
        let tape = Arc::new(Mutex::new(Tape {
            before: content.clone(),
            now: content,
            steps: Vec::new(),
            fails: None,
        }));
        let served = Arc::clone(&tape);
        Self {
            file: file.to_owned(),
            tape,
            thread: Some(std::thread::spawn(move || answer_all(fuse, &served))),
        }
    }

    pub(crate) fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap()
    }

    /// How many steps were recorded.
    pub(crate) fn position(&self) -> usize {
        self.tape().steps.len()
    }

    /// Ends the file system; nobody may use the file any more.
    pub(crate) fn end(mut self) -> Tape {
        // The loop device lets go of the file a moment after its last user.
        for _ in 0..500 {
            match mount::unmount(&self.file) {
                Ok(_) => break,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        self.thread.take().unwrap().join().unwrap();
        Arc::into_inner(self.tape).unwrap().into_inner().unwrap()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn offset_at(bytes: &[u8], at: usize) -> usize {
    u64_at(bytes, at).try_into().unwrap()
}

fn answer_all(mut fuse: File, tape: &Mutex<Tape>) {
    let mut buffer = vec![0; HEAD + WRITE_HEAD + LONGEST_WRITE as usize + 4096];
    loop {
        let count = match fuse.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // ENODEV: it was unmounted.
            Err(_) => return,
        };
        let request = &buffer[..count];
        let (number, body) = (u32_at(request, 4), &request[HEAD..]);
        // FORGET, INTERRUPT and BATCH_FORGET want no answer.
        if [2, 36, 42].contains(&number) {
            continue;
        }
        let (errno, reply) = match answer(number, body, &mut tape.lock().unwrap()) {
            Ok(reply) => (0, reply),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut whole = Vec::with_capacity(16 + reply.len());
        whole.extend(u32::try_from(16 + reply.len()).unwrap().to_ne_bytes());
        whole.extend(errno.to_ne_bytes());
        whole.extend(&request[8..16]);
        whole.extend(reply);
        if fuse.write_all(&whole).is_err() {
            return;
        }
    }
}

/// ENOSYS: the kernel asks no more for what is answered with it.
const NOT_KNOWN: i32 = 38;
const NOT_SUPPORTED: i32 = 95;

fn answer(number: u32, body: &[u8], tape: &mut Tape) -> Result<Vec<u8>, i32> {
    Ok(match number {
        // SETATTR: only times are ever set.
        3 | 4 => attributes(tape.now.len()),
        // OPEN: a handle of no meaning.
        14 => vec![0; 16],
        15 => {
            let (from, size) = (offset_at(body, 8), u32_at(body, 16) as usize);
            let end = (from + size).min(tape.now.len());
            tape.now[from.min(end)..end].to_vec()
        }
        16 => {
            let (at, size) = (offset_at(body, 8), u32_at(body, 16));
            let bytes = &body[WRITE_HEAD..WRITE_HEAD + size as usize];
            tape.fails.map_or(Ok(()), Err)?;
            tape.now[at..at + bytes.len()].copy_from_slice(bytes);
            tape.steps.push(Step::Write(at, bytes.to_vec()));
            [size.to_ne_bytes(), [0; 4]].concat()
        }
        20 => {
            tape.fails.map_or(Ok(()), Err)?;
            tape.steps.push(Step::Flush);
            Vec::new()
        }
        26 => hello(body),
        17 => vec![0; 80],
        // RELEASE, FLUSH, DESTROY.
        18 | 25 | 38 => Vec::new(),
        // FALLOCATE: holes are not punched, so that all that happens is a write.
        43 => return Err(NOT_SUPPORTED),
        _ => return Err(NOT_KNOWN),
    })
}

/// `fuse_init_out`: big writes of up to 256 pages, no cache of writes on the kernel's side.
fn hello(body: &[u8]) -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let mut reply = Vec::new();
    for number in [7, 31, u32_at(body, 8), BIG_WRITES | MAX_PAGES] {
        reply.extend(number.to_ne_bytes());
    }
    for number in [16_u16, 12] {
        reply.extend(number.to_ne_bytes());
    }
    for number in [LONGEST_WRITE, 1] {
        reply.extend(number.to_ne_bytes());
    }
    reply.extend(256_u16.to_ne_bytes());
    reply.resize(64, 0);
    reply
}

/// `fuse_attr_out` of a regular file, good for an hour.
fn attributes(size: usize) -> Vec<u8> {
    let size = size as u64;
    let mut reply = Vec::new();
    for number in [3600, 0, 1, size, size / 512, 0, 0, 0] {
        reply.extend(u64::to_ne_bytes(number));
    }
    for number in [0, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0] {
        reply.extend(u32::to_ne_bytes(number));
    }
    reply
}
