//! What a plugin has, for people and for doors that keep no state of their own. Read-only, from memory.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::id::{EndpointId, MacAddr, NetworkId, PoolId, VolumeName};
use crate::network::Protocol;

/// Everything behind one socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Networks, by id.
    pub networks: Vec<NetworkUse>,
    /// Subnets of the address driver.
    pub subnets: Vec<SubnetUse>,
    /// Volumes, by name.
    pub volumes: Vec<VolumeUse>,
    /// Rows about layers, as `docker info` shows them.
    pub layers: Vec<(String, String)>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUse {
    /// Its id.
    pub id: NetworkId,
    /// Its link on the host: a bridge, or the parent.
    pub link: String,
    /// No way out.
    pub is_internal: bool,
    /// Its subnets, each with its gateway.
    pub subnets: Vec<(IpNet, Option<IpAddr>)>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointUse>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUse {
    /// Its id.
    pub id: EndpointId,
    /// Its link on the host.
    pub link: String,
    /// Its link-layer address in the sandbox.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Where it is joined; none while it is apart.
    pub sandbox: Option<String>,
    /// What is published.
    pub ports: Vec<PortUse>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortUse {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port of the host; an unspecified address is every one of its family.
    pub host: SocketAddr,
    /// Address and port of the container.
    pub to: SocketAddr,
}

/// A subnet of the address driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetUse {
    /// Its address space.
    pub space: String,
    /// The subnet.
    pub subnet: IpNet,
    /// How many addresses there are to give.
    pub size: u64,
    /// How many were released and rest.
    pub resting: u64,
    /// Who holds it.
    pub pools: Vec<PoolUse>,
    /// Addresses that are held.
    pub addresses: Vec<AddressUse>,
}

/// A pool of a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUse {
    /// Its id.
    pub id: PoolId,
    /// Where chosen addresses come from, if not from everywhere.
    pub sub_pool: Option<IpNet>,
    /// How often it was asked for.
    pub holders: u64,
    /// Who holds it, where it said so.
    pub holder: Option<String>,
}

/// An address that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressUse {
    /// The address.
    pub address: IpAddr,
    /// It is the subnet's gateway.
    pub is_gateway: bool,
    /// Who holds it, where it said so.
    pub holder: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    /// Its name.
    pub name: VolumeName,
    /// Where it is mounted; none while nobody holds it.
    pub mountpoint: Option<String>,
}

impl Report {
    /// Only what concerns one network: itself, and subnets of which it holds a pool under its id.
    #[must_use]
    pub fn of_network(mut self, id: &NetworkId) -> Self {
        self.networks.retain(|network| network.id == *id);
        self.subnets.retain(|subnet| {
            let mut pools = subnet.pools.iter();
            pools.any(|pool| pool.holder.as_deref() == Some(id.as_str()))
        });
        Self {
            volumes: Vec::new(),
            layers: Vec::new(),
            ..self
        }
    }
}
