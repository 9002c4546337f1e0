//! Decisions: names, checks and answers. No kernel, no state.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use plugin_api::id::{MacAddr, NetworkId};
use plugin_api::network::{
    EndpointInterface, JoinLink, JoinPlan, NetworkSpec, PortBinding, Protocol, Subnet,
};
use plugin_api::{Fault, FaultKind};

use super::options::{self, Bridge, GatewayMode};
use super::records::{Endpoint, Network, NetworkPhase, Published};
use crate::ipam::pool::overlap;

/// Mark of links of ours.
pub const MARK: &str = "longshore:";
/// Group of links that are about to be deleted.
pub const DYING: u32 = 0x6c73_0001;

/// Alias of a network's bridge.
pub fn bridge_alias(id: &NetworkId) -> String {
    format!("{MARK}network:{id}")
}

/// Alias of an endpoint's link.
pub fn link_alias(endpoint: &plugin_api::id::EndpointId) -> String {
    format!("{MARK}{endpoint}")
}

/// Names of the outer and the inner end of an endpoint's link: the same id, the same names.
pub fn link_names(endpoint: &plugin_api::id::EndpointId) -> (String, String) {
    let short = hash(endpoint.as_str()) >> 16;
    (format!("lso{short:012x}"), format!("lsi{short:012x}"))
}

/// FNV-1a: ids are random already, hostile ones collide at worst and are refused by the kernel.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The link-layer address that goes with an address of a network: whoever gets the address next has it too,
/// so neighbours who remember it go on. None for an endpoint without address.
pub fn mac_of(network: &NetworkId, interface: &EndpointInterface) -> Option<MacAddr> {
    let address = interface.address.or(interface.address_v6)?.addr();
    let [_, _, bytes @ ..] = hash(&format!("{network} {address}")).to_be_bytes();
    Some(local_mac(bytes))
}

/// A link-layer address of one station, locally administered.
pub fn local_mac(mut random: [u8; 6]) -> MacAddr {
    random[0] = random[0] & 0xfc | 0x02;
    MacAddr(random)
}

/// The subnet of each family that is in use; more than one of a family is refused.
pub fn subnets(spec: &NetworkSpec) -> Result<Vec<&Subnet>, Fault> {
    let families = [
        (spec.enable_ipv4, &spec.ipv4, "IPv4"),
        (spec.enable_ipv6, &spec.ipv6, "IPv6"),
    ];
    let mut found = Vec::new();
    for (enabled, list, name) in families {
        if list.len() > 1 {
            let text = format!(
                "network {} has {} {name} subnets, a bridge takes one",
                spec.id.short(),
                list.len()
            );
            return Err(Fault::invalid(text));
        }
        found.extend(list.first().filter(|_| enabled));
    }
    Ok(found)
}

/// The addresses of the bridge.
pub fn gateways(spec: &NetworkSpec) -> Vec<IpNet> {
    let subnets = subnets(spec).unwrap_or_default();
    let options = options::parse(&spec.options).unwrap_or_default();
    let gateways = subnets.into_iter().filter_map(|subnet| subnet.gateway);
    gateways
        .filter(|gateway| options.has_address(gateway.addr().is_ipv4()))
        .collect()
}

/// Plans a network; `others` are those that are there.
pub fn network<'a>(
    spec: &NetworkSpec,
    mut others: impl Iterator<Item = &'a Network>,
    mac: MacAddr,
) -> Result<(Network, Bridge), Fault> {
    let options = options::parse(&spec.options)?;
    let mine = subnets(spec)?;
    if !spec.internal && [options.mode_v4, options.mode_v6].contains(&GatewayMode::Isolated) {
        let text = format!(
            "network {}: gateway mode isolated is for internal networks",
            spec.id.short()
        );
        return Err(Fault::invalid(text));
    }
    for subnet in &mine {
        if let Some(gateway) = subnet
            .gateway
            .filter(|gateway| !subnet.pool.contains(&gateway.addr()))
        {
            let text = format!("gateway {} lies outside subnet {}", gateway.addr(), subnet.pool);
            return Err(Fault::invalid(text));
        }
    }
    let bridge = options
        .name
        .clone()
        .unwrap_or_else(|| format!("br-{}", spec.id.short()));
    if let Some((other, why)) = others.find_map(|other| Some((other, clash(other, &bridge, &mine)?))) {
        let text = format!(
            "network {}: {why} of network {}",
            spec.id.short(),
            other.spec.id.short()
        );
        return Err(Fault::new(FaultKind::Conflict, text));
    }
    let network = Network {
        spec: spec.clone(),
        bridge,
        is_adopted: false,
        mac,
        phase: NetworkPhase::Making,
    };
    Ok((network, options))
}

fn clash(other: &Network, bridge: &str, mine: &[&Subnet]) -> Option<String> {
    if other.bridge == bridge {
        return Some(format!("bridge {bridge} is that"));
    }
    let theirs = subnets(&other.spec).unwrap_or_default();
    let real = |subnet: &&Subnet| subnet.pool.prefix_len() > 0;
    let both = mine.iter().filter(|subnet| real(subnet));
    both.flat_map(|a| {
        theirs
            .iter()
            .filter(|subnet| real(subnet))
            .map(move |b| (a.pool, b.pool))
    })
    .find(|(a, b)| overlap(*a, *b))
    .map(|(a, b)| format!("subnet {a} overlaps {b}"))
}

/// What the engine is told to do in the sandbox.
pub fn join(network: &Network, endpoint: &Endpoint, prefix: &str) -> JoinPlan {
    let mut plan = JoinPlan {
        link: Some(JoinLink {
            source: endpoint.inner.clone(),
            prefix: prefix.to_owned(),
        }),
        ..JoinPlan::default()
    };
    // Internal networks have no way out, so nobody is told one.
    if network.spec.internal {
        return plan;
    }
    for subnet in subnets(&network.spec).unwrap_or_default() {
        let other = |key: &str| subnet.auxiliary.get(key).map(IpNet::addr);
        let own = subnet.gateway.map(|gateway| gateway.addr());
        match subnet.pool {
            IpNet::V4(_) => {
                if let Some(IpAddr::V4(v4)) = other("DefaultGatewayIPv4").or(own) {
                    plan.gateway = Some(v4);
                }
            }
            IpNet::V6(_) => {
                let gateway = other("DefaultGatewayIPv6").or(own);
                if let Some(IpAddr::V6(v6)) = gateway.filter(|_| endpoint.asked.address_v6.is_some()) {
                    plan.gateway_v6 = Some(v6);
                }
            }
        }
    }
    plan
}

/// The records on an endpoint's way to no published ports.
#[derive(Debug)]
pub struct Revocation {
    /// While the ports are taken back; a restart goes on.
    pub leaving: Endpoint,
    /// Behind it.
    pub gone: Endpoint,
}

/// Plans to take an endpoint's ports back; none where it has none.
pub fn revocation(endpoint: &Endpoint) -> Option<Revocation> {
    if endpoint.bindings.is_empty() && endpoint.published.is_empty() {
        return None;
    }
    let leaving = Endpoint {
        is_programmed: false,
        ..endpoint.clone()
    };
    let gone = Endpoint {
        bindings: Vec::new(),
        published: Vec::new(),
        ..leaving.clone()
    };
    Some(Revocation { leaving, gone })
}

/// Whether packets to an address and port are those that a port is published for.
pub fn is_to(at: SocketAddr, published: &Published) -> bool {
    let is_there = published.host.is_unspecified() || published.host == at.ip();
    is_there && at.port() == published.host_port
}

/// Host addresses that a binding is published on, each with the container's address behind it.
pub fn publications(
    binding: &PortBinding,
    default: Option<IpAddr>,
    endpoint: &Endpoint,
) -> Result<Vec<(IpAddr, IpAddr)>, Fault> {
    let v4 = endpoint.asked.address.map(|net| net.addr());
    let v6 = endpoint.asked.address_v6.map(|net| net.addr());
    let any4 = IpAddr::from([0; 4]);
    let any6 = IpAddr::from([0u16; 8]);
    let what = || {
        format!(
            "publish port {}/{}",
            binding.container_port,
            binding.protocol.as_str()
        )
    };
    let found: Vec<_> = match binding.host_ip.or(default) {
        Some(host) if host.is_loopback() && binding.protocol == Protocol::Sctp => {
            let text = format!(
                "{} on {host}: on loopback addresses only TCP and UDP are supported",
                what()
            );
            return Err(Fault::unsupported(text));
        }
        Some(host) => {
            let to = if host.is_ipv4() { v4 } else { v6 };
            to.map(|to| (host, to)).into_iter().collect()
        }
        None => [(any4, v4), (any6, v6)]
            .into_iter()
            .filter_map(|(host, to)| Some((host, to?)))
            .collect(),
    };
    if found.is_empty() {
        let text = format!(
            "{}: endpoint {} has no address of that family",
            what(),
            endpoint.at.endpoint.short()
        );
        return Err(Fault::invalid(text));
    }
    Ok(found)
}

/// Host ports to try for a binding, in order; 0 is any.
pub fn host_ports(binding: &PortBinding) -> Result<std::ops::RangeInclusive<u16>, Fault> {
    let (first, last) = (binding.host_port, binding.host_port_end.max(binding.host_port));
    if binding.container_port == 0 || binding.host_port_end != 0 && binding.host_port_end < first {
        let text = format!(
            "port binding {first}-{}:{} makes no sense",
            binding.host_port_end, binding.container_port
        );
        return Err(Fault::invalid(text));
    }
    Ok(if first == 0 { 0..=0 } else { first..=last })
}

#[cfg(test)]
mod tests {
    use plugin_api::id::EndpointId;

    use super::*;
    use crate::bridge::tests::{endpoint_record, network_spec};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn an_address_keeps_its_link_layer_address_and_shares_it_with_no_other() {
        let of = |network: &str, address: &str| {
            let interface = EndpointInterface {
                address: Some(address.parse().unwrap()),
                ..EndpointInterface::default()
            };
            mac_of(&NetworkId::new(network).unwrap(), &interface).unwrap()
        };
        let mut all: Vec<_> = (0..=255u8)
            .flat_map(|a| (0..=255u8).map(move |b| (a, b)))
            .map(|(a, b)| of("one", &format!("10.9.{a}.{b}/16")).0)
            .collect();
        assert!(
            all.iter().all(|mac| mac[0] & 3 == 2),
            "one station, locally administered"
        );
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 65_536);
        assert_eq!(of("one", "10.9.0.2/24"), of("one", "10.9.0.2/24"));
        assert_ne!(of("one", "10.9.0.2/24"), of("two", "10.9.0.2/24"));
        let nobody = EndpointInterface::default();
        assert_eq!(mac_of(&NetworkId::new("one").unwrap(), &nobody), None);
    }

    #[test]
    fn link_names_fit_and_differ() {
        let names = |text: &str| link_names(&EndpointId::new(text).unwrap());
        let (outer, inner) = names(&"f".repeat(128));
        assert!(outer.len() <= 15 && inner.len() <= 15 && outer != inner);
        assert_ne!(names("a"), names("b"));
        assert_eq!(names("a"), names("a"));
    }

    #[test]
    fn networks_that_would_meet_are_refused() {
        let (first, _) = network(&network_spec("one", "10.9.0.0/24"), [].iter(), MAC).unwrap();
        assert_eq!(first.bridge, "br-one");
        let plan = |spec: &NetworkSpec| network(spec, [&first].into_iter(), MAC).map_err(|fault| fault.kind);
        assert_eq!(
            plan(&network_spec("two", "10.9.0.128/25")),
            Err(FaultKind::Conflict)
        );
        let mut same_name = network_spec("two", "10.10.0.0/24");
        same_name.options.insert("name".into(), "br-one".into());
        assert_eq!(plan(&same_name), Err(FaultKind::Conflict));
        assert!(plan(&network_spec("two", "10.10.0.0/24")).is_ok());
        let mut outside = network_spec("two", "10.10.0.0/24");
        outside.ipv4[0].gateway = Some("10.11.0.1/24".parse().unwrap());
        assert_eq!(plan(&outside), Err(FaultKind::Invalid));
    }

    #[test]
    fn an_internal_network_tells_no_gateway() {
        let endpoint = endpoint_record("one", "e", "10.9.0.2/24");
        let mut spec = network_spec("one", "10.9.0.0/24");
        let plan = |spec: &NetworkSpec| join(&network(spec, [].iter(), MAC).unwrap().0, &endpoint, "eth");
        assert_eq!(plan(&spec).gateway, Some("10.9.0.1".parse().unwrap()));
        let other = "10.9.0.77/24".parse().unwrap();
        spec.ipv4[0].auxiliary.insert("DefaultGatewayIPv4".into(), other);
        assert_eq!(plan(&spec).gateway, Some("10.9.0.77".parse().unwrap()));
        spec.internal = true;
        assert_eq!(plan(&spec).gateway, None);
    }

    #[test]
    fn bindings_are_checked_before_anything_happens() {
        let endpoint = endpoint_record("one", "e", "10.9.0.2/24");
        let binding = |host: Option<&str>, from, to| PortBinding {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: host.map(|host| host.parse().unwrap()),
            host_port: from,
            host_port_end: to,
        };
        let kind = |host| publications(&binding(host, 0, 0), None, &endpoint).map_err(|fault| fault.kind);
        assert!(kind(Some("127.0.0.1")).is_ok());
        let sctp = PortBinding {
            protocol: Protocol::Sctp,
            ..binding(Some("127.0.0.1"), 0, 0)
        };
        let refused = publications(&sctp, None, &endpoint).map_err(|fault| fault.kind);
        assert_eq!(refused, Err(FaultKind::Unsupported));
        assert_eq!(kind(Some("::")), Err(FaultKind::Invalid));
        assert_eq!(kind(None).unwrap().len(), 1);
        assert_eq!(host_ports(&binding(None, 80, 90)).unwrap(), 80..=90);
        assert_eq!(host_ports(&binding(None, 80, 0)).unwrap(), 80..=80);
        assert!(host_ports(&binding(None, 90, 80)).is_err());
    }

    #[test]
    fn a_revocation_leaves_no_port_and_nothing_else_changes() {
        let mut endpoint = endpoint_record("one", "e", "10.9.0.2/24");
        assert!(revocation(&endpoint).is_none());
        endpoint.is_programmed = true;
        endpoint.published.push(super::super::records::Published {
            protocol: Protocol::Tcp,
            host: [0; 4].into(),
            host_port: 80,
            to: [10, 9, 0, 2].into(),
            to_port: 80,
        });
        let steps = revocation(&endpoint).unwrap();
        assert_eq!(steps.leaving.published, endpoint.published);
        assert!(!steps.leaving.is_programmed);
        endpoint.published.clear();
        endpoint.is_programmed = false;
        assert_eq!(steps.gone, endpoint);
    }

    #[test]
    fn records_survive_their_encoding() {
        let mut spec = network_spec("one", "10.9.0.0/24");
        spec.options.insert("mtu".into(), "1400".into());
        spec.ipv4[0]
            .auxiliary
            .insert("r".into(), "10.9.0.9/24".parse().unwrap());
        let (network, _) = network(&spec, [].iter(), MAC).unwrap();
        assert_eq!(Network::decode(&network.encode()).unwrap(), network);
        let endpoint = endpoint_record("one", "e", "10.9.0.2/24");
        assert_eq!(Endpoint::decode(&endpoint.encode()).unwrap(), endpoint);
    }
}
