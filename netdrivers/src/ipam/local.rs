//! Address management of one host, in durable records.
//!
//! A *subnet* is a cidr of an address space and owns the addresses held in it. A *pool* is what an
//! engine holds of it: the subnet, or a sub-pool of it. The last pool takes the subnet with it. Every
//! change is on disk before it is answered, so engines need not replay.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use kernel::netlink::Socket;
use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::id::{AddressSpace, PoolId};
use plugin_api::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, IpamDriver, PoolLease, PoolRequest,
};
use plugin_api::{Done, Fault, FaultKind};

use super::pool::{
    address, candidates_v4, candidates_v6, choose, next_free, number, overlap, usable, usable_within,
};

const LOCAL: &str = "LongshoreLocal";
const GLOBAL: &str = "LongshoreGlobal";

const SUBNETS: &str = "subnets";
const POOLS: &str = "pools";
const ADDRESSES: &str = "addresses";
const HOST: &str = "host";
const LAYOUT: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    is_gateway: bool,
    /// How many pools share the gateway; 1 for other addresses.
    holders: u64,
}

#[derive(Debug, Clone)]
struct Subnet {
    space: String,
    net: IpNet,
    last: Option<u128>,
    held: BTreeMap<u128, Held>,
}

#[derive(Debug, Clone)]
struct Pool {
    subnet: String,
    sub: Option<IpNet>,
    holders: u64,
}

#[derive(Debug, Default)]
struct State {
    subnets: BTreeMap<String, Subnet>,
    pools: BTreeMap<String, Pool>,
}

/// The driver; one per folder of state.
#[derive(Debug)]
pub struct Local {
    records: Records,
    /// The random bits of this host's own IPv6 prefix.
    global_id: u64,
    state: Mutex<State>,
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::from_error(FaultKind::Corrupt, error)
}

fn storage(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

fn parse<T: std::str::FromStr>(text: &str, decoder: &Decoder<'_>) -> Result<T, Damaged> {
    text.parse().map_err(|_| decoder.damaged())
}

impl Subnet {
    fn encode(&self) -> Vec<u8> {
        let last = self.last.map(|last| last.to_string());
        Encoder::new(LAYOUT)
            .text(&self.space)
            .text(&self.net.to_string())
            .maybe(last.as_deref())
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut d = Decoder::new("subnet", LAYOUT, bytes)?;
        let space = d.text()?;
        let net = parse(&d.text()?, &d)?;
        let last = d.maybe()?.map(|last| parse(&last, &d)).transpose()?;
        d.end()?;
        Ok(Self {
            space,
            net,
            last,
            held: BTreeMap::new(),
        })
    }
}

impl Pool {
    fn encode(&self) -> Vec<u8> {
        let sub = self.sub.map(|sub| sub.to_string());
        Encoder::new(LAYOUT)
            .text(&self.subnet)
            .maybe(sub.as_deref())
            .number(self.holders)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut d = Decoder::new("pool", LAYOUT, bytes)?;
        let subnet = d.text()?;
        let sub = d.maybe()?.map(|sub| parse(&sub, &d)).transpose()?;
        let holders = d.number()?;
        d.end()?;
        Ok(Self { subnet, sub, holders })
    }
}

impl Held {
    fn encode(self) -> Vec<u8> {
        Encoder::new(LAYOUT)
            .flag(self.is_gateway)
            .number(self.holders)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut d = Decoder::new("address", LAYOUT, bytes)?;
        let held = Self {
            is_gateway: d.flag()?,
            holders: d.number()?,
        };
        d.end()?;
        Ok(held)
    }
}

fn address_key(subnet: &str, ip: IpAddr) -> String {
    format!("{subnet}|{ip}")
}

impl State {
    fn load(records: &Records) -> Result<Self, Fault> {
        let mut state = Self::default();
        for (key, value) in records.list(SUBNETS).map_err(storage)? {
            state
                .subnets
                .insert(key, Subnet::decode(&value).map_err(corrupt)?);
        }
        for (key, value) in records.list(POOLS).map_err(storage)? {
            state.pools.insert(key, Pool::decode(&value).map_err(corrupt)?);
        }
        for (key, value) in records.list(ADDRESSES).map_err(storage)? {
            let held = Held::decode(&value).map_err(corrupt)?;
            let ip = key
                .rsplit_once('|')
                .and_then(|(subnet, ip)| Some((subnet, ip.parse::<IpAddr>().ok()?)));
            let (subnet, ip) = ip.ok_or_else(|| {
                Fault::new(FaultKind::Corrupt, format!("address record {key} makes no sense"))
            })?;
            if let Some(subnet) = state.subnets.get_mut(subnet) {
                subnet.held.insert(number(ip), held);
            }
        }
        Ok(state)
    }

    fn pools_of(&self, subnet: &str) -> u64 {
        let pools = self.pools.values().filter(|pool| pool.subnet == subnet);
        pools.map(|pool| pool.holders).sum()
    }
}

/// Subnets that this host already reaches in some way: a pool there would cut it off.
pub(super) fn host_nets() -> Result<Vec<IpNet>, Fault> {
    let socket = Socket::route().map_err(storage)?;
    let routes = socket.routes().map_err(storage)?;
    let mut nets: Vec<IpNet> = routes
        .into_iter()
        .map(|route| route.destination)
        .filter(|net| net.prefix_len() > 0)
        .collect();
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = resolvers.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    nets.extend(servers.map(IpNet::from));
    Ok(nets)
}

/// What a pool request asks for, checked.
pub(super) enum Wish {
    Given(IpNet, Option<IpNet>),
    Choose { v6: bool, prefix: Option<u8> },
}

pub(super) fn wish(request: &PoolRequest) -> Result<Wish, Fault> {
    if let Some(option) = request.options.keys().next() {
        let option = plugin_api::id::quoted(option);
        return Err(Fault::invalid(format!(
            "address option {option} is unknown; there are none"
        )));
    }
    let Some(pool) = request.pool.map(|pool| pool.trunc()) else {
        return match request.sub_pool {
            Some(sub) => Err(Fault::invalid(format!("sub-pool {sub} without a pool"))),
            None => Ok(Wish::Choose {
                v6: request.v6,
                prefix: None,
            }),
        };
    };
    if pool.addr().is_unspecified() {
        let (v6, prefix) = (pool.addr().is_ipv6(), pool.prefix_len());
        if prefix < 8 || v6 && prefix < 48 {
            return Err(Fault::invalid(format!(
                "pool {pool} is larger than any to choose from"
            )));
        }
        return Ok(Wish::Choose {
            v6,
            prefix: Some(prefix),
        });
    }
    let sub = request.sub_pool.map(|sub| sub.trunc());
    match sub {
        Some(sub) if !pool.contains(&sub) => Err(Fault::invalid(format!(
            "sub-pool {sub} lies outside its pool {pool}"
        ))),
        _ => Ok(Wish::Given(pool, sub)),
    }
}

impl Local {
    /// Opens the state in a folder that exists.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let records = Records::open(&folder.join("state.redb")).map_err(storage)?;
        let state = Mutex::new(State::load(&records)?);
        let global_id = global_id(&records)?;
        Ok(Self {
            records,
            global_id,
            state,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Fault> {
        self.records.commit(batch).map_err(storage)
    }

    fn choose(&self, state: &State, space: &str, (v6, prefix): (bool, Option<u8>)) -> Result<IpNet, Fault> {
        let mut taken = host_nets()?;
        taken.extend(state.subnets.values().map(|subnet| subnet.net));
        let found = if v6 {
            choose(candidates_v6(prefix, self.global_id).take(65_536), &taken)
        } else {
            choose(candidates_v4(prefix, space == GLOBAL), &taken)
        };
        let family = if v6 { "IPv6" } else { "IPv4" };
        let why = || {
            format!(
                "choose an {family} pool in {space}: every subnet overlaps a route of this host or a held pool"
            )
        };
        found.ok_or_else(|| Fault::exhausted(why()))
    }
}

fn global_id(records: &Records) -> Result<u64, Fault> {
    if let Some(bytes) = records.get(HOST, "global-id").map_err(storage)? {
        return Decoder::new("global id", LAYOUT, &bytes)
            .and_then(|mut d| d.number())
            .map_err(corrupt);
    }
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Fault::internal("read random bytes").because(error))?;
    let id = u64::from_ne_bytes(bytes) >> 24;
    let value = Encoder::new(LAYOUT).number(id).finish();
    records
        .commit(&Batch::new().put(HOST, "global-id", value))
        .map_err(storage)?;
    Ok(id)
}

impl IpamDriver for Local {
    fn default_spaces(&self) -> Result<DefaultSpaces, Fault> {
        Ok(DefaultSpaces {
            local: AddressSpace::new(LOCAL)?,
            global: AddressSpace::new(GLOBAL)?,
        })
    }

    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault> {
        let wish = wish(request)?;
        let space = request.space.as_str();
        let mut state = self.lock();
        let (net, sub) = match wish {
            Wish::Given(net, sub) => (net, sub),
            Wish::Choose { v6, prefix } => (self.choose(&state, space, (v6, prefix))?, None),
        };
        let key = format!("{space}/{net}");
        let id = sub.map_or_else(|| key.clone(), |sub| format!("{key}/{sub}"));
        let mut others = state
            .subnets
            .values()
            .filter(|other| other.space == space && other.net != net);
        if let Some(other) = others.find(|other| overlap(other.net, net)) {
            let text = format!("pool {net} overlaps pool {} of address space {space}", other.net);
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        let fresh = || Subnet {
            space: space.to_owned(),
            net,
            last: None,
            held: BTreeMap::new(),
        };
        let subnet = state.subnets.get(&key).cloned().unwrap_or_else(fresh);
        let holders = state.pools.get(&id).map_or(0, |pool| pool.holders) + 1;
        let pool = Pool {
            subnet: key.clone(),
            sub,
            holders,
        };
        self.commit(
            &Batch::new()
                .put(SUBNETS, &key, subnet.encode())
                .put(POOLS, &id, pool.encode()),
        )?;
        state.subnets.insert(key, subnet);
        state.pools.insert(id.clone(), pool);
        Ok(PoolLease {
            id: PoolId::new(id)?,
            pool: net,
            data: BTreeMap::new(),
        })
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        let mut state = self.lock();
        let Some(mut pool) = state.pools.get(id.as_str()).cloned() else {
            return Ok(Done::AlreadySo);
        };
        pool.holders = pool.holders.saturating_sub(1);
        if pool.holders > 0 {
            self.commit(&Batch::new().put(POOLS, id.as_str(), pool.encode()))?;
            state.pools.insert(id.as_str().to_owned(), pool);
            return Ok(Done::Changed);
        }
        let mut batch = Batch::new().delete(POOLS, id.as_str());
        let mut others = state
            .pools
            .iter()
            .filter(|(other, _)| other.as_str() != id.as_str());
        let is_last = !others.any(|(_, other)| other.subnet == pool.subnet);
        if is_last && let Some(subnet) = state.subnets.get(&pool.subnet) {
            batch = batch.delete(SUBNETS, &pool.subnet);
            for held in subnet.held.keys() {
                let ip = address(*held, subnet.net);
                batch = batch.delete(ADDRESSES, &address_key(&pool.subnet, ip));
            }
        }
        self.commit(&batch)?;
        state.pools.remove(id.as_str());
        if is_last {
            state.subnets.remove(&pool.subnet);
        }
        Ok(Done::Changed)
    }

    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault> {
        let mut state = self.lock();
        let id = request.pool.as_str();
        let unknown = || Fault::not_found(format!("request an address of pool {id}: it is not held"));
        let pool = state.pools.get(id).cloned().ok_or_else(unknown)?;
        let holders = state.pools_of(&pool.subnet);
        let subnet = state.subnets.get_mut(&pool.subnet).ok_or_else(unknown)?;
        let is_gateway = request.purpose == AddressPurpose::Gateway;
        let chosen = pick(subnet, pool.sub, request)?;
        let before = subnet.held.get(&chosen).copied();
        let held = match before {
            Some(held) if held.is_gateway => Held {
                holders: holders.min(held.holders + 1),
                ..held
            },
            _ => Held {
                is_gateway,
                holders: 1,
            },
        };
        let ip = address(chosen, subnet.net);
        let mut changed = subnet.clone();
        if request.address.is_none() && before.is_none() {
            changed.last = Some(chosen);
        }
        changed.held.insert(chosen, held);
        if before != Some(held) {
            let key = address_key(&pool.subnet, ip);
            let batch = Batch::new().put(ADDRESSES, &key, held.encode());
            self.commit(&batch.put(SUBNETS, &pool.subnet, changed.encode()))?;
        }
        let net = IpNet::new(ip, subnet.net.prefix_len()).expect("the prefix is the subnet's own");
        *subnet = changed;
        Ok(AddressLease {
            address: net,
            data: BTreeMap::new(),
        })
    }

    fn release_address(&self, id: &PoolId, ip: IpAddr) -> Result<Done, Fault> {
        let mut state = self.lock();
        let Some(pool) = state.pools.get(id.as_str()).cloned() else {
            return Ok(Done::AlreadySo);
        };
        let Some(subnet) = state.subnets.get_mut(&pool.subnet) else {
            return Ok(Done::AlreadySo);
        };
        let Some(mut held) = subnet
            .held
            .get(&number(ip))
            .copied()
            .filter(|_| subnet.net.contains(&ip))
        else {
            return Ok(Done::AlreadySo);
        };
        let key = address_key(&pool.subnet, ip);
        held.holders = held.holders.saturating_sub(1);
        if held.holders > 0 {
            self.commit(&Batch::new().put(ADDRESSES, &key, held.encode()))?;
            subnet.held.insert(number(ip), held);
        } else {
            self.commit(&Batch::new().delete(ADDRESSES, &key))?;
            subnet.held.remove(&number(ip));
        }
        Ok(Done::Changed)
    }
}

/// The number to give, unless it is refused; changes nothing.
fn pick(subnet: &Subnet, sub: Option<IpNet>, request: &AddressRequest) -> Result<u128, Fault> {
    let net = subnet.net;
    let is_gateway = request.purpose == AddressPurpose::Gateway;
    if let Some(ip) = request.address {
        let wanted = number(ip);
        let (first, last) = usable(net);
        if ip.is_ipv4() != net.addr().is_ipv4() || !net.contains(&ip) {
            return Err(Fault::invalid(format!("address {ip} lies outside pool {net}")));
        }
        if wanted < first || wanted > last {
            return Err(Fault::invalid(format!(
                "address {ip} is pool {net}'s own, or its broadcast"
            )));
        }
        return match subnet.held.get(&wanted) {
            Some(held) if !(held.is_gateway && is_gateway) => {
                let text = format!("address {ip} of pool {net} is held already");
                Err(Fault::new(FaultKind::Conflict, text))
            }
            _ => Ok(wanted),
        };
    }
    let span = usable_within(net, sub);
    if is_gateway {
        let mut gateways = subnet.held.iter().filter(|(_, held)| held.is_gateway);
        if let Some((gateway, _)) = gateways.next() {
            return Ok(*gateway);
        }
    }
    let after = if is_gateway { None } else { subnet.last };
    let full = || {
        let part = sub.map(|sub| format!(" within {sub}")).unwrap_or_default();
        Fault::exhausted(format!(
            "pool {net}{part} has no free address ({} held)",
            subnet.held.len()
        ))
    };
    next_free(span, &subnet.held, after).ok_or_else(full)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plugin_api::contract::{IpamSubject, ipam};

    use super::*;

    #[test]
    fn the_contract_holds() {
        let home = tempfile::tempdir().unwrap();
        kernel::netns::run_in_new(|| {
            let count = std::sync::atomic::AtomicU32::new(0);
            let last = Mutex::new(home.path().to_owned());
            let open = || {
                let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let folder = home.path().join(n.to_string());
                std::fs::create_dir(&folder).unwrap();
                *last.lock().unwrap() = folder.clone();
                Local::open(&folder).map(|driver| Arc::new(driver) as Arc<dyn IpamDriver>)
            };
            let again = |old| {
                drop(old);
                Local::open(&last.lock().unwrap()).map(|driver| Arc::new(driver) as Arc<dyn IpamDriver>)
            };
            ipam::check(&IpamSubject::new(open).on_restart(again));
        })
        .unwrap();
    }

    #[test]
    fn chosen_pools_avoid_the_hosts_routes() {
        use kernel::netlink::{address, link};
        let home = tempfile::tempdir().unwrap();
        kernel::netns::run_in_new(|| {
            let socket = Socket::route().unwrap();
            socket
                .all(link::create_bridge("br0", &link::Bridge::default()))
                .unwrap();
            let index = socket.index_of("br0").unwrap();
            let net = "172.18.9.1/24".parse().unwrap();
            let up = link::set_up(link::At::Index(index));
            socket.all(vec![address::add(index, net), up]).unwrap();
            let driver = Local::open(home.path()).unwrap();
            let request = PoolRequest {
                space: AddressSpace::new(LOCAL).unwrap(),
                pool: None,
                sub_pool: None,
                options: BTreeMap::new(),
                v6: false,
            };
            let first = driver.request_pool(&request).unwrap();
            let second = driver.request_pool(&request).unwrap();
            assert_eq!(first.pool.to_string(), "172.19.0.0/16");
            assert_eq!(second.pool.to_string(), "172.20.0.0/16");
        })
        .unwrap();
    }
}
