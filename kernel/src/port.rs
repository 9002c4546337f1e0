//! Host ports: taken by a bound socket that nobody reads, so that no process of the host gets them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

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
    rustix::net::bind(&socket, &at).context("reserve", &subject)?;
    let bound = rustix::net::getsockname(&socket).context("reserve", &subject)?;
    let at = SocketAddr::try_from(bound).map_err(|error| Error::new("reserve", subject, error))?;
    Ok(Reserved { _socket: socket, at })
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
}
