//! Host ports: chosen, and held by bound sockets.

use std::net::{IpAddr, SocketAddr};

use kernel::port::{Reserved, Transport, reserve};
use plugin_api::network::{PortBinding, Protocol};
use plugin_api::{Fault, FaultKind};

use super::datagrams::Relayed;
use super::options::Bridge;
use super::plan;
use super::proxy::{Proxy, Relays};
use super::records::{Endpoint, Published};

/// So many random ports are tried where two families must agree on one.
const ATTEMPTS: usize = 16;

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

/// What holds a host port.
#[derive(Debug)]
pub(super) enum Held {
    /// A bound socket; the firewall does the work.
    Reserved(Reserved),
    /// A relay.
    Proxy(Proxy),
    /// A relay of datagrams.
    Datagrams(Relayed),
}

impl Held {
    fn port(&self) -> u16 {
        match self {
            Self::Reserved(reserved) => reserved.at.port(),
            Self::Proxy(proxy) => proxy.at.port(),
            Self::Datagrams(relayed) => relayed.at.port(),
        }
    }

    /// Takes a port; 0 is any.
    fn take(
        relays: &Relays,
        protocol: Protocol,
        at: SocketAddr,
        to: SocketAddr,
    ) -> Result<Self, kernel::Error> {
        let is_relayed = at.ip().is_loopback() || at.ip().is_unspecified();
        match protocol {
            Protocol::Tcp if is_relayed => relays.open(at, to).map(Self::Proxy),
            Protocol::Udp if is_relayed => relays.datagrams.open(at, to).map(Self::Datagrams),
            _ => reserve(transport(protocol), at).map(Self::Reserved),
        }
    }
}

/// Ports for an endpoint's bindings, each with the sockets that hold it.
pub(super) fn choose(
    relays: &Relays,
    bindings: &[PortBinding],
    options: &Bridge,
    endpoint: &Endpoint,
) -> Result<(Vec<Published>, Vec<Held>), Fault> {
    let (mut published, mut held) = (Vec::new(), Vec::new());
    for binding in bindings {
        let places = plan::publications(binding, options.host_binding, endpoint)?;
        let translates = |place: &(IpAddr, IpAddr)| options.mode(place.1.is_ipv4()).translates();
        let (places, open): (Vec<_>, Vec<_>) = places.into_iter().partition(translates);
        published.extend(open.iter().map(|(host, to)| Published {
            protocol: binding.protocol,
            host: *host,
            host_port: 0,
            to: *to,
            to_port: binding.container_port,
        }));
        if places.is_empty() {
            continue;
        }
        let (port, sockets) = one(relays, binding, &places)?;
        held.extend(sockets);
        published.extend(places.iter().map(|(host, to)| Published {
            protocol: binding.protocol,
            host: *host,
            host_port: port,
            to: *to,
            to_port: binding.container_port,
        }));
    }
    Ok((published, held))
}

/// One port that is free on all places.
fn one(
    relays: &Relays,
    binding: &PortBinding,
    places: &[(IpAddr, IpAddr)],
) -> Result<(u16, Vec<Held>), Fault> {
    let ports = plan::host_ports(binding)?;
    let repeats = if ports == (0..=0) { ATTEMPTS } else { 1 };
    let mut last = None;
    for port in ports.clone().cycle_few(repeats) {
        match on_all(relays, binding, port, places) {
            Ok(found) => return Ok(found),
            Err(error) => last = Some(error),
        }
    }
    let (first, end) = (*ports.start(), *ports.end());
    let range = if first == end {
        first.to_string()
    } else {
        format!("{first}-{end}")
    };
    let text = format!(
        "publish port {}/{} on host port {range}",
        binding.container_port,
        binding.protocol.as_str()
    );
    let Some(error) = last else {
        return Err(Fault::exhausted(text));
    };
    let kind = match error.errno() {
        Some(ADDRESS_IN_USE) => FaultKind::InUse,
        Some(ADDRESS_NOT_AVAILABLE) => FaultKind::Invalid,
        Some(PROTOCOL_NOT_SUPPORTED) => FaultKind::Unsupported,
        _ => FaultKind::Unavailable,
    };
    Err(Fault::new(kind, text).because(error))
}

const ADDRESS_IN_USE: i32 = 98;
const ADDRESS_NOT_AVAILABLE: i32 = 99;
const PROTOCOL_NOT_SUPPORTED: i32 = 93;

fn on_all(
    relays: &Relays,
    binding: &PortBinding,
    port: u16,
    places: &[(IpAddr, IpAddr)],
) -> Result<(u16, Vec<Held>), kernel::Error> {
    let mut held: Vec<Held> = Vec::new();
    for (host, to) in places {
        // What the kernel chose for the first place is wanted on the others.
        let port = held.first().map_or(port, Held::port);
        let to = SocketAddr::new(*to, binding.container_port);
        held.push(Held::take(
            relays,
            binding.protocol,
            SocketAddr::new(*host, port),
            to,
        )?);
    }
    let chosen = held.first().map_or(port, Held::port);
    Ok((chosen, held))
}

/// Holds the ports of a record again, after a restart; what somebody else took meanwhile is told.
pub(super) fn hold_again(relays: &Relays, endpoint: &Endpoint) -> Vec<Held> {
    let again = |published: &Published| {
        let at = SocketAddr::new(published.host, published.host_port);
        let to = SocketAddr::new(published.to, published.to_port);
        Held::take(relays, published.protocol, at, to)
            .inspect_err(|error| tracing::warn!(endpoint = %endpoint.at.endpoint, %at, %error, "a published port is held by somebody else"))
            .ok()
    };
    let translated = endpoint.published.iter().filter(|published| !published.is_open());
    translated.filter_map(again).collect()
}

trait CycleFew: Iterator + Clone {
    /// The items again and again.
    fn cycle_few(self, times: usize) -> impl Iterator<Item = Self::Item> {
        std::iter::repeat_n(self, times).flatten()
    }
}

impl<T: Iterator + Clone> CycleFew for T {}
