//! Flows that connection tracking remembers: found, and forgotten, so that the next packet is judged anew.

use std::net::SocketAddr;

use super::address::address_of;
use super::{Attributes, Message, Request, Socket};
use crate::error::Result;

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u8 = 1;
const GET: u8 = 1;
const DELETE: u8 = 2;
/// Length of `struct nfgenmsg`.
const FIXED: usize = 4;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_FILTER_F_CTA_PROTO_NUM`.
const BY_PROTOCOL: u32 = 1 << 3;
const NESTED: u16 = 0x8000;

/// A flow of a transport protocol with ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent to, before any translation.
    pub to: SocketAddr,
    /// Who answers, after translation.
    pub answered_by: SocketAddr,
    /// What the kernel knows it by.
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
}

fn message(kind: u8, family: u8) -> Message {
    Message::new(u16::from_be_bytes([SUBSYSTEM, kind]), 0, &[family, 0, 0, 0])
}

/// Source or destination of a tuple.
fn end(tuple: Attributes<'_>, is_source: bool) -> Option<SocketAddr> {
    let (ip, ports) = (tuple.nest(1), tuple.nest(2));
    let (v4, v6, port) = if is_source { (1, 3, 2) } else { (2, 4, 3) };
    let address = address_of(ip.get(v4).or_else(|| ip.get(v6))?)?;
    let port = u16::from_be_bytes(ports.get(port)?.try_into().ok()?);
    Some(SocketAddr::new(address, port))
}

fn parse(body: &[u8], protocol: u8) -> Option<Flow> {
    let attributes = Attributes::new(body.get(FIXED..)?);
    let original = attributes.nest(ORIGINAL);
    // Kernels before 5.8 tell of every protocol.
    if original.nest(2).get(1) != Some(&[protocol]) {
        return None;
    }
    Some(Flow {
        to: end(original, false)?,
        answered_by: end(attributes.nest(REPLY), true)?,
        original: attributes.get(ORIGINAL)?.to_vec(),
        zone: attributes.get(ZONE).map(<[u8]>::to_vec),
    })
}

impl Socket {
    /// The flows of a transport protocol, of one family, that `is_wanted` picks. The kernel walks its whole
    /// table for that.
    pub fn flows(&self, is_ipv4: bool, protocol: u8, is_wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
        let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
        let family = u8::try_from(family).expect("address families are small");
        let message = message(GET, family)
            .nest(ORIGINAL, |m| m.nest(2, |m| m.bytes(1, &[protocol])))
            .nest(FILTER, |m| m.number(1, BY_PROTOCOL).number(2, 0));
        let request = Request::new("list", "tracked flows", message);
        self.dump(&request, |_, body| parse(body, protocol).filter(&is_wanted))
    }

    /// Forgets flows; those that ended meanwhile are no error.
    pub fn forget_flows(&self, flows: &[Flow]) -> Result<()> {
        let requests = flows.iter().map(|flow| {
            let family = if flow.to.is_ipv4() {
                libc::AF_INET
            } else {
                libc::AF_INET6
            };
            let family = u8::try_from(family).expect("address families are small");
            let message = message(DELETE, family).bytes(ORIGINAL | NESTED, &flow.original);
            let message = match &flow.zone {
                Some(zone) => message.bytes(ZONE, zone),
                None => message,
            };
            Request::new("forget flow to", flow.to.to_string(), message)
        });
        for outcome in self.each(requests.collect())? {
            match outcome {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
