//! netavark plugins: a network or a container's wish on standard input, the answer on standard output.

#![allow(
    clippy::struct_field_names,
    reason = "fields are called what netavark calls them"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::cni::DEFAULT_SOCKET;
use super::{bytes, nullable, options_of};
use crate::door::{Attached, Leg, NetworkWish, SubnetWish, endpoint_id};
use crate::fault::Fault;
use crate::id::{NetworkId, quoted};
use crate::network::{PortBinding, Protocol, StaticRoute};

/// Option of a network that names the daemon's socket; the others are the network driver's.
pub const SOCKET: &str = "socket";

/// The address driver that is told to Podman, so that it does not give out addresses itself.
const IPAM: &str = "longshore";

#[derive(Deserialize, Default)]
#[serde(default)]
struct Network {
    id: String,
    #[serde(deserialize_with = "nullable")]
    network_interface: String,
    #[serde(deserialize_with = "nullable")]
    subnets: Vec<Subnet>,
    #[serde(deserialize_with = "nullable")]
    routes: Vec<Route>,
    ipv6_enabled: bool,
    internal: bool,
    #[serde(deserialize_with = "nullable")]
    network_dns_servers: Vec<IpAddr>,
    #[serde(deserialize_with = "nullable")]
    options: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Subnet {
    subnet: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    lease_range: Option<Range>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    start_ip: Option<IpAddr>,
    end_ip: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Route {
    destination: IpNet,
    gateway: IpAddr,
}

#[derive(Deserialize)]
struct Setup {
    container_id: String,
    #[serde(default, deserialize_with = "nullable")]
    port_mappings: Vec<PortMapping>,
    network: Network,
    #[serde(default, deserialize_with = "nullable")]
    network_options: Options,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Options {
    interface_name: String,
    #[serde(deserialize_with = "nullable")]
    static_ips: Vec<IpAddr>,
    static_mac: Option<String>,
    #[serde(deserialize_with = "nullable")]
    options: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct PortMapping {
    container_port: u16,
    host_port: u16,
    #[serde(default, deserialize_with = "nullable")]
    host_ip: String,
    #[serde(default, deserialize_with = "nullable")]
    protocol: String,
    #[serde(default)]
    range: u16,
}

/// A container's wish, checked.
#[derive(Debug)]
pub struct Call {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The network.
    pub network: NetworkWish,
    /// The leg.
    pub leg: Leg,
    dns: Vec<IpAddr>,
}

fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::invalid(format!("read the {what}")).because(error))
}

/// Checks a new network and answers what Podman shall store: addresses are ours, and nobody resolves names.
///
/// # Errors
/// What the driver would refuse later is refused here, as far as it can be told without one.
pub fn create(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let network: Network = parse("network", body)?;
    let wish = wish(&network)?;
    let mut raw: Map<String, Value> = parse("network", body)?;
    raw.insert("ipam_options".into(), json!({"driver": IPAM}));
    raw.insert("dns_enabled".into(), json!(false));
    let is_v6 = wish.0.subnets.iter().any(|subnet| subnet.v6);
    raw.insert("ipv6_enabled".into(), json!(is_v6));
    Ok(bytes(&Value::Object(raw)))
}

fn wish(network: &Network) -> Result<(NetworkWish, PathBuf), Fault> {
    let mut options = options_of(&network.options)?;
    let socket = PathBuf::from(
        options
            .remove(SOCKET)
            .unwrap_or_else(|| DEFAULT_SOCKET.to_owned()),
    );
    if !socket.is_absolute() {
        let text = quoted(&socket.to_string_lossy());
        return Err(Fault::invalid(format!(
            "option {SOCKET}: {text} is no absolute path"
        )));
    }
    if !network.network_interface.is_empty() {
        options.insert("name".into(), network.network_interface.clone());
    }
    let mut subnets = network
        .subnets
        .iter()
        .map(subnet)
        .collect::<Result<Vec<_>, _>>()?;
    for v6 in [false, true] {
        let count = subnets.iter().filter(|one| one.v6 == v6).count();
        if count > 1 {
            return Err(Fault::invalid(format!(
                "{count} subnets of one family, a network takes one"
            )));
        }
        let wanted = if v6 {
            network.ipv6_enabled
        } else {
            network.subnets.is_empty()
        };
        if count == 0 && wanted {
            subnets.push(SubnetWish {
                subnet: None,
                range: None,
                gateway: None,
                v6,
            });
        }
    }
    let wish = NetworkWish {
        id: NetworkId::new(network.id.as_str())?,
        options,
        is_internal: network.internal,
        subnets,
    };
    Ok((wish, socket))
}

fn subnet(given: &Subnet) -> Result<SubnetWish, Fault> {
    let net = given.subnet.trunc();
    let range = given
        .lease_range
        .as_ref()
        .map(|range| range_of(net, range))
        .transpose()?;
    Ok(SubnetWish {
        subnet: Some(net),
        range: range.filter(|range| *range != net),
        gateway: given.gateway,
        v6: net.addr().is_ipv6(),
    })
}

/// The largest block that lies within a range of addresses, whose ends may be left open.
fn range_of(net: IpNet, range: &Range) -> Result<IpNet, Fault> {
    let first = range.start_ip.unwrap_or(net.network());
    let last = range.end_ip.unwrap_or(net.broadcast());
    if !net.contains(&first) || !net.contains(&last) || first > last {
        return Err(Fault::invalid(format!(
            "lease range {first} to {last} does not lie in {net}"
        )));
    }
    let blocks: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ipnet::Ipv4Subnets::new(a, b, 0)
            .map(|net: Ipv4Net| net.into())
            .collect(),
        (IpAddr::V6(a), IpAddr::V6(b)) => ipnet::Ipv6Subnets::new(a, b, 0)
            .map(|net: Ipv6Net| net.into())
            .collect(),
        _ => Vec::new(),
    };
    let largest = blocks.into_iter().min_by_key(IpNet::prefix_len);
    largest.ok_or_else(|| Fault::invalid(format!("lease range {first} to {last} is empty")))
}

/// Reads what `setup` and `teardown` are told.
pub fn setup_in(netns: &Path, body: &[u8]) -> Result<Call, Fault> {
    let read: Setup = parse("container's options", body)?;
    let (network, socket) = wish(&read.network)?;
    let link = read.network_options.interface_name;
    let is_link = !link.is_empty()
        && link.len() <= 15
        && !link.contains(|c: char| "/:".contains(c) || c.is_whitespace());
    if !is_link || [".", ".."].contains(&link.as_str()) {
        return Err(Fault::invalid(format!("{} is no name of a link", quoted(&link))));
    }
    if let Some(key) = read.network_options.options.keys().next() {
        return Err(Fault::invalid(format!(
            "option {} of a container is unknown; there are none",
            quoted(key)
        )));
    }
    let ports = read.port_mappings.iter().map(ports);
    let routes = read.network.routes.iter().map(|route| StaticRoute {
        destination: route.destination.trunc(),
        next_hop: Some(route.gateway),
    });
    let mac = read.network_options.static_mac.filter(|mac| !mac.is_empty());
    Ok(Call {
        socket,
        leg: Leg {
            endpoint: endpoint_id(&read.container_id, &link),
            link,
            sandbox: netns.to_owned(),
            addresses: read.network_options.static_ips,
            mac: mac.map(|mac| mac.parse()).transpose()?,
            ports: ports.collect::<Result<Vec<_>, Fault>>()?.concat(),
            is_default: !network.is_internal,
            routes: routes.collect(),
        },
        network,
        dns: read.network.network_dns_servers,
    })
}

fn ports(mapping: &PortMapping) -> Result<Vec<PortBinding>, Fault> {
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Fault::invalid(format!("{} is no address", quoted(text))))?,
        ),
    };
    let protocols = if mapping.protocol.is_empty() {
        "tcp"
    } else {
        &mapping.protocol
    };
    let mut all = Vec::new();
    for word in protocols.split(',') {
        let protocol = match word {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(Fault::invalid(format!("protocol {} is unknown", quoted(other)))),
        };
        for step in 0..mapping.range.max(1) {
            let beyond = || Fault::invalid("a range of ports goes beyond 65535");
            let host_port = mapping.host_port.checked_add(step).ok_or_else(beyond)?;
            all.push(PortBinding {
                protocol,
                container_port: mapping.container_port.checked_add(step).ok_or_else(beyond)?,
                host_ip,
                host_port,
                host_port_end: host_port,
            });
        }
    }
    Ok(all)
}

/// The answer to `setup`.
pub fn status(call: &Call, attached: &Attached) -> Vec<u8> {
    let subnets = attached.addresses.iter().map(|(net, gateway)| {
        let mut row = Map::from_iter([("ipnet".to_owned(), json!(net))]);
        row.extend(gateway.map(|gateway| ("gateway".to_owned(), json!(gateway))));
        Value::Object(row)
    });
    let link = json!({
        "mac_address": attached.inner.mac.to_string(),
        "subnets": subnets.collect::<Vec<_>>(),
    });
    bytes(&json!({
        "dns_search_domains": [],
        "dns_server_ips": call.dns,
        "interfaces": {call.leg.link.as_str(): link},
    }))
}

/// The answer to `info`.
pub fn info(version: &str) -> Vec<u8> {
    bytes(&json!({"version": version, "api_version": "1.0.0"}))
}

/// An error, for standard output.
pub fn refusal(sentence: &str) -> Vec<u8> {
    bytes(&json!({"error": sentence}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = r#"{"name":"lnet","id":"2f259bab93aa","driver":"longshore-netavark",
        "created":"0001-01-01T00:00:00Z",
        "subnets":[{"subnet":"10.66.0.0/24","lease_range":{"start_ip":"10.66.0.128","end_ip":"10.66.0.255"}}],
        "ipv6_enabled":false,"internal":false,"dns_enabled":true,"network_dns_servers":["9.9.9.9"],
        "labels":{"a":"b"},"options":{"mtu":"1400","socket":"/run/x.sock"}}"#;

    #[test]
    fn a_new_network_keeps_its_fields_and_leaves_addresses_to_us() {
        let answer: Value = serde_json::from_slice(&create(NETWORK.as_bytes()).unwrap()).unwrap();
        assert_eq!(answer["ipam_options"]["driver"], "longshore");
        assert_eq!(answer["dns_enabled"], false);
        for key in ["name", "id", "driver", "labels", "options", "subnets", "created"] {
            let before: Value = serde_json::from_str(NETWORK).unwrap();
            assert_eq!(answer[key], before[key], "{key}");
        }
    }

    #[test]
    fn a_container_is_read_with_its_ports_and_addresses() {
        let body = format!(
            r#"{{"container_id":"c0ffee","container_name":"p1",
            "port_mappings":[{{"container_port":80,"host_ip":"127.0.0.1","host_port":8080,"protocol":"tcp,udp","range":2}}],
            "network":{NETWORK},
            "network_options":{{"aliases":["al"],"interface_name":"eth0","static_ips":["10.66.0.130"],
              "static_mac":"aa:bb:cc:dd:ee:00","options":null}}}}"#
        );
        let call = setup_in(Path::new("/run/netns/x"), body.as_bytes()).unwrap();
        assert_eq!(call.socket, Path::new("/run/x.sock"));
        assert_eq!(
            call.network.options,
            BTreeMap::from([("mtu".into(), "1400".into())])
        );
        assert_eq!(
            call.network.subnets[0].range,
            Some("10.66.0.128/25".parse().unwrap())
        );
        let ports = call
            .leg
            .ports
            .iter()
            .map(|p| (p.protocol.as_str(), p.host_port, p.container_port));
        assert_eq!(
            ports.collect::<Vec<_>>(),
            [
                ("tcp", 8080, 80),
                ("tcp", 8081, 81),
                ("udp", 8080, 80),
                ("udp", 8081, 81)
            ]
        );
        let attached = Attached {
            host: Vec::new(),
            inner: crate::door::Link {
                name: "eth0".into(),
                mac: call.leg.mac.unwrap(),
                mtu: 1400,
            },
            addresses: vec![(
                "10.66.0.130/24".parse().unwrap(),
                Some("10.66.0.1".parse().unwrap()),
            )],
            routes: Vec::new(),
        };
        let status: Value = serde_json::from_slice(&status(&call, &attached)).unwrap();
        let wanted = json!({"dns_search_domains":[],"dns_server_ips":["9.9.9.9"],"interfaces":{"eth0":{
            "mac_address":"aa:bb:cc:dd:ee:00","subnets":[{"gateway":"10.66.0.1","ipnet":"10.66.0.130/24"}]}}});
        assert_eq!(status, wanted);
    }

    #[test]
    fn bad_networks_are_refused_with_a_sentence() {
        for (from, to, part) in [
            ("\"10.66.0.0/24\"", "\"10.66.0.0/99\"", "read the network"),
            ("\"10.66.0.128\"", "\"10.67.0.128\"", "does not lie in"),
            ("/run/x.sock", "x.sock", "no absolute path"),
            ("2f259bab93aa", "../x", "network id"),
        ] {
            let fault = create(NETWORK.replace(from, to).as_bytes()).unwrap_err();
            assert!(fault.sentence().contains(part), "{}", fault.sentence());
        }
    }
}
