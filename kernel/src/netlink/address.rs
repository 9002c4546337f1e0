//! Addresses of links, and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Attributes, Message, Request, Socket};
use crate::error::Result;

/// Address family of an address.
pub(crate) fn family(address: IpAddr) -> u8 {
    let number = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(number).expect("address families are small")
}

/// The bytes of an address in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address in 4 or 16 bytes of network order.
pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNet,
}

/// A route. Its identity for the kernel is destination, table and metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; the default route has prefix length 0.
    pub destination: IpNet,
    /// Through whom; `None` is on-link.
    pub gateway: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub link: Option<u32>,
    /// Table; 254 is the main one.
    pub table: u32,
}

/// The main table.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

const ADDRESS_FIXED: usize = 8;
const ROUTE_FIXED: usize = 12;

fn address_message(kind: u16, flags: i32, link: u32, address: IpNet) -> Message {
    let ip = address.addr();
    let mut fixed = [0; ADDRESS_FIXED];
    fixed[0] = family(ip);
    fixed[1] = address.prefix_len();
    if ip.is_ipv6() {
        // Without duplicate detection the address can be used at once.
        fixed[2] = u8::try_from(libc::IFA_F_NODAD).expect("IFA_F_NODAD is 2");
    }
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    let message = Message::new(kind, flags, &fixed)
        .bytes(libc::IFA_LOCAL, &octets(ip))
        .bytes(libc::IFA_ADDRESS, &octets(ip));
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => message.bytes(libc::IFA_BROADCAST, &v4.broadcast().octets()),
        _ => message,
    }
}

/// Adds an address to a link; EEXIST if it has it.
pub fn add(link: u32, address: IpNet) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let message = address_message(libc::RTM_NEWADDR, flags, link, address);
    Request::new("add address", format!("{address} to link {link}"), message)
}

/// Takes an address from a link; EADDRNOTAVAIL if it has it not.
pub fn delete(link: u32, address: IpNet) -> Request {
    let message = address_message(libc::RTM_DELADDR, 0, link, address);
    Request::new("delete address", format!("{address} from link {link}"), message)
}

fn route_message(kind: u16, flags: i32, route: &Route) -> Message {
    let destination = route.destination.trunc();
    let on_link = route.gateway.is_none() && route.destination.addr().is_ipv4();
    let scope = if on_link {
        libc::RT_SCOPE_LINK
    } else {
        libc::RT_SCOPE_UNIVERSE
    };
    let mut fixed = [0; ROUTE_FIXED];
    fixed[0] = family(destination.addr());
    fixed[1] = destination.prefix_len();
    // A table above 255 is told by the attribute alone.
    fixed[4] = u8::try_from(route.table).unwrap_or(0);
    fixed[5] = libc::RTPROT_BOOT;
    fixed[6] = scope;
    fixed[7] = libc::RTN_UNICAST;
    let mut message = Message::new(kind, flags, &fixed).number(libc::RTA_TABLE, route.table);
    if destination.prefix_len() > 0 {
        message = message.bytes(libc::RTA_DST, &octets(destination.addr()));
    }
    if let Some(gateway) = route.gateway {
        message = message.bytes(libc::RTA_GATEWAY, &octets(gateway));
    }
    if let Some(link) = route.link {
        message = message.number(libc::RTA_OIF, link);
    }
    message
}

/// Adds a route; EEXIST if there is one with the same destination, table and metric.
pub fn add_route(route: &Route) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let message = route_message(libc::RTM_NEWROUTE, flags, route);
    Request::new("add route", route.destination.to_string(), message)
}

/// Takes a route away; ESRCH if there is none.
pub fn delete_route(route: &Route) -> Request {
    let message = route_message(libc::RTM_DELROUTE, 0, route);
    Request::new("delete route", route.destination.to_string(), message)
}

impl Address {
    fn parse(body: &[u8]) -> Option<Self> {
        let link = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let attributes = Attributes::new(body.get(ADDRESS_FIXED..)?);
        // IPv4 tells its own address as LOCAL, IPv6 as ADDRESS.
        let bytes = attributes
            .get(libc::IFA_LOCAL)
            .or_else(|| attributes.get(libc::IFA_ADDRESS))?;
        let address = IpNet::new(address_of(bytes)?, *body.get(1)?).ok()?;
        Some(Self { link, address })
    }
}

impl Route {
    fn parse(body: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(body.get(ROUTE_FIXED..)?);
        let family = i32::from(*body.first()?);
        let everywhere: IpAddr = match family {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let destination = match attributes.get(libc::RTA_DST) {
            Some(bytes) => address_of(bytes)?,
            None => everywhere,
        };
        Some(Self {
            destination: IpNet::new(destination, *body.get(1)?).ok()?,
            gateway: attributes.get(libc::RTA_GATEWAY).and_then(address_of),
            link: attributes.number(libc::RTA_OIF),
            table: attributes
                .number(libc::RTA_TABLE)
                .unwrap_or_else(|| u32::from(body[4])),
        })
    }
}

impl Socket {
    /// Every address of the namespace, of both families.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let message = Message::new(libc::RTM_GETADDR, 0, &[0; ADDRESS_FIXED]);
        self.dump(&Request::new("list", "addresses", message), |kind, body| {
            (kind == libc::RTM_NEWADDR)
                .then(|| Address::parse(body))
                .flatten()
        })
    }

    /// Every route of the namespace, of both families and all tables.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let message = Message::new(libc::RTM_GETROUTE, 0, &[0; ROUTE_FIXED]);
        self.dump(&Request::new("list", "routes", message), |kind, body| {
            (kind == libc::RTM_NEWROUTE).then(|| Route::parse(body)).flatten()
        })
    }
}
