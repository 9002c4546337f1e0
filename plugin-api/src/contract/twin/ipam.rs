//! Pools and addresses in maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::locked;
use crate::Done;
use crate::fault::{Fault, FaultKind};
use crate::id::{AddressSpace, PoolId};
use crate::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, IpamCapabilities, IpamDriver, PoolLease,
    PoolRequest,
};

/// Addresses that are tried, from the first of a pool, before it counts as full.
const WIDEST: u128 = 1 << 16;

#[derive(Debug)]
struct Pool {
    space: AddressSpace,
    net: IpNet,
    range: IpNet,
    holders: u32,
    gateway: Option<IpAddr>,
    held: BTreeSet<IpAddr>,
}

impl Pool {
    fn is_host(&self, address: IpAddr) -> bool {
        let edge = match self.net {
            IpNet::V4(net) => {
                net.prefix_len() < 31
                    && [net.network(), net.broadcast()]
                        .map(IpAddr::from)
                        .contains(&address)
            }
            IpNet::V6(net) => net.prefix_len() < 127 && address == IpAddr::from(net.network()),
        };
        self.net.contains(&address) && !edge
    }

    fn free(&self) -> Option<IpAddr> {
        let first = number(self.range.network());
        let last = number(self.range.broadcast());
        (first..=last.min(first + WIDEST))
            .map(|n| address(n, &self.range))
            .find(|candidate| self.is_host(*candidate) && !self.held.contains(candidate))
    }

    fn lease(&self, address: IpAddr) -> AddressLease {
        let address = IpNet::new(address, self.net.prefix_len()).expect("an address of the pool's family");
        AddressLease {
            address,
            data: BTreeMap::new(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// An address driver that remembers nothing but what it was asked.
#[derive(Debug, Default)]
pub struct Ipam {
    pools: Arc<Mutex<BTreeMap<PoolId, Pool>>>,
    replays: bool,
}

impl Ipam {
    /// One that keeps its state and needs no replay.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that announces that it wants everything again when an engine starts.
    pub fn replaying() -> Self {
        Self {
            replays: true,
            ..Self::default()
        }
    }

    /// The twin as a new process finds it.
    pub fn restarted(&self) -> Self {
        Self {
            pools: Arc::clone(&self.pools),
            replays: self.replays,
        }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn pool_id(space: &AddressSpace, net: &IpNet) -> PoolId {
    PoolId::new(format!("{space}/{net}")).expect("a space and a subnet are short and printable")
}

/// The first subnet nobody has: `172.16.0.0/12` in /24, `fd6c::/48` in /64.
fn choose(pools: &BTreeMap<PoolId, Pool>, request: &PoolRequest) -> Option<IpNet> {
    (0..4096_u32)
        .map(|n| {
            if request.v6 {
                let bits = 0xfd6c_u128 << 112 | u128::from(n) << 64;
                IpNet::from(Ipv6Net::new(bits.into(), 64).expect("a prefix up to 128"))
            } else {
                let bits = u32::from(Ipv4Addr::new(172, 16, 0, 0)) + (n << 8);
                IpNet::from(Ipv4Net::new(bits.into(), 24).expect("a prefix up to 32"))
            }
        })
        .find(|net| {
            !pools
                .values()
                .any(|pool| pool.space == request.space && overlap(&pool.net, net))
        })
}

impl IpamDriver for Ipam {
    fn capabilities(&self) -> IpamCapabilities {
        IpamCapabilities {
            requires_mac: false,
            requires_replay: self.replays,
        }
    }

    fn default_spaces(&self) -> Result<DefaultSpaces, Fault> {
        let [local, global] =
            ["TwinLocal", "TwinGlobal"].map(|text| AddressSpace::new(text).expect("plain words"));
        Ok(DefaultSpaces { local, global })
    }

    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault> {
        let mut pools = locked(&self.pools);
        let chosen = request
            .pool
            .map(|net| net.trunc())
            .or_else(|| choose(&pools, request));
        let net = chosen
            .ok_or_else(|| Fault::exhausted(format!("choose a pool in {}: none is left", request.space)))?;
        let range = request.sub_pool.map_or(net, |sub| sub.trunc());
        if !net.contains(&range) {
            return Err(Fault::invalid(format!(
                "request pool {net}: the sub-pool {range} lies outside"
            )));
        }
        let id = pool_id(&request.space, &net);
        if let Some(pool) = pools.get_mut(&id) {
            pool.holders += 1;
            return Ok(PoolLease {
                id,
                pool: net,
                data: BTreeMap::new(),
            });
        }
        if let Some(pool) = pools
            .values()
            .find(|pool| pool.space == request.space && overlap(&pool.net, &net))
        {
            let text = format!(
                "request pool {net} in {}: it overlaps {}",
                request.space, pool.net
            );
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        let (space, held) = (request.space.clone(), BTreeSet::new());
        pools.insert(
            id.clone(),
            Pool {
                space,
                net,
                range,
                holders: 1,
                gateway: None,
                held,
            },
        );
        Ok(PoolLease {
            id,
            pool: net,
            data: BTreeMap::new(),
        })
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        let mut pools = locked(&self.pools);
        let Some(pool) = pools.get_mut(id) else {
            return Ok(Done::AlreadySo);
        };
        pool.holders -= 1;
        if pool.holders == 0 {
            pools.remove(id);
        }
        Ok(Done::Changed)
    }

    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault> {
        let mut pools = locked(&self.pools);
        let pool = pools.get_mut(&request.pool);
        let pool = pool.ok_or_else(|| Fault::not_found(format!("pool {} does not exist", request.pool)))?;
        let is_gateway = request.purpose == AddressPurpose::Gateway;
        if let (true, Some(gateway)) = (is_gateway, pool.gateway)
            && request.address.is_none_or(|wanted| wanted == gateway)
        {
            return Ok(pool.lease(gateway));
        }
        let wanted = request.address.or_else(|| pool.free());
        let wanted =
            wanted.ok_or_else(|| Fault::exhausted(format!("pool {}: no address is left", request.pool)))?;
        if !pool.is_host(wanted) {
            return Err(Fault::invalid(format!(
                "pool {}: {wanted} is no host in it",
                request.pool
            )));
        }
        if !pool.held.insert(wanted) && (!self.replays || pool.gateway == Some(wanted)) {
            return Err(Fault::new(
                FaultKind::Conflict,
                format!("pool {}: {wanted} is held", request.pool),
            ));
        }
        if is_gateway {
            pool.gateway = Some(wanted);
        }
        Ok(pool.lease(wanted))
    }

    fn release_address(&self, id: &PoolId, address: IpAddr) -> Result<Done, Fault> {
        let mut pools = locked(&self.pools);
        let Some(pool) = pools.get_mut(id) else {
            return Ok(Done::AlreadySo);
        };
        if !pool.held.remove(&address) {
            return Ok(Done::AlreadySo);
        }
        pool.gateway = pool.gateway.filter(|gateway| *gateway != address);
        Ok(Done::Changed)
    }
}
