//! Address management of one host, in durable records.
//!
//! A *subnet* is a cidr of an address space and owns the addresses held in it. A *pool* is what somebody
//! holds of it: the subnet, or a sub-pool of it. The last pool takes the subnet with it. Every change is on
//! disk before it is answered, so engines need not replay.
//!
//! Who asks may say its name (`longshore.holder`). The same holder asking again for a pool or an address is
//! given what it has, so that one that died before it heard the answer loses nothing.
//!
//! **Invariant:** an address is changed in memory first, marked busy, and its record written without the
//! lock, so that many writers share one sync. Whoever wants a busy address waits.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use kernel::netlink::Socket;
use kernel::record::{Batch, Decoder, Encoder, Records};
use plugin_api::id::{AddressSpace, HolderId, PoolId, quoted};
use plugin_api::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, HOLDER, IpamDriver, PoolLease, PoolRequest,
};
use plugin_api::report::{AddressUse, PoolUse, SubnetUse};
use plugin_api::{Done, Fault, FaultKind};

use super::pool::{address, candidates_v4, candidates_v6, choose, number, overlap};
use super::records::{ADDRESSES, HOST, LAYOUT, POOLS, Pool, SUBNETS, State, address_key, encode_subnet};
use super::subnet::{Held, Slot, Subnet};

const LOCAL: &str = "LongshoreLocal";
const GLOBAL: &str = "LongshoreGlobal";

/// Longest name of a pool's holder: it becomes a part of the pool's id.
const LONGEST_HOLDER: usize = 100;

/// The driver; one per folder of state.
#[derive(Debug)]
pub struct Local {
    records: Records,
    /// The random bits of this host's own IPv6 prefix.
    global_id: u64,
    state: Mutex<State>,
    /// An address is no longer busy.
    settled: Condvar,
}

fn storage(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

fn now() -> Result<u64, Fault> {
    let now = kernel::clock::since_boot().map_err(storage)?;
    Ok(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Subnets that this host already reaches in some way: a pool there would cut it off. Addresses are asked
/// for beside routes, since a link that is down has none.
pub(super) fn host_nets() -> Result<Vec<IpNet>, Fault> {
    let socket = Socket::route().map_err(storage)?;
    let routes = socket.routes().map_err(storage)?;
    let mut nets: Vec<IpNet> = routes
        .into_iter()
        .map(|route| route.destination)
        .filter(|net| net.prefix_len() > 0)
        .collect();
    let addresses = socket.addresses().map_err(storage)?;
    nets.extend(addresses.into_iter().map(|one| one.address));
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

/// The holder among the options of a pool; any other option is refused.
fn holder(request: &PoolRequest) -> Result<Option<String>, Fault> {
    if let Some(option) = request.options.keys().find(|key| key.as_str() != HOLDER) {
        let option = quoted(option);
        return Err(Fault::invalid(format!(
            "address option {option} is unknown, known is {HOLDER}"
        )));
    }
    let Some(text) = request.options.get(HOLDER) else {
        return Ok(None);
    };
    let holder = HolderId::new(text.as_str())?;
    if text.is_empty() || text.len() > LONGEST_HOLDER {
        let text = quoted(text);
        return Err(Fault::invalid(format!(
            "{HOLDER} {text} must have 1 to {LONGEST_HOLDER} characters"
        )));
    }
    Ok(Some(holder.as_str().to_owned()))
}

fn pool_id(key: &str, sub: Option<IpNet>, holder: Option<&str>) -> Result<PoolId, Fault> {
    let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
    let holder = holder.map(|holder| format!("@{holder}")).unwrap_or_default();
    Ok(PoolId::new(format!("{key}{sub}{holder}"))?)
}

fn lease(id: PoolId, pool: IpNet) -> PoolLease {
    PoolLease {
        id,
        pool,
        data: BTreeMap::new(),
    }
}

impl Local {
    /// Opens the state in a folder that exists.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let records = Records::open(&folder.join("state.redb")).map_err(storage)?;
        let state = Mutex::new(State::load(&records, now()?)?);
        let global_id = global_id(&records)?;
        Ok(Self {
            records,
            global_id,
            state,
            settled: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.settled.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Fault> {
        self.records.commit(batch).map_err(storage)
    }

    /// Writes one address without the lock, and then settles it in memory: as `done` on disk, or as `before`
    /// where the disk refused.
    fn write<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        subnet: &str,
        ip: IpAddr,
        (before, done): (Option<Slot>, &Slot),
    ) -> Result<(), Fault> {
        drop(state);
        let batch = Batch::new().put(ADDRESSES, &address_key(subnet, ip), done.encode());
        let outcome = self.commit(&batch);
        let mut state = self.lock();
        // A subnet with a busy address is not removed.
        if let Some(there) = state.subnets.get_mut(subnet) {
            let slot = if outcome.is_ok() {
                Some(done.clone())
            } else {
                before
            };
            there.put(number(ip), slot);
            there.set_busy(number(ip), false);
        }
        self.settled.notify_all();
        outcome
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
                "choose an {family} pool in {space}: every subnet overlaps a route of this host or one of {} held \
                 pools",
                state.pools.len()
            )
        };
        found.ok_or_else(|| Fault::exhausted(why()))
    }
}

fn global_id(records: &Records) -> Result<u64, Fault> {
    if let Some(bytes) = records.get(HOST, "global-id").map_err(storage)? {
        return Decoder::new("global id", LAYOUT, &bytes)
            .and_then(|mut d| d.number())
            .map_err(|error| Fault::from_error(FaultKind::Corrupt, error));
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

impl State {
    /// The pool that a holder has and that is as wished.
    fn pool_of(&self, holder: &str, space: &str, wish: &Wish) -> Option<(&str, IpNet)> {
        let mut pools = self.pools.iter().filter_map(|(id, pool)| {
            let subnet = self.subnets.get(&pool.subnet)?;
            let mine = pool.holder.as_deref() == Some(holder) && subnet.space == space;
            mine.then_some((id.as_str(), subnet.net, pool.sub))
        });
        let found = pools.find(|(_, net, sub)| match wish {
            Wish::Given(wanted, part) => net == wanted && sub == part,
            Wish::Choose { v6, prefix } => {
                net.addr().is_ipv6() == *v6 && prefix.is_none_or(|prefix| prefix == net.prefix_len())
            }
        });
        found.map(|(id, net, _)| (id, net))
    }

    fn refuse_overlap(&self, net: IpNet, space: &str) -> Result<(), Fault> {
        let mut others = self
            .subnets
            .values()
            .filter(|other| other.space == space && other.net != net);
        match others.find(|other| overlap(other.net, net)) {
            Some(other) => {
                let text = format!("pool {net} overlaps pool {} of address space {space}", other.net);
                Err(Fault::new(FaultKind::Conflict, text))
            }
            None => Ok(()),
        }
    }

    fn subnet_of(&mut self, request: &AddressRequest) -> Result<(Pool, u64, &mut Subnet), Fault> {
        let id = request.pool.as_str();
        let unknown = || Fault::not_found(format!("request an address of pool {id}: it is not held"));
        let pool = self.pools.get(id).cloned().ok_or_else(unknown)?;
        let holders = self.pools_of(&pool.subnet);
        let subnet = self.subnets.get_mut(&pool.subnet).ok_or_else(unknown)?;
        Ok((pool, holders, subnet))
    }
}

/// What a slot is once a request for it is granted.
fn granted(before: Option<&Held>, request: &AddressRequest, pools: u64) -> Held {
    match before {
        Some(held) if held.is_gateway => Held {
            holders: pools.min(held.holders + 1),
            ..held.clone()
        },
        Some(held) => held.clone(),
        None => Held {
            is_gateway: request.purpose == AddressPurpose::Gateway,
            holders: 1,
            holder: request.holder.as_ref().map(|holder| holder.as_str().to_owned()),
        },
    }
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
        let holder = holder(request)?;
        let space = request.space.as_str();
        let mut state = self.lock();
        let mine = holder
            .as_deref()
            .and_then(|holder| state.pool_of(holder, space, &wish));
        if let Some((id, net)) = mine {
            return Ok(lease(PoolId::new(id)?, net));
        }
        let (net, sub) = match wish {
            Wish::Given(net, sub) => (net, sub),
            Wish::Choose { v6, prefix } => (self.choose(&state, space, (v6, prefix))?, None),
        };
        state.refuse_overlap(net, space)?;
        let key = format!("{space}/{net}");
        let id = pool_id(&key, sub, holder.as_deref())?;
        let pool = Pool {
            subnet: key.clone(),
            sub,
            holders: state.pools.get(id.as_str()).map_or(0, |pool| pool.holders) + 1,
            holder,
        };
        let mut batch = Batch::new().put(POOLS, id.as_str(), pool.encode());
        let fresh = (!state.subnets.contains_key(&key)).then(|| Subnet::new(space, net));
        if let Some(fresh) = &fresh {
            batch = batch.put(SUBNETS, &key, encode_subnet(fresh));
        }
        self.commit(&batch)?;
        state.subnets.extend(fresh.map(|fresh| (key, fresh)));
        state.pools.insert(id.as_str().to_owned(), pool);
        Ok(lease(id, net))
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        let mut state = self.lock();
        loop {
            let Some(pool) = state.pools.get(id.as_str()) else {
                return Ok(Done::AlreadySo);
            };
            if !state.subnets.get(&pool.subnet).is_some_and(Subnet::has_busy) {
                break;
            }
            state = self.wait(state);
        }
        let mut pool = state.pools[id.as_str()].clone();
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
            for ip in subnet.recorded() {
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
        let now = now()?;
        let mut state = self.lock();
        let (key, ip, net, change) = loop {
            let (pool, pools, subnet) = state.subnet_of(request)?;
            let chosen = subnet.pick(pool.sub, request, now)?;
            if subnet.is_busy(chosen) {
                state = self.wait(state);
                continue;
            }
            let before = subnet.slot(chosen).cloned();
            let done = Slot::Held(granted(subnet.held(chosen), request, pools));
            let is_changed = before.as_ref() != Some(&done);
            if is_changed {
                subnet.put(chosen, Some(done.clone()));
                subnet.set_busy(chosen, true);
            }
            let change = is_changed.then_some((before, done));
            break (pool.subnet, address(chosen, subnet.net), subnet.net, change);
        };
        if let Some((before, done)) = change {
            self.write(state, &key, ip, (before, &done))?;
        }
        Ok(AddressLease {
            address: IpNet::new(ip, net.prefix_len()).expect("the prefix is the subnet's own"),
            data: BTreeMap::new(),
        })
    }

    fn release_address(&self, id: &PoolId, ip: IpAddr) -> Result<Done, Fault> {
        let now = now()?;
        let mut state = self.lock();
        loop {
            let Some(key) = state.pools.get(id.as_str()).map(|pool| pool.subnet.clone()) else {
                return Ok(Done::AlreadySo);
            };
            let subnet = state
                .subnets
                .get_mut(&key)
                .filter(|subnet| subnet.net.contains(&ip));
            let Some(subnet) = subnet else {
                return Ok(Done::AlreadySo);
            };
            if subnet.is_busy(number(ip)) {
                state = self.wait(state);
                continue;
            }
            let Some(held) = subnet.held(number(ip)).cloned() else {
                return Ok(Done::AlreadySo);
            };
            let done = match held.holders {
                0 | 1 => Slot::Resting(now),
                more => Slot::Held(Held {
                    holders: more - 1,
                    ..held.clone()
                }),
            };
            subnet.set_busy(number(ip), true);
            self.write(state, &key, ip, (Some(Slot::Held(held)), &done))?;
            return Ok(Done::Changed);
        }
    }

    fn report(&self) -> Vec<SubnetUse> {
        let state = self.lock();
        let mut all = Vec::new();
        for (key, subnet) in &state.subnets {
            let mine = state.pools.iter().filter(|(_, pool)| pool.subnet == *key);
            let pools = mine.map(|(id, pool)| PoolUse {
                id: PoolId::new(id.as_str()).expect("it was one before"),
                sub_pool: pool.sub,
                holders: pool.holders,
                holder: pool.holder.clone(),
            });
            let addresses = subnet.all_held().map(|(address, held)| AddressUse {
                address,
                is_gateway: held.is_gateway,
                holder: held.holder.clone(),
            });
            all.push(SubnetUse {
                space: subnet.space.clone(),
                subnet: subnet.net,
                size: subnet.size(),
                resting: subnet.resting() as u64,
                pools: pools.collect(),
                addresses: addresses.collect(),
            });
        }
        all
    }
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

    fn pool_request(pool: Option<&str>, holder: Option<&str>) -> PoolRequest {
        PoolRequest {
            space: AddressSpace::new(LOCAL).unwrap(),
            pool: pool.map(|net| net.parse().unwrap()),
            sub_pool: None,
            options: holder
                .map(|holder| (HOLDER.to_owned(), holder.to_owned()))
                .into_iter()
                .collect(),
            v6: false,
        }
    }

    fn address_request(pool: &PoolId, address: Option<&str>, holder: Option<&str>) -> AddressRequest {
        AddressRequest {
            pool: pool.clone(),
            address: address.map(|ip| ip.parse().unwrap()),
            purpose: AddressPurpose::Endpoint,
            mac: None,
            serial: false,
            holder: holder.map(|holder| HolderId::new(holder).unwrap()),
        }
    }

    /// A driver that is opened anew over one folder, in a namespace without routes.
    fn with_folder(work: impl FnOnce(&dyn Fn() -> Local) + Send) {
        let home = tempfile::tempdir().unwrap();
        kernel::netns::run_in_new(|| work(&|| Local::open(home.path()).unwrap())).unwrap();
    }

    #[test]
    fn a_holder_that_lost_the_answer_is_given_the_same_again() {
        with_folder(|open| {
            let driver = open();
            let chosen = driver.request_pool(&pool_request(None, Some("net"))).unwrap();
            let first = driver
                .request_address(&address_request(&chosen.id, None, Some("one")))
                .unwrap();
            drop(driver);
            let driver = open();
            assert_eq!(
                driver.request_pool(&pool_request(None, Some("net"))).unwrap(),
                chosen
            );
            let again = driver.request_address(&address_request(&chosen.id, None, Some("one")));
            assert_eq!(again.unwrap(), first);
            let other = driver
                .request_address(&address_request(&chosen.id, None, Some("two")))
                .unwrap();
            assert_ne!(other.address, first.address);
            let stranger = pool_request(Some(&chosen.pool.to_string()), None);
            let counted = driver.request_pool(&stranger).unwrap();
            assert_ne!(counted.id, chosen.id);
            assert_eq!(driver.release_pool(&chosen.id).unwrap(), Done::Changed);
            assert_eq!(
                driver.report()[0].addresses.len(),
                2,
                "the pool is held by another still"
            );
            driver.release_pool(&counted.id).unwrap();
            assert_eq!(driver.report(), []);
        });
    }

    #[test]
    fn a_released_address_rests_over_a_restart() {
        with_folder(|open| {
            let driver = open();
            let pool = driver
                .request_pool(&pool_request(Some("10.9.0.0/29"), None))
                .unwrap()
                .id;
            let any = address_request(&pool, None, None);
            let take = |driver: &Local| driver.request_address(&any).unwrap().address.addr().to_string();
            assert_eq!([take(&driver), take(&driver)], ["10.9.0.1", "10.9.0.2"]);
            driver
                .release_address(&pool, "10.9.0.1".parse().unwrap())
                .unwrap();
            drop(driver);
            let driver = open();
            let order: Vec<String> = (0..5).map(|_| take(&driver)).collect();
            assert_eq!(
                order,
                ["10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.1"]
            );
            let full = driver.request_address(&any).unwrap_err();
            assert_eq!(full.kind, FaultKind::Exhausted);
            assert!(
                full.message.contains("10.9.0.0/29") && full.message.contains("6 of 6"),
                "{full}"
            );
        });
    }

    #[test]
    fn an_engine_that_asks_again_for_everything_gets_the_same_answers() {
        with_folder(|open| {
            let driver = open();
            let asked = pool_request(Some("10.9.0.0/24"), None);
            let gateway = |pool: &PoolId| AddressRequest {
                purpose: AddressPurpose::Gateway,
                ..address_request(pool, Some("10.9.0.1"), None)
            };
            let pool = driver.request_pool(&asked).unwrap();
            let first = driver.request_address(&gateway(&pool.id)).unwrap();
            let held = driver
                .request_address(&address_request(&pool.id, None, None))
                .unwrap();
            drop(driver);
            let driver = open();
            assert_eq!(driver.request_pool(&asked).unwrap(), pool);
            assert_eq!(driver.request_address(&gateway(&pool.id)).unwrap(), first);
            let ip = held.address.addr().to_string();
            let again = driver.request_address(&address_request(&pool.id, Some(&ip), None));
            let told = again.unwrap_err();
            assert_eq!(told.kind, FaultKind::Conflict, "it is kept, and needs no replay");
            assert!(!driver.capabilities().requires_replay);
        });
    }

    #[test]
    fn a_link_that_is_down_is_avoided_too() {
        use kernel::netlink::{address, link};
        with_folder(|open| {
            let socket = Socket::route().unwrap();
            socket
                .all(link::create_bridge("br0", &link::Bridge::default()))
                .unwrap();
            let index = socket.index_of("br0").unwrap();
            socket
                .all(vec![address::add(index, "172.18.0.1/16".parse().unwrap())])
                .unwrap();
            let lease = open().request_pool(&pool_request(None, None)).unwrap();
            assert_eq!(lease.pool.to_string(), "172.19.0.0/16");
        });
    }

    #[test]
    fn hostile_holders_are_refused() {
        with_folder(|open| {
            let driver = open();
            for holder in ["", "a b", "a\0", &"x".repeat(101)] {
                let asked = pool_request(Some("10.9.0.0/24"), Some(holder));
                let fault = driver.request_pool(&asked).unwrap_err();
                assert_eq!(fault.kind, FaultKind::Invalid, "{holder:?}");
            }
            let mut asked = pool_request(None, None);
            asked.options.insert("size".into(), "3".into());
            let fault = driver.request_pool(&asked).unwrap_err();
            assert!(fault.message.contains("\"size\" is unknown"), "{fault}");
            assert_eq!(driver.report(), []);
        });
    }
}
