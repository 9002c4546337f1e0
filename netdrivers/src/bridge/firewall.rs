//! The table `inet longshore`: chains of constant size, and maps that say what is published.
//!
//! The first network brings the table, the last takes it along; other networks and ports are elements that
//! come and go. What does not fit is replaced as a whole, in one transaction. Nobody can add to the table and be believed: what the records do not say is gone
//! with the next replacement.

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::netlink::Socket;
use kernel::netlink::nft::expr::{self, Base, Ct, Meta, REG_1, REG_2, reg32};
use kernel::netlink::nft::{
    Batch, Chain, Element, Expr, Family, Field, Fields, Hook, Set, Table, Value, Values, Verdict,
};
use kernel::{Error, Result};

use super::options::{self, GatewayMode};
use super::plan::subnets;
use super::records::{Endpoint, Network, Published};

/// The table.
pub const TABLE: Table = Table("longshore");

const fn map(name: &'static str, id: u32, key: &'static [Field], values: &'static [Field]) -> Set {
    Set {
        name,
        id,
        key,
        values: Values::Fields(values),
        ranges: false,
    }
}

const fn ranges_to(name: &'static str, id: u32, field: &'static [Field]) -> Set {
    Set {
        ranges: true,
        ..map(name, id, field, field)
    }
}

pub(super) const fn set(name: &'static str, id: u32, key: &'static [Field], ranges: bool) -> Set {
    Set {
        name,
        id,
        key,
        values: Values::None,
        ranges,
    }
}

use Field::{Ipv4, Ipv6, LinkName, Port, Protocol};

/// Ports of one host address.
const PORTS4: Set = map("ports4", 1, &[Protocol, Ipv4, Port], &[Ipv4, Port]);
/// Ports of every host address.
const ANY4: Set = map("any4", 2, &[Protocol, Port], &[Ipv4, Port]);
const PORTS6: Set = map("ports6", 3, &[Protocol, Ipv6, Port], &[Ipv6, Port]);
const ANY6: Set = map("any6", 4, &[Protocol, Port], &[Ipv6, Port]);
/// Every bridge.
const BRIDGES: Set = set("bridges", 5, &[LinkName], false);
/// Bridges without a way out or in.
const INTERNAL: Set = set("internal", 6, &[LinkName], false);
/// Bridges whose endpoints reach each other: twice the same name.
const ICC: Set = set("icc", 7, &[LinkName, LinkName], false);
/// Subnets of all networks.
const NETS4: Set = set("nets4", 8, &[Ipv4], true);
const NETS6: Set = set("nets6", 9, &[Ipv6], true);
/// Subnets that leave with the host's address.
const MASQ4: Set = set("masq4", 10, &[Ipv4], true);
const MASQ6: Set = set("masq6", 11, &[Ipv6], true);

/// Subnets that leave with an address of the user's choice.
const SNAT4: Set = ranges_to("snat4", 12, &[Ipv4]);
const SNAT6: Set = ranges_to("snat6", 13, &[Ipv6]);
/// Ports of endpoints that are open where nothing is translated.
const OPEN4: Set = set("open4", 14, &[Ipv4, Protocol, Port], false);
const OPEN6: Set = set("open6", 15, &[Ipv6, Protocol, Port], false);
/// Bridges whose endpoints answer pings from outside.
const ROUTED4: Set = set("routed4", 16, &[LinkName], false);
const ROUTED6: Set = set("routed6", 17, &[LinkName], false);
/// Bridges all of whose ports are reached by whoever has a route.
const UNPROTECTED4: Set = set("unprotected4", 18, &[LinkName], false);
const UNPROTECTED6: Set = set("unprotected6", 19, &[LinkName], false);
/// The host's link and the bridge behind which it reaches everything.
const TRUSTED: Set = set("trusted", 20, &[LinkName, LinkName], false);

const SETS: [Set; 20] = [
    PORTS4,
    ANY4,
    PORTS6,
    ANY6,
    BRIDGES,
    INTERNAL,
    ICC,
    NETS4,
    NETS6,
    MASQ4,
    MASQ6,
    SNAT4,
    SNAT6,
    OPEN4,
    OPEN6,
    ROUTED4,
    ROUTED6,
    UNPROTECTED4,
    UNPROTECTED6,
    TRUSTED,
];

/// Rules of all chains together.
const RULES: usize = 4 + 1 + 2 + 15 + FOREIGN.len() + 6;

/// Bit of the mark of packets that we let pass.
pub const PASSED: u32 = 1 << 28;
/// How the names of other engines' bridges begin.
const FOREIGN: [&str; 4] = ["docker", "br-", "podman", "cni"];

const PUBLISH: Chain = Chain {
    name: "publish",
    base: None,
};
const PREROUTING: Chain = Chain {
    name: "prerouting",
    base: Some(("nat", Hook::Prerouting, -100)),
};
const OUTPUT: Chain = Chain {
    name: "output",
    base: Some(("nat", Hook::Output, -100)),
};
/// Before the chains of iptables, which are at 0, so that they see the mark.
const FORWARD: Chain = Chain {
    name: "forward",
    base: Some(("filter", Hook::Forward, -5)),
};
const POSTROUTING: Chain = Chain {
    name: "postrouting",
    base: Some(("nat", Hook::Postrouting, 100)),
};

const V4: u8 = 2;
const V6: u8 = 10;

fn family(number: u8) -> [Expr; 2] {
    [Expr::Meta(Meta::Family, REG_1), Expr::Equal(REG_1, vec![number])]
}

fn translated() -> [Expr; 3] {
    [
        Expr::Ct(Ct::Status, REG_1),
        Expr::Mask(REG_1, expr::DESTINATION_CHANGED.to_ne_bytes()),
        Expr::Differ(REG_1, vec![0; 4]),
    ]
}

fn verdict(verdict: Verdict) -> Expr {
    Expr::Verdict(verdict)
}

/// `dnat to proto . [daddr .] dport map`, for one family.
fn publish_rule(number: u8, map: Set) -> Vec<Expr> {
    let length = if number == V4 { 4 } else { 16 };
    let offset = if number == V4 { 16 } else { 24 };
    let mut rule = family(number).to_vec();
    rule.push(Expr::Meta(Meta::Protocol, REG_1));
    let mut next = reg32(1);
    if map.key.len() == 3 {
        rule.push(Expr::Payload(Base::Network, offset, length, next));
        next += length / 4;
    }
    rule.push(Expr::Payload(Base::Transport, 2, 2, next));
    rule.push(Expr::Find(REG_1, map, REG_1));
    rule.push(Expr::Dnat(number.into(), REG_1, reg32(length / 4)));
    rule
}

/// Goes to the published ports if the destination is this host.
fn local_rule() -> Vec<Expr> {
    vec![
        Expr::DestinationType(REG_1),
        Expr::Equal(REG_1, 2u32.to_ne_bytes().to_vec()),
        verdict(Verdict::Jump(PUBLISH.name.to_owned())),
    ]
}

/// The same for packets of this host, except to loopback addresses: see the limits in [`super`].
fn output_rules() -> [Vec<Expr>; 2] {
    let mut v4 = family(V4).to_vec();
    v4.push(Expr::Payload(Base::Network, 16, 4, REG_1));
    v4.push(Expr::Mask(REG_1, [255, 0, 0, 0]));
    v4.push(Expr::Differ(REG_1, vec![127, 0, 0, 0]));
    let mut v6 = family(V6).to_vec();
    v6.push(Expr::Payload(Base::Network, 24, 16, REG_1));
    v6.push(Expr::Differ(
        REG_1,
        std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
    ));
    [v4, v6].map(|mut rule| {
        rule.extend(local_rule());
        rule
    })
}

/// Marks the packet as one that we let pass: see `passage`.
fn marked() -> [Expr; 3] {
    [
        Expr::Meta(Meta::Mark, REG_1),
        Expr::SetBits(REG_1, PASSED.to_ne_bytes()),
        Expr::SetMeta(Meta::Mark, REG_1),
    ]
}

/// Marks and accepts.
fn passes(mut rule: Vec<Expr>) -> Vec<Expr> {
    rule.extend(marked());
    rule.push(verdict(Verdict::Accept));
    rule
}

fn link_in(way: Meta, links: Set) -> Vec<Expr> {
    vec![Expr::Meta(way, REG_1), Expr::In(REG_1, links)]
}

/// What may be forwarded: answers; neighbours of one network; published ports; the rest never into a
/// bridge of ours, neither from outside nor from another network. What leaves one of ours into an engine's
/// bridge is that engine's to judge. What concerns no bridge of ours is none of our business.
fn forward_rules() -> Vec<Vec<Expr>> {
    let answer = |way| {
        let mut rule = link_in(way, BRIDGES);
        let answers = (expr::ESTABLISHED | expr::RELATED).to_ne_bytes();
        rule.push(Expr::Ct(Ct::State, REG_1));
        rule.push(Expr::Mask(REG_1, answers));
        rule.push(Expr::Differ(REG_1, vec![0; 4]));
        passes(rule)
    };
    let dropped = |way, links| {
        let mut rule = link_in(way, links);
        rule.push(verdict(Verdict::Drop));
        rule
    };
    let neighbours = vec![
        Expr::Meta(Meta::InName, REG_1),
        Expr::Meta(Meta::OutName, REG_2),
        Expr::In(REG_1, ICC),
    ];
    let mut published = link_in(Meta::OutName, BRIDGES);
    published.extend(translated());
    let mut rules = vec![
        answer(Meta::InName),
        answer(Meta::OutName),
        passes(neighbours),
        dropped(Meta::InName, INTERNAL),
        dropped(Meta::OutName, INTERNAL),
        passes(published),
        passes(vec![
            Expr::Meta(Meta::InName, REG_1),
            Expr::Meta(Meta::OutName, REG_2),
            Expr::In(REG_1, TRUSTED),
        ]),
    ];
    for (number, open, routed, unprotected) in [
        (V4, OPEN4, ROUTED4, UNPROTECTED4),
        (V6, OPEN6, ROUTED6, UNPROTECTED6),
    ] {
        rules.extend(open_rules(number, open, routed, unprotected).map(passes));
    }
    rules.push(dropped(Meta::OutName, BRIDGES));
    rules.extend(FOREIGN.iter().map(|prefix| {
        vec![
            Expr::Meta(Meta::OutName, REG_1),
            Expr::Equal(REG_1, prefix.as_bytes().to_vec()),
            verdict(Verdict::Accept),
        ]
    }));
    rules.push(passes(link_in(Meta::InName, BRIDGES)));
    rules
}

/// What reaches endpoints without translation: open ports; pings, where nothing is translated; everything.
fn open_rules(number: u8, open: Set, routed: Set, unprotected: Set) -> [Vec<Expr>; 3] {
    let (offset, length, ping) = if number == V4 { (16, 4, 1) } else { (24, 16, 58) };
    let mut port = family(number).to_vec();
    port.push(Expr::Payload(Base::Network, offset, length, REG_1));
    port.push(Expr::Meta(Meta::Protocol, reg32(length / 4)));
    port.push(Expr::Payload(Base::Transport, 2, 2, reg32(length / 4 + 1)));
    port.push(Expr::In(REG_1, open));
    let into = |links| {
        let mut rule = family(number).to_vec();
        rule.extend(link_in(Meta::OutName, links));
        rule
    };
    let mut pings = into(routed);
    pings.push(Expr::Meta(Meta::Protocol, REG_1));
    pings.push(Expr::Equal(REG_1, vec![ping]));
    [port, pings, into(unprotected)]
}

/// What leaves by another link takes the host's address; so does what a container sends to a
/// published port of a container, so that the answer comes back this way.
fn postrouting_rules() -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    for (number, nets, masq, snat) in [(V4, NETS4, MASQ4, SNAT4), (V6, NETS6, MASQ6, SNAT6)] {
        let (offset, length) = if number == V4 { (12, 4) } else { (8, 16) };
        let from = |set| {
            let mut rule = family(number).to_vec();
            rule.push(Expr::Payload(Base::Network, offset, length, REG_1));
            rule.push(Expr::In(REG_1, set));
            rule.push(Expr::Meta(Meta::OutName, REG_1));
            rule
        };
        let mut out = from(masq);
        out.extend([Expr::NotIn(REG_1, BRIDGES), Expr::Masquerade]);
        let mut chosen = from(snat);
        chosen.pop();
        chosen.pop();
        chosen.extend([
            Expr::Meta(Meta::OutName, REG_2),
            Expr::NotIn(REG_2, BRIDGES),
            Expr::Find(REG_1, snat, REG_1),
            Expr::Snat(number.into(), REG_1),
        ]);
        let mut hairpin = from(nets);
        hairpin.push(Expr::In(REG_1, BRIDGES));
        hairpin.extend(translated());
        hairpin.push(Expr::Masquerade);
        rules.extend([chosen, out, hairpin]);
    }
    rules
}

fn skeleton() -> Batch {
    let mut batch = remove().table(TABLE);
    for set in &SETS {
        batch = batch.set(TABLE, set);
    }
    for chain in [PUBLISH, PREROUTING, OUTPUT, FORWARD, POSTROUTING] {
        batch = batch.chain(TABLE, chain);
    }
    for (number, map) in [(V4, PORTS4), (V4, ANY4), (V6, PORTS6), (V6, ANY6)] {
        batch = batch.rule(TABLE, PUBLISH, &publish_rule(number, map));
    }
    batch = batch.rule(TABLE, PREROUTING, &local_rule());
    for (chain, rules) in [
        (OUTPUT, output_rules().to_vec()),
        (FORWARD, forward_rules()),
        (POSTROUTING, postrouting_rules()),
    ] {
        for rule in rules {
            batch = batch.rule(TABLE, chain, &rule);
        }
    }
    batch
}

fn network_elements(network: &Network) -> Vec<(Set, Element)> {
    let bridge = || Element::key(Fields::new().link(&network.bridge));
    let options = options::parse(&network.spec.options).unwrap_or_default();
    let mut elements = vec![(BRIDGES, bridge())];
    if network.spec.internal {
        elements.push((INTERNAL, bridge()));
    }
    if options.icc {
        let twice = Fields::new().link(&network.bridge).link(&network.bridge);
        elements.push((ICC, Element::key(twice)));
    }
    for trusted in &options.trusted {
        let pair = Fields::new().link(trusted).link(&network.bridge);
        elements.push((TRUSTED, Element::key(pair)));
    }
    for subnet in subnets(&network.spec).unwrap_or_default() {
        elements.extend(subnet_elements(network, &options, subnet.pool));
    }
    elements
}

fn subnet_elements(network: &Network, options: &options::Bridge, net: IpNet) -> Vec<(Set, Element)> {
    let mut elements = Vec::new();
    let is_v4 = matches!(net, IpNet::V4(_));
    let of = |v4, v6| if is_v4 { v4 } else { v6 };
    let bridge = || Element::key(Fields::new().link(&network.bridge));
    if !network.spec.internal {
        match options.mode(is_v4) {
            GatewayMode::Routed => elements.push((of(ROUTED4, ROUTED6), bridge())),
            GatewayMode::NatUnprotected => elements.push((of(UNPROTECTED4, UNPROTECTED6), bridge())),
            GatewayMode::Nat | GatewayMode::Isolated => {}
        }
    }
    if net.prefix_len() == 0 {
        return elements;
    }
    elements.push((of(NETS4, NETS6), Element::subnet(net)));
    if options.masquerade && !network.spec.internal && options.mode(is_v4).translates() {
        elements.push(match options.source(is_v4) {
            None => (of(MASQ4, MASQ6), Element::subnet(net)),
            Some(source) => {
                let value = Fields::new().address(source).bytes();
                let element = Element {
                    value: Some(Value::Bytes(value)),
                    ..Element::subnet(net)
                };
                (of(SNAT4, SNAT6), element)
            }
        });
    }
    elements
}

/// The element of a published port, and its map or set.
fn port_element(published: &Published, comment: &str) -> (Set, Element) {
    if published.is_open() {
        let key = Fields::new().address(published.to);
        let key = key.protocol(published.protocol.number()).port(published.to_port);
        let set = if published.to.is_ipv4() { OPEN4 } else { OPEN6 };
        let element = Element {
            comment: comment.to_owned(),
            ..Element::key(key)
        };
        return (set, element);
    }
    let key = Fields::new().protocol(published.protocol.number());
    let (map, key) = match (published.host, published.host.is_unspecified()) {
        (IpAddr::V4(_), true) => (ANY4, key),
        (IpAddr::V6(_), true) => (ANY6, key),
        (host @ IpAddr::V4(_), false) => (PORTS4, key.address(host)),
        (host @ IpAddr::V6(_), false) => (PORTS6, key.address(host)),
    };
    let value = Fields::new().address(published.to).port(published.to_port);
    let element = Element::pair(key.port(published.host_port), value);
    (
        map,
        Element {
            comment: comment.to_owned(),
            ..element
        },
    )
}

fn port_elements(endpoint: &Endpoint) -> impl Iterator<Item = (Set, Element)> {
    let comment = endpoint.at.endpoint.as_str();
    // Loopback addresses are relayed instead.
    let routed = endpoint
        .published
        .iter()
        .filter(|published| !published.host.is_loopback());
    routed.map(move |published| port_element(published, comment))
}

/// Elements of one set after the other, so that each set takes few messages.
pub(super) fn by_set(elements: Vec<(Set, Element)>) -> Vec<(Set, Vec<Element>)> {
    let mut sorted: Vec<(Set, Vec<Element>)> = Vec::new();
    for (set, element) in elements {
        match sorted.iter_mut().find(|(other, _)| other.id == set.id) {
            Some((_, list)) => list.push(element),
            None => sorted.push((set, vec![element])),
        }
    }
    sorted
}

/// No table.
pub fn remove() -> Batch {
    // Made first, since removing a table that is not there would fail.
    Batch::new().table(TABLE).delete_table(TABLE)
}

/// The whole table as the records want it: replaces what is there.
pub fn replace<'a>(networks: &[Network], endpoints: impl Iterator<Item = &'a Endpoint>) -> Batch {
    elements(networks, endpoints)
        .iter()
        .fold(skeleton(), |batch, (set, elements)| {
            batch.add(TABLE, set, elements)
        })
}

/// The elements that the records want.
pub fn elements<'a>(
    networks: &[Network],
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> Vec<(Set, Vec<Element>)> {
    let mut elements: Vec<_> = networks.iter().flat_map(network_elements).collect();
    elements.extend(endpoints.flat_map(port_elements));
    by_set(elements)
}

/// Whether the kernel's table has these elements and no other, and as many rules as ours.
pub fn is_whole(socket: &Socket, wanted: &[(Set, Vec<Element>)]) -> Result<bool> {
    Ok(socket.rules(Family::Inet, TABLE)?.len() == RULES
        && holds(socket, (Family::Inet, TABLE), &SETS, wanted)?)
}

/// Whether sets of a table have these elements and no other.
pub(super) fn holds(
    socket: &Socket,
    (family, table): (Family, Table),
    sets: &[Set],
    wanted: &[(Set, Vec<Element>)],
) -> Result<bool> {
    // The end of a range is not told by all kernels.
    let plain = |elements: &[Element]| {
        let mut plain: Vec<_> = elements
            .iter()
            .map(|e| (e.key.clone(), e.value.clone()))
            .collect();
        plain.sort_by(|a, b| a.0.cmp(&b.0));
        plain
    };
    for set in sets {
        let there = match socket.elements_of(family, table, set) {
            Err(error) if error.is_missing() => return Ok(false),
            other => other?,
        };
        let wanted = wanted.iter().find(|(other, _)| other.id == set.id);
        if plain(&there) != plain(wanted.map_or(&[], |(_, list)| list)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lets a network's bridge in; ENOENT without the table.
pub fn admit(network: &Network) -> Batch {
    let all = by_set(network_elements(network));
    all.iter()
        .fold(Batch::new(), |batch, (set, some)| batch.add(TABLE, set, some))
}

/// Forgets a network's bridge; ENOENT if it is not there.
pub fn dismiss(network: &Network) -> Batch {
    let all = by_set(network_elements(network));
    all.iter()
        .fold(Batch::new(), |batch, (set, some)| batch.remove(TABLE, set, some))
}

/// Publishes an endpoint's ports. A table that somebody removed is ENOENT.
pub fn publish(endpoint: &Endpoint) -> Batch {
    let all = by_set(port_elements(endpoint).collect());
    all.iter()
        .fold(Batch::new(), |batch, (set, some)| batch.add(TABLE, set, some))
}

/// Takes back an endpoint's ports; ENOENT if one of them is not there.
pub fn withdraw(endpoint: &Endpoint) -> Batch {
    let all = by_set(port_elements(endpoint).collect());
    all.iter()
        .fold(Batch::new(), |batch, (set, some)| batch.remove(TABLE, set, some))
}

/// Whether two endpoints want one port of one address.
pub fn is_taken(error: &Error) -> bool {
    error.is_exists() || error.is_busy()
}
