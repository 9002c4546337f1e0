//! A netlink socket: many requests in one send, every acknowledgement checked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use super::message::{Message, Received, split};
use crate::error::{Context, Error, Result};
use crate::{fault, netns};

/// Most requests of one send: their acknowledgements must fit in the receive buffer.
const MOST_AT_ONCE: usize = 128;
/// Dumps torn by a concurrent change are asked again so often.
const DUMP_ATTEMPTS: usize = 16;
/// Room for one datagram; the kernel fills at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A message with the words for its failure.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is tried: `create bridge`.
    pub operation: &'static str,
    /// On what: `br-0123456789ab`.
    pub subject: String,
    /// The message.
    pub message: Message,
}

impl Request {
    /// A message with the words for its failure.
    pub fn new(operation: &'static str, subject: impl Into<String>, message: Message) -> Self {
        Self {
            operation,
            subject: subject.into(),
            message,
        }
    }

    fn failure(&self, errno: i32, told: Option<&str>) -> Error {
        let subject = match told {
            Some(told) => format!("{} ({told})", self.subject),
            None => self.subject.clone(),
        };
        Error::new(self.operation, subject, io::Error::from_raw_os_error(errno))
    }
}

/// A socket bound to the namespace of the thread that opened it. Shared freely: one exchange at a time.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// The last sequence number used; held during an exchange.
    sequence: Mutex<u32>,
}

impl Socket {
    /// A route socket (links, addresses, routes, neighbours) in this thread's namespace.
    pub fn route() -> Result<Self> {
        let socket = Self::open(None)?;
        socket.set(libc::NETLINK_GET_STRICT_CHK)?;
        Ok(socket)
    }

    /// A netfilter socket in this thread's namespace.
    pub fn netfilter() -> Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    /// A route socket born in another namespace, on a throw-away thread.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> Result<Self> {
        netns::run_in(namespace, Self::route)?
    }

    /// A netfilter socket born in another namespace, on a throw-away thread.
    pub fn netfilter_in(namespace: BorrowedFd<'_>) -> Result<Self> {
        netns::run_in(namespace, Self::netfilter)?
    }

    fn open(family: Option<rustix::net::Protocol>) -> Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            family,
        )
        .context("open", "netlink socket")?;
        let socket = Self {
            fd,
            sequence: Mutex::new(0),
        };
        socket.set(libc::NETLINK_EXT_ACK)?;
        socket.set(libc::NETLINK_CAP_ACK)?;
        let patience = Some(std::time::Duration::from_secs(10));
        rustix::net::sockopt::set_socket_timeout(&socket.fd, rustix::net::sockopt::Timeout::Recv, patience)
            .context("set timeout of", "netlink socket")?;
        // Netfilter counts a batch's memory against this; without the right to force it, the default stays.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket.fd, 16 << 20);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket.fd, 4 << 20);
        Ok(socket)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn set(&self, option: libc::c_int) -> Result<()> {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four fits");
        // SAFETY: the pointer and length describe `on`, which lives across the call.
        let answer = unsafe {
            let value = (&raw const on).cast();
            libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_NETLINK, option, value, length)
        };
        if answer == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error()).context("set option of", "netlink socket")
        }
    }

    /// Sends the requests together and tells each one's outcome. In the route family a failed request
    /// does not stop those after it.
    pub fn each(&self, requests: Vec<Request>) -> Result<Vec<Result<()>>> {
        for request in &requests {
            fault::point(request.operation, &request.subject)?;
        }
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(MOST_AT_ONCE));
            outcomes.extend(self.exchange(&rest)?);
            rest = later;
        }
        Ok(outcomes)
    }

    /// Sends the requests together; the first failure is the answer.
    pub fn all(&self, requests: Vec<Request>) -> Result<()> {
        self.each(requests)?.into_iter().collect()
    }

    /// Sends one request.
    pub fn one(&self, request: Request) -> Result<()> {
        self.all(vec![request])
    }

    fn exchange(&self, requests: &[Request]) -> Result<Vec<Result<()>>> {
        let mut sequence = self.lock();
        let first = sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            *sequence = sequence.wrapping_add(1);
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
            bytes.extend(request.message.clone().finish(flags, *sequence));
        }
        self.send(&bytes)?;
        let mut outcomes: Vec<Option<Result<()>>> = requests.iter().map(|_| None).collect();
        let mut missing = requests.len();
        while missing > 0 {
            self.receive(|message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                let (Some(request), Some(ack)) = (requests.get(index), Ack::of(message)) else {
                    return Ok(());
                };
                if outcomes[index].replace(ack.outcome(request)).is_none() {
                    missing -= 1;
                }
                Ok(())
            })?;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Sends an nf_tables batch (its first message begins the batch, its last ends it): all or nothing.
    pub(crate) fn transaction(&self, requests: &[Request]) -> Result<()> {
        for request in requests {
            fault::point(request.operation, &request.subject)?;
        }
        let mut sequence = self.lock();
        let first = sequence.wrapping_add(1);
        let last_change = requests.len().saturating_sub(2);
        let mut bytes = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            *sequence = sequence.wrapping_add(1);
            // Errors are always told; success need only be told once, after everything else.
            let ack = if index == last_change { libc::NLM_F_ACK } else { 0 };
            bytes.extend(
                request
                    .message
                    .clone()
                    .finish(libc::NLM_F_REQUEST | ack, *sequence),
            );
        }
        self.send(&bytes)?;
        let mut outcome = Ok(());
        let mut over = false;
        while !over {
            self.receive(|message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                let (Some(request), Some(ack)) = (requests.get(index), Ack::of(message)) else {
                    return Ok(());
                };
                // After an error nothing else is of interest; what still comes is skipped by number.
                over |= index == last_change || ack.errno != 0;
                if outcome.is_ok() {
                    outcome = ack.outcome(request);
                }
                Ok(())
            })?;
        }
        outcome
    }

    /// Asks for one thing; the answer is a message that `read` understands.
    pub(crate) fn ask<T>(&self, request: &Request, read: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
        let mut sequence = self.lock();
        *sequence = sequence.wrapping_add(1);
        self.send(&request.message.clone().finish(libc::NLM_F_REQUEST, *sequence))?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|message| {
                if message.sequence != *sequence {
                    return Ok(());
                }
                if let Some(ack) = Ack::of(message) {
                    ack.outcome(request)?;
                }
                let unreadable =
                    || Error::other(request.operation, &request.subject, "the answer makes no sense");
                answer = Some(read(message.body).ok_or_else(unreadable)?);
                Ok(())
            })?;
        }
        Ok(answer.expect("the loop ends with an answer"))
    }

    /// Asks for a dump and gives every message's kind and body to `each`, which picks what it
    /// wants. A dump torn by a concurrent change is asked again from the start.
    pub(crate) fn dump<T>(
        &self,
        request: &Request,
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut sequence = self.lock();
        for _ in 0..DUMP_ATTEMPTS {
            *sequence = sequence.wrapping_add(1);
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
            self.send(&request.message.clone().finish(flags, *sequence))?;
            let mut found = Vec::new();
            let (mut torn, mut over) = (false, false);
            while !over {
                self.receive(|message| {
                    if message.sequence != *sequence {
                        return Ok(());
                    }
                    torn |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
                    if let Some(ack) = Ack::of(message) {
                        over = true;
                        return ack.outcome(request);
                    }
                    found.extend(each(message.kind, message.body));
                    Ok(())
                })?;
            }
            if !torn {
                return Ok(found);
            }
        }
        let why = "it changed during every attempt";
        Err(Error::other(request.operation, &request.subject, why))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u32> {
        self.sequence
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let sent = rustix::net::send(&self.fd, bytes, rustix::net::SendFlags::empty())
            .context("send to", "netlink socket")?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Error::other(
                "send to",
                "netlink socket",
                "the message was cut short",
            ))
        }
    }

    /// Reads one datagram and gives each of its messages away; the first error is the answer, after
    /// the whole datagram was read.
    fn receive(&self, mut each: impl FnMut(Received<'_>) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0u8; RECEIVE_BYTES];
        let (got, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, buffer.as_mut_slice(), rustix::net::RecvFlags::TRUNC)
        })
        .context("receive from", "netlink socket")?;
        let datagram = buffer
            .get(..got)
            .ok_or_else(|| Error::other("receive from", "netlink socket", "a datagram over 64 KiB"))?;
        let mut outcome = Ok(());
        for message in split(datagram) {
            let one = each(message);
            if outcome.is_ok() {
                outcome = one;
            }
        }
        outcome
    }
}

/// An acknowledgement or the end of a dump.
struct Ack {
    errno: i32,
    told: Option<String>,
}

impl Ack {
    fn of(message: Received<'_>) -> Option<Self> {
        let kind = i32::from(message.kind);
        if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
            return None;
        }
        let errno = message.body.get(..4).map_or(0, |bytes| {
            i32::from_ne_bytes(bytes.try_into().expect("four bytes")).wrapping_neg()
        });
        let mut told = None;
        if i32::from(message.flags) & libc::NLM_F_ACK_TLVS != 0 && kind == libc::NLMSG_ERROR {
            // The errno and the header of the request; its body is left out (NETLINK_CAP_ACK).
            let attributes = message.body.get(20..).unwrap_or_default();
            told = super::Attributes::new(attributes).text(1);
        }
        Some(Self { errno, told })
    }

    fn outcome(&self, request: &Request) -> Result<()> {
        if self.errno == 0 {
            Ok(())
        } else {
            Err(request.failure(self.errno, self.told.as_deref()))
        }
    }
}
