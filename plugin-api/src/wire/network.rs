//! `NetworkDriver.*`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Loose, Verb, bytes, loose_of, nullable, options_of, parse_maybe, reply, request, show, text_of};
use crate::Options;
use crate::fault::Fault;
use crate::id::{EndpointId, NetworkId, SandboxKey};
use crate::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExposedPort, GatewayCheck, JoinLink,
    JoinPlan, JoinSpec, NetworkAllocation, NetworkCapabilities, NetworkSpec, Node, PortBinding, Protocol,
    StaticRoute, Subnet,
};
use crate::volume::Scope;

const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
const PORT_MAP: &str = "com.docker.network.portmap";
const EXPOSED: &str = "com.docker.network.endpoint.exposedports";

// === capabilities ===

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Capabilities {
    #[serde(rename = "Scope", deserialize_with = "nullable")]
    scope: String,
    #[serde(rename = "ConnectivityScope", deserialize_with = "nullable")]
    connectivity: String,
    #[serde(
        rename = "GwAllocChecker",
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    checks_gateway: bool,
}

/// Reply to `GetCapabilities`.
pub fn capabilities_reply(can: NetworkCapabilities) -> Vec<u8> {
    bytes(&Capabilities {
        scope: can.scope.as_str().into(),
        connectivity: can.connectivity.as_str().into(),
        checks_gateway: can.checks_gateway,
    })
}

/// Capabilities in the reply to `GetCapabilities`; engines refuse any other scope.
pub fn capabilities_reply_in(body: &[u8]) -> Result<NetworkCapabilities, Fault> {
    let read: Capabilities = reply(Verb::NetworkCapabilities, body)?;
    let scope = |text: &str| match text {
        "local" => Ok(Scope::Local),
        "global" => Ok(Scope::Global),
        other => Err(Fault::internal(format!(
            "the plugin announced scope {}",
            crate::id::quoted(other)
        ))),
    };
    let own = scope(&read.scope)?;
    let connectivity = if read.connectivity.is_empty() {
        own
    } else {
        scope(&read.connectivity)?
    };
    Ok(NetworkCapabilities {
        scope: own,
        connectivity,
        checks_gateway: read.checks_gateway,
    })
}

// === networks ===

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct IpamData {
    #[serde(rename = "AddressSpace", deserialize_with = "nullable")]
    space: String,
    #[serde(rename = "Pool", deserialize_with = "nullable")]
    pool: String,
    #[serde(
        rename = "Gateway",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    gateway: String,
    #[serde(
        rename = "AuxAddresses",
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    auxiliary: BTreeMap<String, String>,
}

impl TryFrom<&IpamData> for Subnet {
    type Error = Fault;

    fn try_from(data: &IpamData) -> Result<Self, Fault> {
        let pool = parse_maybe("Pool", &data.pool)?
            .ok_or_else(|| Fault::invalid("a subnet came without its pool"))?;
        let auxiliary = data.auxiliary.iter().filter_map(|(name, text)| {
            let parsed = parse_maybe("AuxAddresses", text).transpose()?;
            Some(parsed.map(|address| (name.clone(), address)))
        });
        Ok(Self {
            address_space: data.space.clone(),
            pool,
            gateway: parse_maybe("Gateway", &data.gateway)?,
            auxiliary: auxiliary.collect::<Result<_, Fault>>()?,
        })
    }
}

impl From<&Subnet> for IpamData {
    fn from(subnet: &Subnet) -> Self {
        let auxiliary = subnet
            .auxiliary
            .iter()
            .map(|(name, address)| (name.clone(), address.to_string()));
        Self {
            space: subnet.address_space.clone(),
            pool: subnet.pool.to_string(),
            gateway: show(subnet.gateway.as_ref()),
            auxiliary: auxiliary.collect(),
        }
    }
}

fn subnets_in(rows: &[IpamData]) -> Result<Vec<Subnet>, Fault> {
    rows.iter().map(TryInto::try_into).collect()
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct NetworkFields {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    id: String,
    #[serde(
        rename = "Options",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    options: Loose,
    #[serde(
        rename = "IPv4Data",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    ipv4: Vec<IpamData>,
    #[serde(
        rename = "IPv6Data",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    ipv6: Vec<IpamData>,
}

fn flag_in(options: &Loose, key: &str, absent: bool) -> bool {
    options
        .get(key)
        .and_then(text_of)
        .map_or(absent, |text| text == "true")
}

fn generic_in(options: &Loose) -> Result<Options, Fault> {
    match options.get(GENERIC) {
        None | Some(Value::Null) => Ok(Options::new()),
        Some(Value::Object(map)) => options_of(&map.clone().into_iter().collect()),
        Some(_) => Err(Fault::invalid("the network's options are no map")),
    }
}

/// Body of `CreateNetwork`.
pub fn create_network_request(spec: &NetworkSpec) -> Vec<u8> {
    let generic = loose_of(&spec.options).into_iter().collect();
    let mut options = Loose::from([
        (GENERIC.to_owned(), Value::Object(generic)),
        (ENABLE_IPV4.to_owned(), Value::Bool(spec.enable_ipv4)),
        (ENABLE_IPV6.to_owned(), Value::Bool(spec.enable_ipv6)),
    ]);
    if spec.internal {
        options.insert(INTERNAL.into(), Value::Bool(true));
    }
    let rows = |subnets: &[Subnet]| subnets.iter().map(Into::into).collect();
    bytes(&NetworkFields {
        id: spec.id.to_string(),
        options,
        ipv4: rows(&spec.ipv4),
        ipv6: rows(&spec.ipv6),
    })
}

/// The network in the body of `CreateNetwork`.
pub fn create_network_request_in(body: &[u8]) -> Result<NetworkSpec, Fault> {
    let read: NetworkFields = request(Verb::NetworkCreate, body)?;
    Ok(NetworkSpec {
        id: NetworkId::new(read.id)?,
        options: generic_in(&read.options)?,
        enable_ipv4: flag_in(&read.options, ENABLE_IPV4, true),
        enable_ipv6: flag_in(&read.options, ENABLE_IPV6, false),
        internal: flag_in(&read.options, INTERNAL, false),
        ipv4: subnets_in(&read.ipv4)?,
        ipv6: subnets_in(&read.ipv6)?,
    })
}

/// The user's options in the body of `GwAllocCheck`.
pub fn gateway_check_request_in(body: &[u8]) -> Result<Options, Fault> {
    generic_in(&request::<NetworkFields>(Verb::NetworkGatewayCheck, body)?.options)
}

#[derive(Serialize)]
struct GatewayCheckReply {
    #[serde(rename = "SkipIPv4")]
    skip_ipv4: bool,
    #[serde(rename = "SkipIPv6")]
    skip_ipv6: bool,
}

/// Reply to `GwAllocCheck`.
pub fn gateway_check_reply(check: GatewayCheck) -> Vec<u8> {
    bytes(&GatewayCheckReply {
        skip_ipv4: check.skip_ipv4,
        skip_ipv6: check.skip_ipv6,
    })
}

/// Body of `DeleteNetwork` and `FreeNetwork`.
pub fn network_request(id: &NetworkId) -> Vec<u8> {
    bytes(&NetworkFields {
        id: id.to_string(),
        ..NetworkFields::default()
    })
}

/// The network in the body of `DeleteNetwork` and `FreeNetwork`.
pub fn network_request_in(verb: Verb, body: &[u8]) -> Result<NetworkId, Fault> {
    Ok(NetworkId::new(request::<NetworkFields>(verb, body)?.id)?)
}

/// The network in the body of `AllocateNetwork`, whose options are flat.
pub fn allocate_request_in(body: &[u8]) -> Result<NetworkAllocation, Fault> {
    let read: NetworkFields = request(Verb::NetworkAllocate, body)?;
    Ok(NetworkAllocation {
        id: NetworkId::new(read.id)?,
        options: options_of(&read.options)?,
        ipv4: subnets_in(&read.ipv4)?,
        ipv6: subnets_in(&read.ipv6)?,
    })
}

/// Reply to `AllocateNetwork`.
pub fn allocate_reply(options: &Options) -> Vec<u8> {
    bytes(&NetworkFields {
        options: loose_of(options),
        ..NetworkFields::default()
    })
}

// === endpoints ===

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Interface {
    #[serde(rename = "Address", deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    address_v6: String,
    #[serde(rename = "MacAddress", deserialize_with = "nullable")]
    mac: String,
}

impl From<&EndpointInterface> for Interface {
    fn from(noun: &EndpointInterface) -> Self {
        Self {
            address: show(noun.address.as_ref()),
            address_v6: show(noun.address_v6.as_ref()),
            mac: show(noun.mac.as_ref()),
        }
    }
}

impl TryFrom<&Interface> for EndpointInterface {
    type Error = Fault;

    fn try_from(wire: &Interface) -> Result<Self, Fault> {
        Ok(Self {
            address: parse_maybe("Address", &wire.address)?,
            address_v6: parse_maybe("AddressIPv6", &wire.address_v6)?,
            mac: parse_maybe("MacAddress", &wire.mac)?,
        })
    }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct EndpointFields {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    network: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    endpoint: String,
    #[serde(
        rename = "SandboxKey",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    sandbox: String,
    #[serde(rename = "Interface", skip_serializing_if = "Option::is_none")]
    interface: Option<Interface>,
    #[serde(
        rename = "Options",
        deserialize_with = "nullable",
        skip_serializing_if = "Loose::is_empty"
    )]
    options: Loose,
}

impl EndpointFields {
    fn of(at: &EndpointRef) -> Self {
        Self {
            network: at.network.to_string(),
            endpoint: at.endpoint.to_string(),
            ..Self::default()
        }
    }

    fn at(&self) -> Result<EndpointRef, Fault> {
        let (network, endpoint) = (self.network.as_str(), self.endpoint.as_str());
        Ok(EndpointRef {
            network: NetworkId::new(network)?,
            endpoint: EndpointId::new(endpoint)?,
        })
    }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct WirePort {
    #[serde(rename = "Proto")]
    protocol: u8,
    #[serde(rename = "IP", deserialize_with = "nullable")]
    ip: String,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "HostIP", deserialize_with = "nullable")]
    host_ip: String,
    #[serde(rename = "HostPort")]
    host_port: u16,
    #[serde(rename = "HostPortEnd")]
    host_port_end: u16,
}

fn protocol_in(number: u8) -> Result<Protocol, Fault> {
    Protocol::from_number(number).ok_or_else(|| {
        Fault::invalid(format!(
            "publish a port of IP protocol {number}: tcp, udp or sctp it must be"
        ))
    })
}

fn rows_in<T: serde::de::DeserializeOwned>(options: &Loose, key: &str) -> Result<Vec<T>, Fault> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|error| Fault::invalid(format!("read the option {key}")).because(super::brief(&error))),
    }
}

fn ports_in(options: &Loose) -> Result<Vec<PortBinding>, Fault> {
    let noun = |row: WirePort| {
        Ok(PortBinding {
            protocol: protocol_in(row.protocol)?,
            container_port: row.port,
            host_ip: parse_maybe("HostIP", &row.host_ip)?,
            host_port: row.host_port,
            host_port_end: row.host_port_end.max(row.host_port),
        })
    };
    rows_in::<WirePort>(options, PORT_MAP)?
        .into_iter()
        .map(noun)
        .collect()
}

fn exposed_in(options: &Loose) -> Result<Vec<ExposedPort>, Fault> {
    let noun = |row: WirePort| {
        Ok(ExposedPort {
            protocol: protocol_in(row.protocol)?,
            port: row.port,
        })
    };
    rows_in::<WirePort>(options, EXPOSED)?
        .into_iter()
        .map(noun)
        .collect()
}

fn ports_out(ports: &[PortBinding], exposed: &[ExposedPort], options: &Options) -> Loose {
    let port = |binding: &PortBinding| {
        serde_json::json!({
            "Proto": binding.protocol.number(), "IP": "", "Port": binding.container_port,
            "HostIP": show(binding.host_ip.as_ref()), "HostPort": binding.host_port,
            "HostPortEnd": binding.host_port_end,
        })
    };
    let expose = |row: &ExposedPort| serde_json::json!({"Proto": row.protocol.number(), "Port": row.port});
    let mut loose = loose_of(options);
    loose.insert(PORT_MAP.into(), ports.iter().map(port).collect());
    loose.insert(EXPOSED.into(), exposed.iter().map(expose).collect());
    loose
}

/// What a user may have set by `--driver-opt`: text values that the engine has not put there itself.
fn user_options_in(options: &Loose) -> Options {
    let own = |key: &&String| !key.starts_with("com.docker.network.endpoint.") && key.as_str() != PORT_MAP;
    let keys = options.keys().filter(own);
    keys.filter_map(|key| options[key].as_str().map(|text| (key.clone(), text.to_owned())))
        .collect()
}

/// Body of `CreateEndpoint`.
pub fn create_endpoint_request(spec: &EndpointSpec) -> Vec<u8> {
    let options = ports_out(&spec.ports, &spec.exposed, &spec.options);
    let interface = Some((&spec.interface).into());
    bytes(&EndpointFields {
        interface,
        options,
        ..EndpointFields::of(&spec.at)
    })
}

/// The endpoint in the body of `CreateEndpoint`.
pub fn create_endpoint_request_in(body: &[u8]) -> Result<EndpointSpec, Fault> {
    let read: EndpointFields = request(Verb::EndpointCreate, body)?;
    let interface = read.interface.as_ref().map(TryInto::try_into).transpose()?;
    Ok(EndpointSpec {
        at: read.at()?,
        interface: interface.unwrap_or_default(),
        ports: ports_in(&read.options)?,
        exposed: exposed_in(&read.options)?,
        options: user_options_in(&read.options),
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct EndpointReply {
    #[serde(rename = "Interface", skip_serializing_if = "Option::is_none")]
    interface: Option<Interface>,
}

/// Reply to `CreateEndpoint`: no interface at all where nothing was left open.
pub fn create_endpoint_reply(filled: &EndpointInterface) -> Vec<u8> {
    let empty = *filled == EndpointInterface::default();
    bytes(&EndpointReply {
        interface: (!empty).then(|| filled.into()),
    })
}

/// What the reply to `CreateEndpoint` filled in.
pub fn create_endpoint_reply_in(body: &[u8]) -> Result<EndpointInterface, Fault> {
    let read: EndpointReply = reply(Verb::EndpointCreate, body)?;
    read.interface
        .as_ref()
        .map(TryInto::try_into)
        .transpose()
        .map(Option::unwrap_or_default)
}

/// Body of the verbs that name an endpoint.
pub fn endpoint_request(at: &EndpointRef) -> Vec<u8> {
    bytes(&EndpointFields::of(at))
}

/// The endpoint in the body of the verbs that name one.
pub fn endpoint_request_in(verb: Verb, body: &[u8]) -> Result<EndpointRef, Fault> {
    request::<EndpointFields>(verb, body)?.at()
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct InfoReply {
    #[serde(rename = "Value", deserialize_with = "nullable")]
    value: Loose,
}

/// Reply to `EndpointOperInfo`.
pub fn info_reply(rows: &BTreeMap<String, String>) -> Vec<u8> {
    bytes(&InfoReply {
        value: loose_of(rows),
    })
}

/// Rows in the reply to `EndpointOperInfo`.
pub fn info_reply_in(body: &[u8]) -> Result<BTreeMap<String, String>, Fault> {
    let read: InfoReply = reply(Verb::EndpointInfo, body)?;
    let show = |value: &Value| text_of(value).unwrap_or_else(|| value.to_string());
    Ok(read
        .value
        .iter()
        .map(|(key, value)| (key.clone(), show(value)))
        .collect())
}

// === join ===

/// Body of `Join`.
pub fn join_request(spec: &JoinSpec) -> Vec<u8> {
    let (sandbox, options) = (spec.sandbox.as_str().to_owned(), loose_of(&spec.options));
    bytes(&EndpointFields {
        sandbox,
        options,
        ..EndpointFields::of(&spec.at)
    })
}

/// Endpoint and sandbox in the body of `Join`.
pub fn join_request_in(body: &[u8]) -> Result<JoinSpec, Fault> {
    let read: EndpointFields = request(Verb::Join, body)?;
    let options = user_options_in(&read.options);
    Ok(JoinSpec {
        at: read.at()?,
        sandbox: SandboxKey::new(read.sandbox)?,
        options,
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct LinkName {
    #[serde(rename = "SrcName", deserialize_with = "nullable")]
    source: String,
    #[serde(rename = "DstPrefix", deserialize_with = "nullable")]
    prefix: String,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Route {
    #[serde(rename = "Destination", deserialize_with = "nullable")]
    destination: String,
    #[serde(rename = "RouteType")]
    kind: u8,
    #[serde(rename = "NextHop", deserialize_with = "nullable")]
    next_hop: String,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct JoinReply {
    #[serde(rename = "InterfaceName", skip_serializing_if = "Option::is_none")]
    link: Option<LinkName>,
    #[serde(rename = "Gateway", deserialize_with = "nullable")]
    gateway: String,
    #[serde(rename = "GatewayIPv6", deserialize_with = "nullable")]
    gateway_v6: String,
    #[serde(rename = "StaticRoutes", deserialize_with = "nullable")]
    routes: Vec<Route>,
    #[serde(rename = "DisableGatewayService", deserialize_with = "nullable")]
    disable_gateway_service: bool,
}

/// Reply to `Join`.
pub fn join_reply(plan: &JoinPlan) -> Vec<u8> {
    let route = |route: &StaticRoute| Route {
        destination: route.destination.to_string(),
        kind: u8::from(route.next_hop.is_none()),
        next_hop: show(route.next_hop.as_ref()),
    };
    let name = |link: &JoinLink| LinkName {
        source: link.source.clone(),
        prefix: link.prefix.clone(),
    };
    bytes(&JoinReply {
        link: plan.link.as_ref().map(name),
        gateway: show(plan.gateway.as_ref()),
        gateway_v6: show(plan.gateway_v6.as_ref()),
        routes: plan.routes.iter().map(route).collect(),
        disable_gateway_service: plan.disable_gateway_service,
    })
}

/// The plan in the reply to `Join`.
pub fn join_reply_in(body: &[u8]) -> Result<JoinPlan, Fault> {
    let read: JoinReply = reply(Verb::Join, body)?;
    let route = |route: &Route| {
        let destination = parse_maybe("Destination", &route.destination)?;
        let destination = destination.ok_or_else(|| Fault::internal("the plugin gave a route to nowhere"))?;
        Ok(StaticRoute {
            destination,
            next_hop: parse_maybe("NextHop", &route.next_hop)?,
        })
    };
    let link = read.link.filter(|link| !link.source.is_empty());
    Ok(JoinPlan {
        link: link.map(|link| JoinLink {
            source: link.source,
            prefix: link.prefix,
        }),
        gateway: parse_maybe("Gateway", &read.gateway)?,
        gateway_v6: parse_maybe("GatewayIPv6", &read.gateway_v6)?,
        routes: read.routes.iter().map(route).collect::<Result<_, Fault>>()?,
        disable_gateway_service: read.disable_gateway_service,
    })
}

// === external connectivity and discovery ===

/// Body of `ProgramExternalConnectivity`.
pub fn program_request(spec: &ConnectivitySpec) -> Vec<u8> {
    let options = ports_out(&spec.ports, &spec.exposed, &Options::new());
    bytes(&EndpointFields {
        options,
        ..EndpointFields::of(&spec.at)
    })
}

/// Ports in the body of `ProgramExternalConnectivity`.
pub fn program_request_in(body: &[u8]) -> Result<ConnectivitySpec, Fault> {
    let read: EndpointFields = request(Verb::Program, body)?;
    Ok(ConnectivitySpec {
        at: read.at()?,
        ports: ports_in(&read.options)?,
        exposed: exposed_in(&read.options)?,
    })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct DiscoveryFields {
    #[serde(rename = "DiscoveryType")]
    kind: i64,
    #[serde(rename = "DiscoveryData", deserialize_with = "nullable")]
    data: NodeFields,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct NodeFields {
    #[serde(rename = "Address", deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "BindAddress", deserialize_with = "nullable")]
    bind_address: String,
    #[serde(rename = "Self", deserialize_with = "nullable")]
    is_self: bool,
}

/// Body of `DiscoverNew` and `DiscoverDelete`.
pub fn discovery_request(node: &Node) -> Vec<u8> {
    let (address, bind_address) = (node.address.clone(), node.bind_address.clone());
    bytes(&DiscoveryFields {
        kind: 1,
        data: NodeFields {
            address,
            bind_address,
            is_self: node.is_self,
        },
    })
}

/// The node in the body of `DiscoverNew` and `DiscoverDelete`; other kinds of news are none.
pub fn discovery_request_in(verb: Verb, body: &[u8]) -> Result<Option<Node>, Fault> {
    let read: DiscoveryFields = request(verb, body)?;
    let node = Node {
        address: read.data.address,
        bind_address: read.data.bind_address,
        is_self: read.data.is_self,
    };
    Ok((read.kind == 1).then_some(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_as_docker_sends_it() {
        let body = br#"{"NetworkID":"abc","Options":{"com.docker.network.enable_ipv6":false,
            "com.docker.network.internal":true,"com.docker.network.generic":{"com.docker.network.driver.mtu":"1400"}},
            "IPv4Data":[{"AddressSpace":"L","Pool":"10.77.0.0/16","Gateway":"10.77.0.1/16",
            "AuxAddresses":{"r1":"10.77.0.9/16"}}],"IPv6Data":null,"Unknown":1}"#;
        let spec = create_network_request_in(body).unwrap();
        assert!(spec.enable_ipv4 && !spec.enable_ipv6 && spec.internal);
        assert_eq!(spec.options["com.docker.network.driver.mtu"], "1400");
        assert_eq!(spec.ipv4[0].gateway.unwrap().to_string(), "10.77.0.1/16");
        assert_eq!(
            create_network_request_in(&create_network_request(&spec)).unwrap(),
            spec
        );
    }

    #[test]
    fn an_endpoint_as_docker_sends_it() {
        let body = br#"{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.55.0.200/24","AddressIPv6":"",
            "MacAddress":"02:00:00:00:00:99"},"Options":{"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}],
            "com.docker.network.endpoint.macaddress":"AgAAAACZ","com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,
            "HostIP":"127.0.0.1","HostPort":8080,"HostPortEnd":8080}],"dop":"dov"}}"#;
        let spec = create_endpoint_request_in(body).unwrap();
        assert_eq!(spec.ports[0].host_port, 8080);
        assert_eq!(
            spec.exposed,
            [ExposedPort {
                protocol: Protocol::Tcp,
                port: 80
            }]
        );
        assert_eq!(spec.options, Options::from([("dop".into(), "dov".into())]));
        assert_eq!(
            create_endpoint_request_in(&create_endpoint_request(&spec)).unwrap(),
            spec
        );
    }

    #[test]
    fn a_reply_to_create_endpoint_repeats_nothing() {
        assert_eq!(create_endpoint_reply(&EndpointInterface::default()), b"{}\n");
        let mac = EndpointInterface {
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            ..Default::default()
        };
        let body = create_endpoint_reply(&mac);
        assert_eq!(
            body,
            b"{\"Interface\":{\"Address\":\"\",\"AddressIPv6\":\"\",\"MacAddress\":\"02:00:00:00:00:01\"}}\n"
        );
        assert_eq!(create_endpoint_reply_in(&body).unwrap(), mac);
    }

    #[test]
    fn join_replies_round_trip() {
        let plan = JoinPlan {
            link: Some(JoinLink {
                source: "vethabc".into(),
                prefix: "eth".into(),
            }),
            gateway: Some("10.55.0.1".parse().unwrap()),
            gateway_v6: None,
            routes: vec![
                StaticRoute {
                    destination: "10.200.0.0/16".parse().unwrap(),
                    next_hop: Some("10.55.0.1".parse().unwrap()),
                },
                StaticRoute {
                    destination: "10.201.0.0/16".parse().unwrap(),
                    next_hop: None,
                },
            ],
            disable_gateway_service: false,
        };
        assert_eq!(join_reply_in(&join_reply(&plan)).unwrap(), plan);
    }
}
