//! Networks, endpoints and sandboxes: libnetwork's nouns.
//!
//! # First container
//! `create_network`; `create_endpoint` answers what the engine left open (the MAC address, usually);
//! `join` makes the link and names its inner end, which **the engine** moves into the sandbox, renames
//! and configures; `program` opens ports on the endpoint chosen as gateway. Back: `revoke`, `leave`,
//! `delete_endpoint`, `delete_network`. Engines skip steps when they die, so leave implies revoke,
//! delete_endpoint implies leave, and everything about unknown ids succeeds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::fault::Fault;
use crate::id::{EndpointId, MacAddr, NetworkId, SandboxKey};
use crate::report::NetworkUse;
use crate::volume::Scope;
use crate::{Done, Options};

/// What a network driver announces once; engines cache it until they restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkCapabilities {
    /// Whether a network is known on one host or on all.
    pub scope: Scope,
    /// How far its endpoints reach.
    pub connectivity: Scope,
    /// Whether [`NetworkDriver::gateway_check`] is there (Docker 28 and later ask).
    pub checks_gateway: bool,
}

/// One subnet of a network, as IPAM gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The address space it came from.
    pub address_space: String,
    /// The subnet.
    pub pool: IpNet,
    /// The gateway with the subnet's prefix length.
    pub gateway: Option<IpNet>,
    /// `--aux-address` entries.
    pub auxiliary: BTreeMap<String, IpNet>,
}

/// A network to be made. Its name and labels are not told to drivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its id, chosen by the engine.
    pub id: NetworkId,
    /// `-o key=value` of the user.
    pub options: Options,
    /// Whether endpoints have IPv4; true where the engine is too old to say.
    pub enable_ipv4: bool,
    /// Whether endpoints have IPv6.
    pub enable_ipv6: bool,
    /// No way out of the network.
    pub internal: bool,
    /// IPv4 subnets.
    pub ipv4: Vec<Subnet>,
    /// IPv6 subnets.
    pub ipv6: Vec<Subnet>,
}

/// Names an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointRef {
    /// The network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
}

/// Addresses of an endpoint. In a request: what the engine chose. In a reply: only what it left open;
/// repeating a value is an error to engines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointInterface {
    /// IPv4 address with prefix length.
    pub address: Option<IpNet>,
    /// IPv6 address with prefix length.
    pub address_v6: Option<IpNet>,
    /// Link-layer address.
    pub mac: Option<MacAddr>,
}

/// IP protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 132.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// From the number in the IP header.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortBinding {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the container.
    pub container_port: u16,
    /// Host address; `None` means the network's default.
    pub host_ip: Option<IpAddr>,
    /// First host port; 0 asks for any.
    pub host_port: u16,
    /// Last host port to choose from; equals `host_port` for one.
    pub host_port_end: u16,
}

/// A port the image exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExposedPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port in the container.
    pub port: u16,
}

/// An endpoint to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Which endpoint of which network.
    pub at: EndpointRef,
    /// What the engine chose.
    pub interface: EndpointInterface,
    /// Ports to publish, sent to every network of a container; binding waits for `program`.
    pub ports: Vec<PortBinding>,
    /// Ports the image exposes.
    pub exposed: Vec<ExposedPort>,
    /// `--driver-opt key=value` of the endpoint.
    pub options: Options,
}

/// Binding of an endpoint to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinSpec {
    /// Which endpoint.
    pub at: EndpointRef,
    /// Path of the namespace; it need not exist yet.
    pub sandbox: SandboxKey,
    /// Endpoint options, again.
    pub options: Options,
}

/// The link that the engine shall move into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinLink {
    /// Its name in the host's namespace, at most 15 bytes.
    pub source: String,
    /// Prefix of its name in the sandbox: `eth`.
    pub prefix: String,
}

/// A route in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through whom; `None` is on-link.
    pub next_hop: Option<IpAddr>,
}

/// What the engine shall do in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinPlan {
    /// The link; `None` adds none.
    pub link: Option<JoinLink>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Default gateway for IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Further routes.
    pub routes: Vec<StaticRoute>,
    /// Without it an endpoint that gives no gateway makes Docker add a second NIC on `docker_gwbridge`.
    pub disable_gateway_service: bool,
}

/// Ports to open for an endpoint that became its container's gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectivitySpec {
    /// Which endpoint.
    pub at: EndpointRef,
    /// Ports to publish.
    pub ports: Vec<PortBinding>,
    /// Ports the image exposes.
    pub exposed: Vec<ExposedPort>,
}

/// A node of a swarm or cluster, announced by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its address.
    pub address: String,
    /// The address it binds to.
    pub bind_address: String,
    /// Whether it is this host.
    pub is_self: bool,
}

/// A network as swarm's manager sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkAllocation {
    /// Its id.
    pub id: NetworkId,
    /// The user's options.
    pub options: Options,
    /// IPv4 subnets.
    pub ipv4: Vec<Subnet>,
    /// IPv6 subnets.
    pub ipv6: Vec<Subnet>,
}

/// Which default gateways a network needs none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GatewayCheck {
    /// No IPv4 gateway address needed.
    pub skip_ipv4: bool,
    /// No IPv6 gateway address needed.
    pub skip_ipv6: bool,
}

/// A network driver: `NetworkDriver.*` on the wire.
pub trait NetworkDriver: Send + Sync {
    /// What is announced to engines.
    fn capabilities(&self) -> NetworkCapabilities;
    /// Makes a network, durably: an engine never says it again. The same again is
    /// [`Done::AlreadySo`], the same id with another definition `AlreadyExists`.
    fn create_network(&self, spec: &NetworkSpec) -> Result<Done, Fault>;
    /// Removes a network and endpoints left in it. Unknown is [`Done::AlreadySo`].
    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault>;
    /// Makes an endpoint and answers what the engine left open. The same again gives the same answer.
    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault>;
    /// Removes an endpoint, joined or not. Unknown is [`Done::AlreadySo`].
    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault>;
    /// Rows about an endpoint.
    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault>;
    /// Makes the link and says what the engine shall do with it. The same again gives the same answer.
    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault>;
    /// Takes the link away; implies revoke. Unknown is [`Done::AlreadySo`].
    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault>;
    /// Published ports, where the driver does them.
    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        None
    }
    /// Interest in the nodes of a cluster.
    fn discovery(&self) -> Option<&dyn Discovery> {
        None
    }
    /// Swarm's manager allocates; the options answered are all that reach the nodes.
    fn allocate_network(&self, allocation: &NetworkAllocation) -> Result<Options, Fault> {
        Ok(allocation.options.clone())
    }
    /// Swarm's manager frees.
    fn free_network(&self, _id: &NetworkId) -> Result<Done, Fault> {
        Ok(Done::AlreadySo)
    }
    /// Whether the network needs gateway addresses at all.
    fn gateway_check(&self, _options: &Options) -> Result<GatewayCheck, Fault> {
        Ok(GatewayCheck::default())
    }
    /// What there is, for people and for doors; from memory.
    fn report(&self) -> Vec<NetworkUse> {
        Vec::new()
    }
}

/// Publishing of ports on the endpoint that is its container's gateway.
pub trait ExternalConnectivity: Send + Sync {
    /// Opens the ports. The same again is [`Done::AlreadySo`]; a port taken by somebody else is `InUse`.
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault>;
    /// Closes them. Unknown is [`Done::AlreadySo`].
    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault>;
}

/// Nodes coming and going.
pub trait Discovery: Send + Sync {
    /// A node is there.
    fn node_arrived(&self, node: &Node) -> Result<Done, Fault>;
    /// A node is gone.
    fn node_left(&self, node: &Node) -> Result<Done, Fault>;
}
