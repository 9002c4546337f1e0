//! UDP ports reached through loopback addresses: relayed, for the reason that `proxy` tells.
//!
//! One thread waits for all of them. Whoever sends to a port has a socket towards the container, by which the
//! answers come back, until nothing has passed for a while.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::error::Context;
use kernel::port::Listeners;

use super::driver::lock;

/// A sender who is quiet for so long is forgotten.
const QUIET: Duration = Duration::from_secs(90);
/// Quiet senders are looked for so often.
const EVERY: Duration = Duration::from_secs(15);
/// Senders of one port; datagrams of more are dropped.
const MOST: usize = 256;
/// Datagrams that one socket passes before the others have their turn.
const TURN: usize = 32;
/// The longest datagram.
const LONGEST: usize = 65_535;
/// Time for others to close descriptors when there are no more.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    to: SocketAddr,
    /// Numbers of its senders.
    senders: BTreeMap<SocketAddr, u64>,
}

#[derive(Debug)]
struct Sender {
    port: u64,
    from: SocketAddr,
    /// Towards the container.
    socket: UdpSocket,
    used: Instant,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    ports: BTreeMap<u64, Port>,
    senders: BTreeMap<u64, Sender>,
}

#[derive(Debug)]
struct Shared {
    ready: Listeners,
    table: Mutex<Table>,
    is_over: AtomicBool,
}

/// The relays of a driver; dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Datagrams {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A relayed port; dropping it closes the port.
#[derive(Debug)]
pub(super) struct Relayed {
    /// Where it receives.
    pub(super) at: SocketAddr,
    number: u64,
    shared: Arc<Shared>,
}

impl Datagrams {
    /// Starts the thread; it and its sockets towards containers are of the calling thread's namespace.
    pub(super) fn start() -> Result<Self, kernel::Error> {
        let shared = Arc::new(Shared {
            ready: Listeners::new()?,
            table: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("relay datagrams".to_owned());
        let thread = thread.spawn(move || theirs.work());
        let thread = Some(thread.context("start", "relays of datagrams")?);
        Ok(Self { shared, thread })
    }

    /// Receives on `at` (port 0 is any) and relays to `to`, in the calling thread's namespace.
    pub(super) fn open(&self, at: SocketAddr, to: SocketAddr) -> Result<Relayed, kernel::Error> {
        let socket = kernel::port::receive(at)?;
        let at = socket.local_addr().context("receive on", at.to_string())?;
        let mut table = lock(&self.shared.table);
        let number = table.number();
        self.shared.ready.add_datagrams(&socket, number)?;
        let senders = BTreeMap::new();
        table.ports.insert(number, Port { socket, to, senders });
        Ok(Relayed {
            at,
            number,
            shared: Arc::clone(&self.shared),
        })
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // A thread that cannot be woken is not waited for.
        if self.shared.ready.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let mut table = lock(&self.shared.table);
        table.ports.remove(&self.number);
        table.senders.retain(|_, sender| sender.port != self.number);
    }
}

impl Shared {
    fn work(&self) {
        let mut buffer = vec![0; LONGEST];
        let mut looked = Instant::now();
        while !self.is_over.load(Ordering::SeqCst) {
            let numbers = self.ready.wait_for(Some(EVERY)).unwrap_or_else(|error| {
                tracing::warn!(%error, "relayed UDP ports do not answer");
                std::thread::sleep(PAUSE);
                Vec::new()
            });
            let mut table = lock(&self.table);
            for number in numbers {
                if table.ports.contains_key(&number) {
                    table.forth(number, &self.ready, &mut buffer);
                } else {
                    table.back(number, &mut buffer);
                }
            }
            if looked.elapsed() > EVERY {
                table.forget_quiet();
                looked = Instant::now();
            }
        }
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// From whoever sends to the container.
    fn forth(&mut self, number: u64, ready: &Listeners, buffer: &mut [u8]) {
        for _ in 0..TURN {
            let Some(port) = self.ports.get(&number) else {
                return;
            };
            let Ok((length, from)) = port.socket.recv_from(buffer) else {
                return;
            };
            let Some(sender) = self.sender(number, from, ready) else {
                continue;
            };
            sender.used = Instant::now();
            // Nobody there, or no room: datagrams get lost.
            let _ = sender.socket.send(&buffer[..length]);
        }
    }

    /// The sender of an address, who may be new; none where there are too many.
    fn sender(&mut self, number: u64, from: SocketAddr, ready: &Listeners) -> Option<&mut Sender> {
        let port = self.ports.get(&number)?;
        if let Some(known) = port.senders.get(&from) {
            return self.senders.get_mut(known);
        }
        if port.senders.len() >= MOST {
            return None;
        }
        let any: SocketAddr = match port.to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(port.to).ok()?;
        let own = self.number();
        ready.add_datagrams(&socket, own).ok()?;
        self.ports.get_mut(&number)?.senders.insert(from, own);
        let sender = Sender {
            port: number,
            from,
            socket,
            used: Instant::now(),
        };
        Some(self.senders.entry(own).or_insert(sender))
    }

    /// From the container to whoever sent.
    fn back(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(sender) = self.senders.get_mut(&number) else {
            return;
        };
        let Some(port) = self.ports.get(&sender.port) else {
            return;
        };
        for _ in 0..TURN {
            match sender.socket.recv(buffer) {
                Ok(length) => {
                    sender.used = Instant::now();
                    let _ = port.socket.send_to(&buffer[..length], sender.from);
                }
                // The container has no such port; it may have it later.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    fn forget_quiet(&mut self) {
        self.senders.retain(|_, sender| sender.used.elapsed() < QUIET);
        for port in self.ports.values_mut() {
            port.senders.retain(|_, number| self.senders.contains_key(number));
        }
    }
}
