//! Whole frames of a link, sent and read as they are.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Context, Error, Result};

/// A socket for the frames of one link of the namespace it was opened in.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    link: u32,
}

impl Frames {
    /// Opens the link of an index.
    pub fn of(link: u32) -> Result<Self> {
        let subject = format!("frames of link {link}");
        let every = u16::try_from(libc::ETH_P_ALL).expect("ETH_P_ALL is 3").to_be();
        let protocol = std::num::NonZeroU32::new(every.into()).map(Protocol::from_raw);
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .context("open", &subject)?;
        // SAFETY: all of its fields may be zero.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("AF_PACKET is 17");
        address.sll_protocol = every;
        address.sll_ifindex = i32::try_from(link)
            .map_err(|_| Error::other("open", &subject, "a link's index is a positive int"))?;
        let length = libc::socklen_t::try_from(size_of_val(&address)).expect("twenty fits");
        // SAFETY: pointer and length describe `address`, which lives across the call.
        let answer = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if answer != 0 {
            return Err(std::io::Error::last_os_error()).context("open", subject);
        }
        Ok(Self { socket, link })
    }

    /// Sends a frame, which begins with the destination's link-layer address.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let subject = format!("frame by link {}", self.link);
        crate::fault::point("send", &subject)?;
        rustix::net::send(&self.socket, frame, SendFlags::empty()).context("send", subject)?;
        Ok(())
    }

    /// The next frame that comes or goes; none within `patience`.
    pub fn next(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let subject = format!("frames of link {}", self.link);
        set_socket_timeout(&self.socket, Timeout::Recv, Some(patience)).context("read", &subject)?;
        let mut buffer = vec![0; 64 * 1024];
        match rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            outcome => {
                let (filled, _) = outcome.context("read", subject)?;
                buffer.truncate(filled);
                Ok(Some(buffer))
            }
        }
    }
}
