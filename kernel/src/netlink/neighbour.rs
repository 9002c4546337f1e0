//! Neighbours: who has which link-layer address, for IP and for bridges.

use std::net::IpAddr;

use super::address::{address_of, family, octets};
use super::{Attributes, Message, Request, Socket};
use crate::error::Result;

/// Length of `struct ndmsg`.
const FIXED: usize = 12;

/// A permanent entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub link: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

fn message(kind: u16, flags: i32, neighbour: &Neighbour) -> Message {
    let mut fixed = [0; FIXED];
    fixed[0] = family(neighbour.address);
    fixed[4..8].copy_from_slice(&neighbour.link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    Message::new(kind, flags, &fixed)
        .bytes(libc::NDA_DST, &octets(neighbour.address))
        .bytes(libc::NDA_LLADDR, &neighbour.mac)
}

/// Adds a permanent neighbour, or replaces the one of the same address.
pub fn put(neighbour: &Neighbour) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let message = message(libc::RTM_NEWNEIGH, flags, neighbour);
    Request::new("put neighbour", neighbour.address.to_string(), message)
}

/// Takes a neighbour away; ENOENT if there is none.
pub fn delete(neighbour: &Neighbour) -> Request {
    let message = message(libc::RTM_DELNEIGH, 0, neighbour);
    Request::new("delete neighbour", neighbour.address.to_string(), message)
}

impl Socket {
    /// Every IP neighbour whose link-layer address is known.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let message = Message::new(libc::RTM_GETNEIGH, 0, &[0; FIXED]);
        self.dump(&Request::new("list", "neighbours", message), |kind, body| {
            if kind != libc::RTM_NEWNEIGH {
                return None;
            }
            let attributes = Attributes::new(body.get(FIXED..)?);
            Some(Neighbour {
                link: u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?),
                address: address_of(attributes.get(libc::NDA_DST)?)?,
                mac: attributes.get(libc::NDA_LLADDR)?.try_into().ok()?,
            })
        })
    }
}
