//! Address management: pools and addresses.
//!
//! # First network
//! `request_pool` for the subnet, `request_address` for its gateway, then one address per endpoint;
//! `release_address` and `release_pool` on the way back, which engines send **before** they delete the
//! network. Asking again for what one already holds succeeds with the same answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::fault::Fault;
use crate::id::{AddressSpace, HolderId, MacAddr, PoolId};
use crate::report::SubnetUse;
use crate::{Done, Options};

/// Option of a pool or an address that names its holder. The same holder asking again is given what it has;
/// a pool's holder makes a pool of its own, which is not counted with those of others.
pub const HOLDER: &str = "longshore.holder";

/// What an IPAM driver announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IpamCapabilities {
    /// The engine shall choose a MAC address and send it along.
    pub requires_mac: bool,
    /// The engine shall ask again for everything it holds when it starts.
    pub requires_replay: bool,
}

/// The two default address spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultSpaces {
    /// For networks of one host.
    pub local: AddressSpace,
    /// For networks of all hosts.
    pub global: AddressSpace,
}

/// A pool asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRequest {
    /// Where from.
    pub space: AddressSpace,
    /// The subnet; `None` lets the driver choose one that is not in use.
    pub pool: Option<IpNet>,
    /// `--ip-range`: where addresses that the driver chooses come from.
    pub sub_pool: Option<IpNet>,
    /// `--ipam-opt`.
    pub options: Options,
    /// IPv6, where the driver chooses.
    pub v6: bool,
}

/// A pool granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLease {
    /// The engine gives it back in every later call.
    pub id: PoolId,
    /// The subnet.
    pub pool: IpNet,
    /// Further facts, such as `com.docker.network.gateway`.
    pub data: BTreeMap<String, String>,
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPurpose {
    /// The network's gateway: shared, idempotent.
    Gateway,
    /// An endpoint, or an auxiliary address.
    Endpoint,
}

/// An address asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// The pool.
    pub pool: PoolId,
    /// The address; `None` lets the driver choose.
    pub address: Option<IpAddr>,
    /// What for.
    pub purpose: AddressPurpose,
    /// The endpoint's MAC address, where the driver requires one.
    pub mac: Option<MacAddr>,
    /// Swarm's wish that a released address is not given out again soon.
    pub serial: bool,
    /// Who asks, where it says so: see [`HOLDER`].
    pub holder: Option<HolderId>,
}

/// An address granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressLease {
    /// The address with its prefix length.
    pub address: IpNet,
    /// Further facts.
    pub data: BTreeMap<String, String>,
}

/// An address driver: `IpamDriver.*` on the wire.
pub trait IpamDriver: Send + Sync {
    /// What is announced to engines.
    fn capabilities(&self) -> IpamCapabilities {
        IpamCapabilities::default()
    }
    /// The default address spaces.
    fn default_spaces(&self) -> Result<DefaultSpaces, Fault>;
    /// Grants a pool. A given subnet that is held already is granted again (counted); one that overlaps
    /// another pool of the space is `Conflict`; nothing left to choose is `Exhausted`.
    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault>;
    /// Gives a pool back; the last holder frees its addresses. Unknown is [`Done::AlreadySo`].
    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault>;
    /// Grants an address. A given one that is held is `Conflict`, except a gateway asked for again;
    /// none left is `Exhausted`; outside the subnet is `Invalid`.
    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault>;
    /// Gives an address back. Unknown is [`Done::AlreadySo`].
    fn release_address(&self, pool: &PoolId, address: IpAddr) -> Result<Done, Fault>;
    /// What is held, for people and for doors; from memory.
    fn report(&self) -> Vec<SubnetUse> {
        Vec::new()
    }
}
