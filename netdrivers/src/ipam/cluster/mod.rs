//! Address management of many hosts: a subnet is cut into blocks, and each host gives addresses out of
//! blocks that it owns alone.
//!
//! A block is claimed in the store by create-if-absent; after that addresses are given from memory and
//! this host's own records, also while the store does not answer. A host registers under a lease. When
//! the lease ends, others mark its blocks, and free them when the grace has passed; a host that does not
//! reach the store stops giving addresses before that, and one that comes back takes up the blocks that
//! are still its own.
//!
//! Subnets of few addresses have blocks of one: then every address is a claim.

mod books;
mod shared;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::Store;
use ipnet::IpNet;
use plugin_api::id::{AddressSpace, PoolId};
use plugin_api::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, IpamDriver, PoolLease, PoolRequest,
};
use plugin_api::{Done, Fault, FaultKind};

use super::local::{Wish, host_nets, wish};
use super::pool::{
    address, candidates_v4, candidates_v6, choose, first_free, number, overlap, usable, usable_within,
};
use books::{Books, Held, Released, Subnet};
use shared::{ATTEMPTS, Place, Shared};

const LOCAL: &str = "LongshoreClusterLocal";
const GLOBAL: &str = "LongshoreCluster";

/// How hosts know one another.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This host's name, the same after every start: one word without `/`.
    pub host: String,
    /// How long a host may be silent before others take it for gone.
    pub lease: Duration,
    /// How long the blocks of a host that is gone are kept for it.
    pub grace: Duration,
}

/// The driver; one per folder of state.
pub struct Cluster {
    shared: Shared,
    /// Whose turn it is to change what this host owns in the store. Taken before `books`, which is never
    /// held while the store is asked: what can be given from memory does not wait.
    turn: Mutex<()>,
    books: Mutex<Books>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

fn unavailable(error: cluster::Error) -> Fault {
    let kind = match &error {
        cluster::Error::Corrupt { .. } => FaultKind::Corrupt,
        cluster::Error::Invalid { .. } => FaultKind::Invalid,
        _ => FaultKind::Unavailable,
    };
    Fault::from_error(kind, error)
}

/// Addresses of one block, as a prefix length: 64 of large subnets, a sixteenth of smaller ones.
fn block_length(net: IpNet) -> u8 {
    let longest = net.max_prefix_len();
    (net.prefix_len() + 4).clamp(longest - 6, longest)
}

/// The block that an address lies in.
fn block_of(ip: IpAddr, net: IpNet) -> IpNet {
    let block = IpNet::new(ip, block_length(net)).expect("no longer than the family allows");
    block.trunc()
}

impl Cluster {
    /// Opens the state in a folder that exists, and registers with the store if it answers.
    pub fn open(folder: &Path, store: Arc<dyn Store>, settings: &Settings) -> Result<Self, Fault> {
        let host = &settings.host;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            let host = plugin_api::id::quoted(host);
            return Err(Fault::invalid(format!("host name {host} is no word without /")));
        }
        if settings.grace < settings.lease * 2 {
            let (grace, lease) = (settings.grace, settings.lease);
            let text =
                format!("a grace of {grace:?} is too short for a lease of {lease:?}: twice as long or more");
            return Err(Fault::invalid(text));
        }
        let driver = Self {
            shared: Shared::new(store, host, settings.lease, settings.grace),
            turn: Mutex::new(()),
            books: Mutex::new(Books::open(folder)?),
        };
        if let Err(fault) = driver.keep() {
            tracing::warn!(%fault, "the store does not answer; addresses are given when it does");
        }
        Ok(driver)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is due: registers again where the lease was lost, lets go what could not be let go before,
    /// and looks after the blocks of hosts that are gone. To be called every third of the lease or so.
    pub fn keep(&self) -> Result<(), Fault> {
        {
            let turn = self.turn();
            self.ensure_registered(&turn)?;
            let due = self.lock().leaving();
            for place in due {
                self.shared.let_go(&place).map_err(unavailable)?;
                self.lock().left(&place)?;
            }
        }
        self.shared.tidy().map_err(unavailable)
    }

    /// Addresses that were given here, but lie in blocks which others may own by now.
    pub fn lost(&self) -> Vec<IpAddr> {
        let may_give = self.shared.may_give();
        let books = self.lock();
        let subnets = books.subnets.values();
        let lost = subnets.flat_map(|subnet| {
            let gone =
                |ip: &IpAddr| !may_give || !subnet.blocks.contains(&block_of(*ip, subnet.place.net).addr());
            let held = subnet.held.iter().filter(|(_, held)| !held.is_gateway);
            held.map(|(n, _)| address(*n, subnet.place.net)).filter(gone)
        });
        lost.collect()
    }

    fn ensure_registered(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), Fault> {
        if self.shared.is_registered() {
            return Ok(());
        }
        let (life, mine) = self.shared.register().map_err(unavailable)?;
        let mut books = self.lock();
        for subnet in books.subnets.values_mut() {
            subnet.blocks = Shared::blocks_of(&subnet.place, &mine).into_iter().collect();
        }
        self.shared.adopt(life);
        Ok(())
    }

    fn choose(&self, space: &str, (v6, prefix): (bool, Option<u8>)) -> Result<IpNet, Fault> {
        let mut taken = host_nets()?;
        let pools = self.shared.pools(space).map_err(unavailable)?;
        taken.extend(pools.iter().map(|(place, _)| place.net));
        let found = if v6 {
            // The same for every host, so that all of them choose alike.
            choose(candidates_v6(prefix, 0x6c_6f6e_6773).take(65_536), &taken)
        } else {
            choose(candidates_v4(prefix, true), &taken)
        };
        found.ok_or_else(|| {
            let family = if v6 { "IPv6" } else { "IPv4" };
            Fault::exhausted(format!(
                "choose an {family} pool in {space}: every subnet overlaps a route of this host or a pool of the \
                 cluster"
            ))
        })
    }

    /// Holds the subnet in the store; a chosen one that somebody else has just taken is chosen again.
    fn hold(&self, space: &str, wish: &Wish) -> Result<(Place, Option<IpNet>), Fault> {
        for _ in 0..ATTEMPTS {
            let (net, sub, chosen) = match wish {
                Wish::Given(net, sub) => (*net, *sub, false),
                Wish::Choose { v6, prefix } => (self.choose(space, (*v6, *prefix))?, None, true),
            };
            let space = space.to_owned();
            let place = Place { space, net };
            match self.shared.hold(&place).map_err(unavailable)? {
                Ok(()) => return Ok((place, sub)),
                Err(_) if chosen => {}
                Err(other) => {
                    let text = format!(
                        "pool {net} overlaps pool {other} of address space {}",
                        place.space
                    );
                    return Err(Fault::new(FaultKind::Conflict, text));
                }
            }
        }
        Err(Fault::new(
            FaultKind::Conflict,
            "choose a pool: others chose the same ones",
        ))
    }

    /// A block with a free address that we own from now on.
    fn grow(&self, subnet: &Subnet, sub: Option<IpNet>) -> Result<IpAddr, Fault> {
        let place = &subnet.place;
        let (first, last) = usable_within(place.net, sub);
        for _ in 0..ATTEMPTS {
            let taken = self.shared.taken(place).map_err(unavailable)?;
            let size = 1_u128 << (place.net.max_prefix_len() - block_length(place.net));
            let mut at = number(block_of(address(first, place.net), place.net).addr());
            let free = loop {
                if at > last {
                    break None;
                }
                let block = address(at, place.net);
                let is_mine = subnet.blocks.contains(&block);
                // A block of ours that memory does not know is taken up, not claimed.
                if !is_mine && !taken.contains(&block) && free_in(subnet, sub, block).is_some() {
                    break Some(block);
                }
                at += size;
            };
            let Some(block) = free else {
                let (net, part) = (
                    place.net,
                    sub.map(|sub| format!(" within {sub}")).unwrap_or_default(),
                );
                return Err(Fault::exhausted(format!(
                    "pool {net}{part} has no free address: {} of its blocks are owned by others, {} by this host",
                    taken.len(),
                    subnet.blocks.len()
                )));
            };
            if self.shared.claim(place, block).map_err(unavailable)?.is_none() {
                return Ok(block);
            }
        }
        Err(Fault::new(
            FaultKind::Conflict,
            "claim a block of addresses: others claimed the same ones",
        ))
    }

    /// The subnet's gateway: what the cluster knows, or else what is wished.
    fn gateway(&self, subnet: &Subnet, wish: IpAddr) -> Result<IpAddr, Fault> {
        let net = subnet.place.net;
        let pools = self.shared.pools(&subnet.place.space).map_err(unavailable)?;
        let known = pools.iter().find(|(place, _)| *place == subnet.place);
        if let Some(there) = known.and_then(|(_, gateway)| *gateway) {
            return Ok(there);
        }
        // No host gives the first address to an endpoint, and nobody else one of our blocks.
        if kept_back(net) != Some(number(wish)) {
            self.own(subnet, wish)?;
        }
        self.shared.gateway(&subnet.place, wish).map_err(unavailable)
    }

    /// Owns the block of a given address, and answers it, or says who does.
    fn own(&self, subnet: &Subnet, ip: IpAddr) -> Result<IpAddr, Fault> {
        let block = block_of(ip, subnet.place.net).addr();
        if subnet.blocks.contains(&block) {
            return Ok(block);
        }
        if let Some(other) = self.shared.claim(&subnet.place, block).map_err(unavailable)? {
            let net = subnet.place.net;
            let text = format!("address {ip} of pool {net} lies in a block of host {other}");
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        Ok(block)
    }

    /// Asks the store for what memory could not answer.
    fn ask(&self, id: &str, request: &AddressRequest) -> Result<(), Fault> {
        let turn = self.turn();
        self.ensure_registered(&turn)?;
        let (pool, subnet) = {
            let books = self.lock();
            let pool = books.pool(id)?;
            (pool.clone(), books.subnet(&pool.subnet)?.clone())
        };
        // Somebody may have asked for the same while we waited for our turn.
        if here(&subnet, pool.sub, request)?.is_some() {
            return Ok(());
        }
        let block = match (request.purpose, request.address) {
            (AddressPurpose::Gateway, wanted) => return self.agree(&pool.subnet, &subnet, wanted),
            (AddressPurpose::Endpoint, Some(ip)) => self.own(&subnet, ip)?,
            (AddressPurpose::Endpoint, None) => self.grow(&subnet, pool.sub)?,
        };
        let pools = self.shared.pools(&subnet.place.space).map_err(unavailable)?;
        let known = pools.iter().find(|(place, _)| *place == subnet.place);
        let mut books = self.lock();
        let subnet = books.subnet_mut(&pool.subnet)?;
        subnet.gateway = known.and_then(|(_, gateway)| *gateway).map(number);
        subnet.blocks.insert(block);
        Ok(())
    }

    /// Agrees on the gateway with the others; meanwhile nobody here is given what it may become.
    fn agree(&self, key: &str, subnet: &Subnet, wanted: Option<IpAddr>) -> Result<(), Fault> {
        let net = subnet.place.net;
        let wish = wanted.unwrap_or_else(|| address(usable(net).0, net));
        {
            let mut books = self.lock();
            let subnet = books.subnet_mut(key)?;
            if subnet
                .held
                .get(&number(wish))
                .is_some_and(|held| !held.is_gateway)
            {
                return Err(held_already(wish, net));
            }
            subnet.wished = Some(number(wish));
        }
        let agreed = self.gateway(subnet, wish);
        let mut books = self.lock();
        let subnet = books.subnet_mut(key)?;
        subnet.wished = None;
        subnet.gateway = Some(number(agreed?));
        Ok(())
    }
}

/// The answer to a request from what this host owns; nothing where the store has to be asked.
fn here(subnet: &Subnet, sub: Option<IpNet>, request: &AddressRequest) -> Result<Option<u128>, Fault> {
    let net = subnet.place.net;
    if let Some(ip) = request.address {
        check_within(ip, net)?;
    }
    let wanted = request.address.map(number);
    if request.purpose == AddressPurpose::Gateway {
        let is_an_endpoints = |n: &u128| subnet.held.get(n).is_some_and(|held| !held.is_gateway);
        if let Some(ip) = request.address.filter(|ip| is_an_endpoints(&number(*ip))) {
            return Err(held_already(ip, net));
        }
        let there = subnet.gateway;
        if let (Some(there), Some(ip)) = (there, request.address)
            && there != number(ip)
        {
            let there = address(there, net);
            let text = format!("address {ip} cannot be the gateway of pool {net}: the cluster's is {there}");
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        return Ok(there);
    }
    let Some(ip) = request.address else {
        return Ok(free_here(subnet, sub));
    };
    if subnet.held.contains_key(&number(ip)) || [subnet.gateway, subnet.wished].contains(&wanted) {
        return Err(held_already(ip, net));
    }
    if kept_back(net) == wanted {
        let text = format!("address {ip} of pool {net} is kept for the gateway");
        return Err(Fault::new(FaultKind::Conflict, text));
    }
    let is_ours = subnet.blocks.contains(&block_of(ip, net).addr());
    Ok(wanted.filter(|_| is_ours))
}

/// The first address of a subnet that has more than two: hosts that name no gateway get it.
fn kept_back(net: IpNet) -> Option<u128> {
    let (first, last) = usable(net);
    (last > first).then_some(first)
}

fn held_already(ip: IpAddr, net: IpNet) -> Fault {
    Fault::new(
        FaultKind::Conflict,
        format!("address {ip} of pool {net} is held already"),
    )
}

fn check_within(ip: IpAddr, net: IpNet) -> Result<(), Fault> {
    if ip.is_ipv4() != net.addr().is_ipv4() || !net.contains(&ip) {
        return Err(Fault::invalid(format!("address {ip} lies outside pool {net}")));
    }
    let (first, last) = usable(net);
    if number(ip) < first || number(ip) > last {
        return Err(Fault::invalid(format!(
            "address {ip} is pool {net}'s own, or its broadcast"
        )));
    }
    Ok(())
}

/// A free number of one block.
fn free_in(subnet: &Subnet, sub: Option<IpNet>, block: IpAddr) -> Option<u128> {
    let (first, last) = free_span(subnet, sub, block);
    // The gateway may have been chosen on another host: then it is not among what is held here.
    let gateways = [subnet.gateway, subnet.wished].into_iter().flatten();
    let strange: Vec<u128> = gateways.filter(|n| !subnet.held.contains_key(n)).collect();
    if strange.is_empty() {
        return next_free((first, last), &subnet.held, subnet.last);
    }
    let mut taken = subnet.held.clone();
    taken.extend(strange.into_iter().map(|n| (n, Held::GATEWAY)));
    next_free((first, last), &taken, subnet.last)
}

/// The first number of a range that is not held, looking behind `after` first and then from the start: what
/// was released lately comes last.
fn next_free<T>((first, last): (u128, u128), held: &BTreeMap<u128, T>, after: Option<u128>) -> Option<u128> {
    let start = match after {
        Some(after) if after >= first && after < last => after + 1,
        _ => first,
    };
    first_free((start, last), held).or_else(|| first_free((first, start.checked_sub(1)?), held))
}

/// The part of a block that endpoints are given.
fn free_span(subnet: &Subnet, sub: Option<IpNet>, block: IpAddr) -> (u128, u128) {
    let net = subnet.place.net;
    let (first, last) = usable_within(net, sub);
    let first = first.max(kept_back(net).map_or(0, |kept| kept + 1));
    let block = block_of(block, net);
    (
        first.max(number(block.network())),
        last.min(number(block.broadcast())),
    )
}

/// A free number of our blocks, behind the one given last if there is one.
fn free_here(subnet: &Subnet, sub: Option<IpNet>) -> Option<u128> {
    let after = subnet
        .last
        .map(|last| block_of(address(last, subnet.place.net), subnet.place.net).addr());
    let (before, behind): (Vec<&IpAddr>, Vec<&IpAddr>) = subnet
        .blocks
        .iter()
        .partition(|block| after.is_some_and(|after| **block < after));
    let mut blocks = behind.into_iter().chain(before);
    blocks.find_map(|block| free_in(subnet, sub, *block))
}

impl IpamDriver for Cluster {
    fn default_spaces(&self) -> Result<DefaultSpaces, Fault> {
        Ok(DefaultSpaces {
            local: AddressSpace::new(LOCAL)?,
            global: AddressSpace::new(GLOBAL)?,
        })
    }

    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault> {
        if let Some(option) = request.options.keys().next() {
            let option = plugin_api::id::quoted(option);
            return Err(Fault::invalid(format!(
                "address option {option} is unknown; there are none"
            )));
        }
        let wish = wish(request)?;
        let space = request.space.as_str();
        if space.contains('/') {
            return Err(Fault::invalid(format!(
                "address space {space} has a / in its name"
            )));
        }
        let turn = self.turn();
        let held = match &wish {
            Wish::Given(net, sub) => {
                let (space, net) = (space.to_owned(), *net);
                let place = Place { space, net };
                self.lock().holds(&place).then_some((place, *sub))
            }
            Wish::Choose { .. } => None,
        };
        let (place, sub) = if let Some(held) = held {
            held
        } else {
            self.ensure_registered(&turn)?;
            self.hold(space, &wish)?
        };
        let id = self.lock().hold(&place, sub)?;
        Ok(PoolLease {
            id: PoolId::new(id)?,
            pool: place.net,
            data: BTreeMap::new(),
        })
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        let _turn = self.turn();
        // Not within the match, which would keep the lock.
        let released = self.lock().release(id.as_str())?;
        let place = match released {
            Released::Unknown => return Ok(Done::AlreadySo),
            Released::OneOfMany => return Ok(Done::Changed),
            Released::Last(place) => place,
        };
        // Nothing of it is given here any more. What the store cannot hear now, it hears later.
        match self.shared.let_go(&place) {
            Ok(()) => self.lock().left(&place)?,
            Err(error) => tracing::warn!(%error, pool = %place.net, "the pool is let go later"),
        }
        Ok(Done::Changed)
    }

    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault> {
        let id = request.pool.as_str();
        let is_gateway = request.purpose == AddressPurpose::Gateway;
        for _ in 0..ATTEMPTS {
            let mut books = self.lock();
            let pool = books.pool(id)?;
            let subnet = books.subnet(&pool.subnet)?;
            let net = subnet.place.net;
            let found = here(subnet, pool.sub, request)?;
            let Some(chosen) = found.filter(|_| is_gateway || self.shared.may_give()) else {
                drop(books);
                self.ask(id, request)?;
                continue;
            };
            let is_chosen = request.address.is_none() && !is_gateway;
            books.give(&pool.subnet, chosen, is_gateway, is_chosen)?;
            // Whoever was stopped for long in between must not answer.
            if !is_gateway && !self.shared.may_give() {
                books.take_back(&pool.subnet, chosen)?;
                continue;
            }
            return Ok(AddressLease {
                address: IpNet::new(address(chosen, net), net.prefix_len())
                    .expect("the prefix is the subnet's own"),
                data: BTreeMap::new(),
            });
        }
        let text = format!("request an address of pool {id}: others took every one that was found");
        Err(Fault::new(FaultKind::Conflict, text))
    }

    fn release_address(&self, id: &PoolId, ip: IpAddr) -> Result<Done, Fault> {
        let mut books = self.lock();
        let Ok(pool) = books.pool(id.as_str()) else {
            return Ok(Done::AlreadySo);
        };
        if !books.subnet(&pool.subnet)?.place.net.contains(&ip) {
            return Ok(Done::AlreadySo);
        }
        let was = books.take_back(&pool.subnet, number(ip))?;
        Ok(if was { Done::Changed } else { Done::AlreadySo })
    }
}

#[cfg(test)]
mod tests;
