//! Host ports: taken by a bound socket that nobody reads, so that no process of the host gets them.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::error::{Context, Error, Result};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

/// A port that is ours until this value is dropped.
#[derive(Debug)]
pub struct Reserved {
    _socket: OwnedFd,
    /// The address and port.
    pub at: SocketAddr,
}

/// Takes a port in the calling thread's namespace; port 0 lets the kernel choose one. The socket is bound and not
/// listening: a connection that reaches it is refused. EADDRINUSE if somebody has it, EADDRNOTAVAIL
/// if the address is not the host's.
pub fn reserve(transport: Transport, at: SocketAddr) -> Result<Reserved> {
    let socket = socket_for(transport, at)?;
    rustix::net::bind(&socket, &at).context("reserve", format!("port {at}"))?;
    let at = bound_to(&socket, at)?;
    Ok(Reserved { _socket: socket, at })
}

/// Listens on a TCP port in the calling thread's namespace; port 0 lets the kernel choose one. Unlike the
/// standard library's, a listener on `::` leaves IPv4 to others. Errors as [`reserve`].
pub fn listen(at: SocketAddr) -> Result<TcpListener> {
    let socket = socket_for(Transport::Tcp, at)?;
    let subject = format!("port {at}");
    // Connections of a listener before this one may still be dying.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).context("listen on", &subject)?;
    rustix::net::bind(&socket, &at).context("listen on", &subject)?;
    rustix::net::listen(&socket, 128).context("listen on", &subject)?;
    Ok(TcpListener::from(socket))
}

/// Receives datagrams on a UDP port in the calling thread's namespace; port 0 lets the kernel choose one.
/// Errors as [`reserve`].
pub fn receive(at: SocketAddr) -> Result<UdpSocket> {
    let socket = socket_for(Transport::Udp, at)?;
    rustix::net::bind(&socket, &at).context("receive on", format!("port {at}"))?;
    Ok(UdpSocket::from(socket))
}

fn bound_to(socket: &OwnedFd, at: SocketAddr) -> Result<SocketAddr> {
    let bound = rustix::net::getsockname(socket).context("reserve", format!("port {at}"))?;
    SocketAddr::try_from(bound).map_err(|error| Error::new("reserve", format!("port {at}"), error))
}

fn socket_for(transport: Transport, at: SocketAddr) -> Result<OwnedFd> {
    let family = if at.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
        Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        Transport::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let subject = format!("port {at}");
    let socket =
        socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)).context("reserve", &subject)?;
    if at.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).context("reserve", &subject)?;
    }
    Ok(socket)
}

/// Many sockets, waited for together.
#[derive(Debug)]
pub struct Listeners {
    epoll: OwnedFd,
    wake: OwnedFd,
}

/// The number of what [`Listeners::wake`] tells.
const WOKEN: u64 = u64::MAX;
/// Most sockets that one [`Listeners::wait`] tells of.
const MOST_AT_ONCE: usize = 64;

impl Listeners {
    /// No socket yet.
    pub fn new() -> Result<Self> {
        use rustix::event::{EventfdFlags, epoll, eventfd};
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make", "set of listening sockets")?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).context("open", "event counter")?;
        let listeners = Self { epoll, wake };
        listeners.add_fd(&listeners.wake, WOKEN)?;
        Ok(listeners)
    }

    fn add_fd(&self, fd: impl std::os::fd::AsFd, number: u64) -> Result<()> {
        use rustix::event::epoll::{EventData, EventFlags, add};
        add(&self.epoll, fd, EventData::new_u64(number), EventFlags::IN)
            .context("wait for", "listening socket")
    }

    /// Adds a listener, whose `accept` does not block any more. `number` stands for it in
    /// [`Listeners::wait`] and is less than the greatest.
    pub fn add(&self, listener: &TcpListener, number: u64) -> Result<()> {
        listener
            .set_nonblocking(true)
            .context("set up", "listening socket")?;
        self.add_fd(listener, number)
    }

    /// Adds a socket of datagrams, which does not block any more; it is told of while something waits to be
    /// read, and forgotten when it is closed.
    pub fn add_datagrams(&self, socket: &UdpSocket, number: u64) -> Result<()> {
        socket.set_nonblocking(true).context("set up", "UDP socket")?;
        self.add_fd(socket, number)
    }

    /// Removes a listener.
    pub fn remove(&self, listener: &TcpListener) -> Result<()> {
        rustix::event::epoll::delete(&self.epoll, listener).context("forget", "listening socket")
    }

    /// Waits until somebody connects to one of them or somebody wakes; numbers of those with
    /// connections, some of which others may have taken meanwhile.
    pub fn wait(&self) -> Result<Vec<u64>> {
        self.wait_for(None)
    }

    /// The same, but no longer than `patience`.
    pub fn wait_for(&self, patience: Option<Duration>) -> Result<Vec<u64>> {
        let patience = patience.map(Timespec::try_from).transpose();
        let patience = patience.map_err(|_| Error::other("wait for", "sockets", "the time is too long"))?;
        let mut events = Vec::with_capacity(MOST_AT_ONCE);
        rustix::io::retry_on_intr(|| {
            let room = rustix::buffer::spare_capacity(&mut events);
            rustix::event::epoll::wait(&self.epoll, room, patience.as_ref())
        })
        .context("wait for", "listening sockets")?;
        let numbers = events.iter().map(|event| event.data.u64());
        let (woken, numbers): (Vec<u64>, Vec<u64>) = numbers.partition(|number| *number == WOKEN);
        if !woken.is_empty() {
            // Somebody else may have read it.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        Ok(numbers)
    }

    /// Makes the next or current [`Listeners::wait`] return.
    pub fn wake(&self) -> Result<()> {
        rustix::io::write(&self.wake, &1u64.to_ne_bytes()).context("wake", "listening sockets")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Socket;
    use crate::netlink::link::{self, At};
    use crate::netns::run_in_new;

    #[test]
    fn a_reserved_port_is_nobody_elses_until_it_is_dropped() {
        run_in_new(|| {
            // Without any address of its own a namespace takes every address for a local one.
            Socket::route()
                .unwrap()
                .one(link::set_up(At::Name("lo")))
                .unwrap();
            let any = "0.0.0.0:0".parse().unwrap();
            for transport in [Transport::Tcp, Transport::Udp] {
                let mine = reserve(transport, any).unwrap();
                assert_ne!(mine.at.port(), 0);
                let again = reserve(transport, mine.at).unwrap_err();
                assert_eq!(again.errno(), Some(libc::EADDRINUSE));
                let six = SocketAddr::new("::".parse().unwrap(), mine.at.port());
                reserve(transport, six).unwrap();
                let at = mine.at;
                drop(mine);
                reserve(transport, at).unwrap();
            }
            let foreign = reserve(Transport::Tcp, "192.0.2.1:80".parse().unwrap());
            assert_eq!(foreign.unwrap_err().errno(), Some(libc::EADDRNOTAVAIL));
        })
        .unwrap();
    }

    #[test]
    fn one_wait_tells_which_of_many_listeners_has_a_client() {
        let listeners = Listeners::new().unwrap();
        let all: Vec<_> = (0..100)
            .map(|number| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listeners.add(&listener, number).unwrap();
                listener
            })
            .collect();
        let connect = |nth: usize| std::net::TcpStream::connect(all[nth].local_addr().unwrap()).unwrap();
        let _client = connect(42);
        assert_eq!(listeners.wait().unwrap(), [42]);
        assert_eq!(listeners.wait().unwrap(), [42], "nobody has accepted it yet");
        all[42].accept().unwrap();
        let nobody = all[42].accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        listeners.remove(&all[7]).unwrap();
        let _client = connect(7);
        listeners.wake().unwrap();
        assert_eq!(
            listeners.wait().unwrap(),
            [] as [u64; 0],
            "a removed one is told of"
        );
    }
}
