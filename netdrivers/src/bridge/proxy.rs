//! TCP ports reached through loopback addresses: relayed, since packets with a loopback address cannot be
//! routed to a container unless `route_localnet` opens the host's own loopback services to its neighbours.
//!
//! One thread waits for all listeners; a connection has two while it lasts. So a published port costs a
//! descriptor and a few hundred bytes.
//!
//! A port published on every address (`0.0.0.0`) has a relay as well: the firewall sends what comes for the
//! host's other addresses to the container before it meets the relay's socket.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel::error::Context;
use kernel::port::Listeners;

use super::datagrams::Datagrams;
use super::driver::lock;

/// Connections relayed at once by one port; more are closed.
const MOST: usize = 256;
/// Connections relayed at once by all ports together; more are closed.
const MOST_OF_ALL: usize = 2_048;
/// A container that does not answer within this time is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for others to close descriptors when there are no more.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that one port accepts before the others have their turn.
const TURN: usize = 16;
/// Stack of a relay's threads, which only copy.
const STACK: usize = 64 << 10;

#[derive(Debug)]
struct Port {
    listener: TcpListener,
    to: SocketAddr,
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Shared {
    listeners: Listeners,
    /// Held while connections are accepted: who removed a port knows that it is closed.
    ports: Mutex<BTreeMap<u64, Port>>,
    next: AtomicU64,
    open: Arc<AtomicUsize>,
    is_over: AtomicBool,
}

/// The relays of a driver; dropping it ends the thread that accepts.
#[derive(Debug)]
pub(super) struct Relays {
    /// Those of UDP ports.
    pub(super) datagrams: Datagrams,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A relayed port; dropping it closes the port and lets connections run out.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Where it listens.
    pub(super) at: SocketAddr,
    number: u64,
    shared: Arc<Shared>,
}

impl Relays {
    /// Starts the thread; it and the connections to containers are of the calling thread's namespace.
    pub(super) fn start() -> Result<Self, kernel::Error> {
        let shared = Arc::new(Shared {
            listeners: Listeners::new()?,
            ports: Mutex::default(),
            next: AtomicU64::new(0),
            open: Arc::default(),
            is_over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("relay ports".to_owned())
            .stack_size(2 * STACK)
            .spawn(move || theirs.work());
        let thread = Some(thread.context("start", "relays")?);
        Ok(Self {
            datagrams: Datagrams::start()?,
            shared,
            thread,
        })
    }

    /// Listens on `at` (port 0 is any) and relays to `to`, in the calling thread's namespace.
    pub(super) fn open(&self, at: SocketAddr, to: SocketAddr) -> Result<Proxy, kernel::Error> {
        let listener = kernel::port::listen(at)?;
        let at = listener.local_addr().context("listen on", at.to_string())?;
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut ports = lock(&self.shared.ports);
        self.shared.listeners.add(&listener, number)?;
        let open = Arc::default();
        ports.insert(number, Port { listener, to, open });
        Ok(Proxy {
            at,
            number,
            shared: Arc::clone(&self.shared),
        })
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // A thread that cannot be woken is not waited for.
        if self.shared.listeners.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(port) = lock(&self.shared.ports).remove(&self.number) {
            // Closing the listener removes it as well.
            let _ = self.shared.listeners.remove(&port.listener);
        }
    }
}

impl Shared {
    fn work(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            let is_fine = match self.listeners.wait() {
                Ok(numbers) => numbers.into_iter().all(|number| self.accept(number)),
                Err(error) => {
                    tracing::warn!(%error, "relayed ports do not answer");
                    false
                }
            };
            if !is_fine {
                // Out of descriptors or threads, most likely: give others time to close some.
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Accepts what waits at a port; false where the machine has no room for it.
    fn accept(&self, number: u64) -> bool {
        let ports = lock(&self.ports);
        let Some(port) = ports.get(&number) else {
            return true;
        };
        for _ in 0..TURN {
            match port.listener.accept() {
                Ok((client, _)) => {
                    if !self.serve(port, client) {
                        return false;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                // The client is gone already.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Relays one connection, or closes it where there are too many; false if no thread could be had.
    fn serve(&self, port: &Port, client: TcpStream) -> bool {
        let counts = Counted::new([Arc::clone(&port.open), Arc::clone(&self.open)]);
        if counts.is_beyond([MOST, MOST_OF_ALL]) || client.set_nonblocking(false).is_err() {
            return true;
        }
        let to = port.to;
        let work = move || {
            let _counts = counts;
            // An end that breaks is an end: the other side sees it closed.
            let _ = relay(&client, to);
        };
        let thread = std::thread::Builder::new().name("relay".to_owned());
        thread.stack_size(2 * STACK).spawn(work).is_ok()
    }
}

/// Counts a connection while it lasts.
#[derive(Debug)]
struct Counted([Arc<AtomicUsize>; 2]);

impl Counted {
    fn new(counts: [Arc<AtomicUsize>; 2]) -> Self {
        for count in &counts {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Self(counts)
    }

    fn is_beyond(&self, limits: [usize; 2]) -> bool {
        let mut both = self.0.iter().zip(limits);
        both.any(|(count, limit)| count.load(Ordering::SeqCst) > limit)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn relay(client: &TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let server = TcpStream::connect_timeout(&to, PATIENCE)?;
    std::thread::scope(|scope| {
        let forth = std::thread::Builder::new().stack_size(2 * STACK);
        forth.spawn_scoped(scope, || copy(client, &server))?;
        copy(&server, client);
        Ok(())
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
