//! What others change: links, addresses and nf_tables of a namespace, as the kernel tells of it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::netlink::SocketAddrNetlink;

use super::link::Link;
use super::message::split;
use super::nft::SUBSYSTEM;
use super::{Attributes, Socket};
use crate::error::{Context, Error, Result};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const LINKS_AND_ADDRESSES: u32 = 1 | 0x10 | 0x100;
/// The bit of `NFNLGRP_NFTABLES`.
const NF_TABLES: u32 = 1 << 6;
/// The kernel's datagrams are smaller.
const RECEIVE_BYTES: usize = 64 * 1024;

/// One thing that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or differs.
    Link(Link),
    /// A link is gone: what it was.
    LinkGone(Link),
    /// The link of this index lost an address.
    AddressGone(u32),
    /// Something in the table of this name changed, by the netlink socket of this port.
    Table(String, u32),
    /// Events were lost: anything may have changed.
    Lost,
    /// Somebody called [`Wake::wake`].
    Woken,
}

/// Sockets that listen.
#[derive(Debug)]
pub struct Watch {
    route: Socket,
    netfilter: Socket,
    wake: OwnedFd,
}

/// Wakes a [`Watch`] from another thread.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// The next or current [`Watch::wait`] returns [`Event::Woken`].
    pub fn wake(&self) -> Result<()> {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).context("wake", "watch")?;
        Ok(())
    }
}

impl Watch {
    /// Listens in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let watch = Self {
            route: Socket::route()?,
            netfilter: Socket::netfilter()?,
            wake: eventfd(0, EventfdFlags::CLOEXEC).context("open", "event counter")?,
        };
        for (socket, groups) in [(&watch.route, LINKS_AND_ADDRESSES), (&watch.netfilter, NF_TABLES)] {
            let address = SocketAddrNetlink::new(0, groups);
            rustix::net::bind(socket.as_fd(), &address).context("listen on", "netlink socket")?;
        }
        Ok(watch)
    }

    /// What wakes this one.
    pub fn waker(&self) -> Result<Wake> {
        Ok(Wake(self.wake.try_clone().context("copy", "event counter")?))
    }

    /// Waits up to `patience` and gives every event that is there to `each`.
    pub fn wait(&self, patience: Duration, mut each: impl FnMut(Event)) -> Result<()> {
        let mut ready = [
            PollFd::from_borrowed_fd(self.route.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.netfilter.as_fd(), PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        let patience = Timespec::try_from(patience)
            .map_err(|_| Error::other("wait for", "netlink events", "the time is too long"))?;
        match poll(&mut ready, Some(&patience)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other.context("wait for", "netlink events")?,
        };
        let [is_route, is_netfilter, is_wake] = ready.map(|fd| !fd.revents().is_empty());
        if is_wake {
            rustix::io::read(&self.wake, &mut [0; 8]).context("read", "event counter")?;
            each(Event::Woken);
        }
        if is_route {
            drain(&self.route, route_event, &mut each)?;
        }
        if is_netfilter {
            drain(&self.netfilter, netfilter_event, &mut each)?;
        }
        Ok(())
    }
}

impl Socket {
    /// The number by which the kernel names this socket to others; 0 before it was used.
    pub fn port(&self) -> Result<u32> {
        let name = rustix::net::getsockname(self.as_fd()).context("name", "netlink socket")?;
        let name = SocketAddrNetlink::try_from(name).context("name", "netlink socket")?;
        Ok(name.pid())
    }
}

type Reader = fn(super::message::Received<'_>) -> Option<Event>;

fn drain(socket: &Socket, read: Reader, each: &mut impl FnMut(Event)) -> Result<()> {
    use rustix::net::{RecvFlags, recv};
    let mut buffer = vec![0u8; RECEIVE_BYTES];
    loop {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        match recv(socket.as_fd(), buffer.as_mut_slice(), flags) {
            Ok((_, length)) if length > buffer.len() => each(Event::Lost),
            Ok((filled, _)) => {
                let messages = split(&buffer[..filled]).into_iter();
                messages.filter_map(read).for_each(&mut *each);
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::NOBUFS) => each(Event::Lost),
            other => {
                let fd = socket.as_fd().as_raw_fd();
                return other
                    .map(drop)
                    .context("receive from", format!("netlink socket {fd}"));
            }
        }
    }
}

fn route_event(message: super::message::Received<'_>) -> Option<Event> {
    // Messages about ports of bridges have another family and fewer facts.
    let is_link = message.body.first() == Some(&0);
    match message.kind {
        libc::RTM_NEWLINK if is_link => Link::parse(message.body).map(Event::Link),
        libc::RTM_DELLINK if is_link => Link::parse(message.body).map(Event::LinkGone),
        libc::RTM_DELADDR => {
            let index = message.body.get(4..8)?.try_into().ok()?;
            Some(Event::AddressGone(u32::from_ne_bytes(index)))
        }
        _ => None,
    }
}

fn netfilter_event(message: super::message::Received<'_>) -> Option<Event> {
    /// `NFT_MSG_NEWGEN`: a number and a process, no table.
    const GENERATION: u8 = 15;
    let [subsystem, kind] = message.kind.to_be_bytes();
    if subsystem != SUBSYSTEM || kind == GENERATION {
        return None;
    }
    // The table's name is the first attribute of every kind.
    let name = Attributes::new(message.body.get(4..)?).text(1)?;
    Some(Event::Table(name, message.port))
}
