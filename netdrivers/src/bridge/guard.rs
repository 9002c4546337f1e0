//! The table `bridge longshore_guard`: endpoints send as themselves and nobody else.
//!
//! A frame that comes out of an endpoint's link must carry the endpoint's link-layer address, be IPv4,
//! IPv6 or ARP without a VLAN tag, come from the endpoint's addresses, and speak in ARP and neighbour
//! discovery of these alone. Router advertisements, redirects and what DHCP servers say are no
//! endpoint's business. The rules are constant; an endpoint is an element of each set. What is dropped
//! is counted by the rule that drops it, until the table is made anew.
//!
//! Link-local IPv6 addresses are the sandbox's own choice: any of them may be a source. Other addresses
//! that a sandbox gives itself, beside those of its endpoint, reach nobody.

use kernel::Result;
use kernel::netlink::Socket;
use kernel::netlink::nft::expr::{Base, Meta, REG_1, REG_2, reg32};
use kernel::netlink::nft::{Batch, Chain, Element, Expr, Family, Field, Fields, Hook, Set, Table, Verdict};

use super::firewall::{by_set, holds, set};
use super::records::{Endpoint, EndpointPhase};

/// The table.
pub const TABLE: Table = Table("longshore_guard");

use Field::{Ipv4, Ipv6, LinkName, Mac};

/// Links of endpoints.
const LINKS: Set = set("links", 101, &[LinkName], false);
/// What each may send from.
const MACS: Set = set("macs", 102, &[LinkName, Mac], false);
const SOURCES4: Set = set("sources4", 103, &[LinkName, Ipv4], false);
const SOURCES6: Set = set("sources6", 104, &[LinkName, Ipv6], false);
const SETS: [Set; 4] = [LINKS, MACS, SOURCES4, SOURCES6];

const ENDPOINT: Chain = Chain {
    name: "endpoint",
    base: None,
};
const PREROUTING: Chain = Chain {
    name: "prerouting",
    base: Some(("filter", Hook::Prerouting, -300)),
};

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn of_type(kind: [u8; 2]) -> Vec<Expr> {
    vec![
        Expr::Payload(Base::Link, 12, 2, REG_1),
        Expr::Equal(REG_1, kind.to_vec()),
    ]
}

/// The link's name and what follows it are not in a set.
fn foreign(base: Base, (offset, length): (u32, u32), allowed: Set) -> [Expr; 3] {
    [
        Expr::Meta(Meta::InName, REG_1),
        Expr::Payload(base, offset, length, reg32(4)),
        Expr::NotIn(REG_1, allowed),
    ]
}

/// The bytes are no address of a sandbox that has none yet.
fn not_unset(base: Base, offset: u32, length: u32) -> [Expr; 2] {
    let zero = vec![0; if length == 4 { 4 } else { 16 }];
    [
        Expr::Payload(base, offset, length, REG_2),
        Expr::Differ(REG_2, zero),
    ]
}

fn not_link_local(base: Base, offset: u32) -> [Expr; 3] {
    [
        Expr::Payload(base, offset, 4, REG_2),
        Expr::Mask(REG_2, [0xff, 0xc0, 0, 0]),
        Expr::Differ(REG_2, vec![0xfe, 0x80, 0, 0]),
    ]
}

fn transport(kind: [u8; 2], protocol: u8, first: &[u8]) -> Vec<Expr> {
    let mut rule = of_type(kind);
    rule.extend([
        Expr::Meta(Meta::Protocol, REG_1),
        Expr::Equal(REG_1, vec![protocol]),
    ]);
    let length = u32::try_from(first.len()).expect("a type or a port");
    rule.push(Expr::Payload(Base::Transport, 0, length, REG_1));
    rule.push(Expr::Equal(REG_1, first.to_vec()));
    rule
}

/// What no endpoint sends.
fn endpoint_rules() -> Vec<Vec<Expr>> {
    let mut other_type = vec![Expr::Payload(Base::Link, 12, 2, REG_1)];
    other_type.extend([ARP, IPV4, IPV6].map(|kind| Expr::Differ(REG_1, kind.to_vec())));
    let mut arp_mac = of_type(ARP);
    arp_mac.extend(foreign(Base::Network, (8, 6), MACS));
    let mut arp_address = of_type(ARP);
    arp_address.extend(not_unset(Base::Network, 14, 4));
    arp_address.extend(foreign(Base::Network, (14, 4), SOURCES4));
    let mut source4 = of_type(IPV4);
    source4.extend(not_unset(Base::Network, 12, 4));
    source4.extend(foreign(Base::Network, (12, 4), SOURCES4));
    let mut source6 = of_type(IPV6);
    source6.extend(not_unset(Base::Network, 8, 16));
    source6.extend(not_link_local(Base::Network, 8));
    source6.extend(foreign(Base::Network, (8, 16), SOURCES6));
    let mut neighbour = transport(IPV6, ICMPV6, &[136]);
    neighbour.extend(not_link_local(Base::Transport, 8));
    neighbour.extend(foreign(Base::Transport, (8, 16), SOURCES6));
    let router = transport(IPV6, ICMPV6, &[134]);
    let redirect = transport(IPV6, ICMPV6, &[137]);
    let dhcp = transport(IPV4, UDP, &67u16.to_be_bytes());
    let dhcp6 = transport(IPV6, UDP, &547u16.to_be_bytes());
    let mac = foreign(Base::Link, (6, 6), MACS).to_vec();
    let rules = [
        mac,
        other_type,
        arp_mac,
        arp_address,
        source4,
        source6,
        neighbour,
        router,
        redirect,
        dhcp,
        dhcp6,
    ];
    rules
        .into_iter()
        .map(|mut rule| {
            rule.extend([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
            rule
        })
        .collect()
}

fn skeleton() -> Batch {
    let mut batch = remove().table(TABLE);
    for set in &SETS {
        batch = batch.set(TABLE, set);
    }
    batch = batch.chain(TABLE, ENDPOINT).chain(TABLE, PREROUTING);
    for rule in endpoint_rules() {
        batch = batch.rule(TABLE, ENDPOINT, &rule);
    }
    let of_endpoints = [
        Expr::Meta(Meta::InName, REG_1),
        Expr::In(REG_1, LINKS),
        Expr::Verdict(Verdict::Jump(ENDPOINT.name.to_owned())),
    ];
    batch.rule(TABLE, PREROUTING, &of_endpoints)
}

fn elements_of(endpoint: &Endpoint) -> Vec<(Set, Element)> {
    let link = || Fields::new().link(&endpoint.outer);
    let mut elements = vec![
        (LINKS, Element::key(link())),
        (MACS, Element::key(link().mac(endpoint.mac.0))),
    ];
    if let Some(net) = endpoint.asked.address {
        elements.push((SOURCES4, Element::key(link().address(net.addr()))));
    }
    if let Some(net) = endpoint.asked.address_v6 {
        elements.push((SOURCES6, Element::key(link().address(net.addr()))));
    }
    elements
}

/// The elements that the records want.
pub fn elements<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<(Set, Vec<Element>)> {
    let linked = endpoints.filter(|e| e.phase != EndpointPhase::Apart);
    by_set(linked.flat_map(elements_of).collect())
}

/// The whole table as the records want it: replaces what is there.
pub fn replace<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Batch {
    elements(endpoints)
        .iter()
        .fold(skeleton(), |batch, (set, some)| batch.add(TABLE, set, some))
}

/// No table.
pub fn remove() -> Batch {
    // Made first, since removing a table that is not there would fail.
    Batch::of(Family::Bridge).table(TABLE).delete_table(TABLE)
}

/// Lets an endpoint's link send as the endpoint, and as nobody else; ENOENT without the table.
pub fn admit(endpoint: &Endpoint) -> Batch {
    let all = by_set(elements_of(endpoint));
    all.iter().fold(Batch::of(Family::Bridge), |batch, (set, some)| {
        batch.add(TABLE, set, some)
    })
}

/// Forgets endpoints' links; ENOENT if one is not there.
pub fn dismiss<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Batch {
    let all = by_set(endpoints.flat_map(elements_of).collect());
    all.iter().fold(Batch::of(Family::Bridge), |batch, (set, some)| {
        batch.remove(TABLE, set, some)
    })
}

/// Whether the kernel's table is this one.
pub fn is_whole(socket: &Socket, wanted: &[(Set, Vec<Element>)]) -> Result<bool> {
    Ok(
        socket.rules(Family::Bridge, TABLE)?.len() == endpoint_rules().len() + 1
            && holds(socket, (Family::Bridge, TABLE), &SETS, wanted)?,
    )
}
