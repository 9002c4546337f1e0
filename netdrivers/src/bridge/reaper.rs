//! Deletes fenced links behind the caller's back.
//!
//! Deleting one link costs the kernel 16 to 20 ms, deleting a group of them 0.3 ms each. So a verb
//! only fences a link (down, in the group of the dying) and a thread deletes the group, after the guards of
//! its links are forgotten. A link that is down passes nothing in either direction.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::netlink::{Socket, link};

use super::driver::lock;
use super::plan::DYING;
use super::tables::{Fenced, missing_is_fine};

/// Links that die within this time of each other are deleted together.
const GATHER: Duration = Duration::from_millis(20);
/// Nobody waits longer than this.
const LONGEST: Duration = Duration::from_millis(200);
/// What failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Reaper {
    /// Its own: others do not wait for a deletion.
    route: Arc<Socket>,
    wake: Mutex<Option<Sender<()>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread, in the calling thread's network namespace.
    pub(super) fn start(nft: Arc<Socket>, fenced: Arc<Mutex<Fenced>>) -> Result<Self, kernel::Error> {
        let (wake, woken) = channel();
        let route = Arc::new(Socket::route()?);
        let theirs = Arc::clone(&route);
        let thread = std::thread::Builder::new().name("reap links".to_owned());
        let thread = thread
            .spawn(move || work(&theirs, &nft, &fenced, &woken))
            .map_err(|error| kernel::Error::new("start", "reaper of links", error))?;
        Ok(Self {
            route,
            wake: Mutex::new(Some(wake)),
            thread: Some(thread),
        })
    }

    /// Deletes every fenced link now.
    pub(super) fn reap(&self) -> kernel::Result<()> {
        reap(&self.route)
    }

    /// A link was fenced.
    pub(super) fn wake(&self) {
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = wake.as_ref() {
            // The thread ends only after the sender is gone.
            let _ = wake.send(());
        }
    }
}

fn reap(socket: &Socket) -> kernel::Result<()> {
    missing_is_fine(socket.one(link::delete_group(DYING)))
}

fn work(route: &Socket, nft: &Socket, fenced: &Mutex<Fenced>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        gather(woken);
        while let Err(error) = lock(fenced).dismiss(nft).and_then(|()| reap(route)) {
            tracing::warn!(%error, "fenced links are deleted later");
            if woken.recv_timeout(AGAIN) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

/// Waits until no link was fenced for a moment.
fn gather(woken: &Receiver<()>) {
    let latest = Instant::now() + LONGEST;
    loop {
        let patience = latest.saturating_duration_since(Instant::now()).min(GATHER);
        match woken.recv_timeout(patience) {
            Ok(()) if Instant::now() < latest => {}
            _ => return,
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.wake.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
