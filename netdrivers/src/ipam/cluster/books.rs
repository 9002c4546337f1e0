//! What this host holds, in durable records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use kernel::record::{Batch, Damaged, Decoder, Encoder, Records};
use plugin_api::{Fault, FaultKind};

use super::super::pool::{address, number};
use super::shared::Place;

const SUBNETS: &str = "subnets";
const POOLS: &str = "pools";
const ADDRESSES: &str = "addresses";
/// Subnets that nobody here holds, and which the store has not heard of yet.
const LEAVING: &str = "leaving";
const LAYOUT: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) is_gateway: bool,
    /// How many pools share the gateway; 1 for other addresses.
    holders: u64,
}

impl Held {
    pub(super) const GATEWAY: Self = Self {
        is_gateway: true,
        holders: 1,
    };
}

/// A subnet that some pool here is of.
#[derive(Debug, Clone)]
pub(super) struct Subnet {
    pub(super) place: Place,
    pub(super) held: BTreeMap<u128, Held>,
    /// First addresses of the blocks that this host owns; the store knows them for good.
    pub(super) blocks: BTreeSet<IpAddr>,
    /// What the cluster agreed on, once it was asked.
    pub(super) gateway: Option<u128>,
    /// What this host asks the cluster to agree on just now.
    pub(super) wished: Option<u128>,
    /// The address that was chosen last.
    pub(super) last: Option<u128>,
}

/// What an engine holds of a subnet.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) subnet: String,
    pub(super) sub: Option<IpNet>,
    holders: u64,
}

/// What a release has left.
#[derive(Debug)]
pub(super) enum Released {
    /// There was nothing to release.
    Unknown,
    /// Others hold the subnet still.
    OneOfMany,
    /// Nobody here holds the subnet any more; the store has to hear of it.
    Last(Place),
}

/// Everything, in memory and on disk.
pub(super) struct Books {
    records: Records,
    pub(super) subnets: BTreeMap<String, Subnet>,
    pools: BTreeMap<String, Pool>,
    leaving: BTreeMap<String, Place>,
}

fn storage(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

fn corrupt(error: Damaged) -> Fault {
    Fault::from_error(FaultKind::Corrupt, error)
}

fn parse<T: std::str::FromStr>(text: &str, decoder: &Decoder<'_>) -> Result<T, Damaged> {
    text.parse().map_err(|_| decoder.damaged())
}

fn encode_place(place: &Place) -> Vec<u8> {
    let net = place.net.to_string();
    Encoder::new(LAYOUT).text(&place.space).text(&net).finish()
}

fn decode_place(bytes: &[u8]) -> Result<Place, Damaged> {
    let mut d = Decoder::new("subnet", LAYOUT, bytes)?;
    let space = d.text()?;
    let net = parse(&d.text()?, &d)?;
    d.end()?;
    Ok(Place { space, net })
}

fn encode_pool(pool: &Pool) -> Vec<u8> {
    let sub = pool.sub.map(|sub| sub.to_string());
    let encoder = Encoder::new(LAYOUT).text(&pool.subnet);
    encoder.maybe(sub.as_deref()).number(pool.holders).finish()
}

fn decode_pool(bytes: &[u8]) -> Result<Pool, Damaged> {
    let mut d = Decoder::new("pool", LAYOUT, bytes)?;
    let subnet = d.text()?;
    let sub = d.maybe()?.map(|sub| parse(&sub, &d)).transpose()?;
    let holders = d.number()?;
    d.end()?;
    Ok(Pool { subnet, sub, holders })
}

fn encode_held(held: Held) -> Vec<u8> {
    let encoder = Encoder::new(LAYOUT).flag(held.is_gateway);
    encoder.number(held.holders).finish()
}

fn decode_held(bytes: &[u8]) -> Result<Held, Damaged> {
    let mut d = Decoder::new("address", LAYOUT, bytes)?;
    let (is_gateway, holders) = (d.flag()?, d.number()?);
    d.end()?;
    Ok(Held { is_gateway, holders })
}

fn address_key(subnet: &str, ip: IpAddr) -> String {
    format!("{subnet}|{ip}")
}

impl Books {
    /// Opens the records in a folder.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let records = Records::open(&folder.join("state.redb")).map_err(storage)?;
        let mut subnets = BTreeMap::new();
        for (key, value) in records.list(SUBNETS).map_err(storage)? {
            let subnet = Subnet {
                place: decode_place(&value).map_err(corrupt)?,
                held: BTreeMap::new(),
                blocks: BTreeSet::new(),
                gateway: None,
                wished: None,
                last: None,
            };
            subnets.insert(key, subnet);
        }
        let mut pools = BTreeMap::new();
        for (key, value) in records.list(POOLS).map_err(storage)? {
            pools.insert(key, decode_pool(&value).map_err(corrupt)?);
        }
        for (key, value) in records.list(ADDRESSES).map_err(storage)? {
            let held = decode_held(&value).map_err(corrupt)?;
            let found = key.rsplit_once('|').and_then(|(subnet, ip)| {
                let ip = ip.parse().ok()?;
                Some((subnets.get_mut(subnet)?, ip))
            });
            let (subnet, ip) = found.ok_or_else(|| {
                Fault::new(FaultKind::Corrupt, format!("address record {key} makes no sense"))
            })?;
            subnet.held.insert(number(ip), held);
            if held.is_gateway {
                subnet.gateway = Some(number(ip));
            }
        }
        let mut leaving = BTreeMap::new();
        for (key, value) in records.list(LEAVING).map_err(storage)? {
            leaving.insert(key, decode_place(&value).map_err(corrupt)?);
        }
        Ok(Self {
            records,
            subnets,
            pools,
            leaving,
        })
    }

    fn commit(&self, batch: &Batch) -> Result<(), Fault> {
        self.records.commit(batch).map_err(storage)
    }

    pub(super) fn pool(&self, id: &str) -> Result<Pool, Fault> {
        let pool = self.pools.get(id).cloned();
        pool.ok_or_else(|| Fault::not_found(format!("request an address of pool {id}: it is not held")))
    }

    pub(super) fn subnet(&self, key: &str) -> Result<&Subnet, Fault> {
        let subnet = self.subnets.get(key);
        subnet.ok_or_else(|| Fault::internal(format!("subnet {key} of a held pool is not there")))
    }

    pub(super) fn subnet_mut(&mut self, key: &str) -> Result<&mut Subnet, Fault> {
        let subnet = self.subnets.get_mut(key);
        subnet.ok_or_else(|| Fault::internal(format!("subnet {key} of a held pool is not there")))
    }

    /// Whether some pool here is of the subnet.
    pub(super) fn holds(&self, place: &Place) -> bool {
        self.subnets.contains_key(&place.part())
    }

    /// Counts one more holder of a pool; answers its id.
    pub(super) fn hold(&mut self, place: &Place, sub: Option<IpNet>) -> Result<String, Fault> {
        let key = place.part();
        let id = sub.map_or_else(|| key.clone(), |sub| format!("{key}/{sub}"));
        let pool = Pool {
            subnet: key.clone(),
            sub,
            holders: self.pools.get(&id).map_or(0, |pool| pool.holders) + 1,
        };
        let batch = Batch::new()
            .put(SUBNETS, &key, encode_place(place))
            .put(POOLS, &id, encode_pool(&pool))
            .delete(LEAVING, &key);
        self.commit(&batch)?;
        self.leaving.remove(&key);
        self.pools.insert(id.clone(), pool);
        self.subnets.entry(key).or_insert_with(|| Subnet {
            place: place.clone(),
            held: BTreeMap::new(),
            blocks: BTreeSet::new(),
            gateway: None,
            wished: None,
            last: None,
        });
        Ok(id)
    }

    /// Counts one holder less.
    pub(super) fn release(&mut self, id: &str) -> Result<Released, Fault> {
        let Some(mut pool) = self.pools.get(id).cloned() else {
            return Ok(Released::Unknown);
        };
        pool.holders = pool.holders.saturating_sub(1);
        if pool.holders > 0 {
            self.commit(&Batch::new().put(POOLS, id, encode_pool(&pool)))?;
            self.pools.insert(id.to_owned(), pool);
            return Ok(Released::OneOfMany);
        }
        let mut others = self.pools.iter().filter(|(other, _)| other.as_str() != id);
        let is_last = !others.any(|(_, other)| other.subnet == pool.subnet);
        let mut batch = Batch::new().delete(POOLS, id);
        let place = self.subnet(&pool.subnet)?.place.clone();
        if is_last {
            batch = batch
                .delete(SUBNETS, &pool.subnet)
                .put(LEAVING, &pool.subnet, encode_place(&place));
            for held in self.subnet(&pool.subnet)?.held.keys() {
                batch = batch.delete(ADDRESSES, &address_key(&pool.subnet, address(*held, place.net)));
            }
        }
        self.commit(&batch)?;
        self.pools.remove(id);
        if is_last {
            self.subnets.remove(&pool.subnet);
            self.leaving.insert(pool.subnet, place.clone());
        }
        Ok(if is_last {
            Released::Last(place)
        } else {
            Released::OneOfMany
        })
    }

    /// Subnets that the store has to hear of.
    pub(super) fn leaving(&self) -> Vec<Place> {
        self.leaving.values().cloned().collect()
    }

    /// The store has heard of it.
    pub(super) fn left(&mut self, place: &Place) -> Result<(), Fault> {
        let key = place.part();
        self.commit(&Batch::new().delete(LEAVING, &key))?;
        self.leaving.remove(&key);
        Ok(())
    }

    /// Records an address; a gateway once more for every pool.
    pub(super) fn give(
        &mut self,
        key: &str,
        ip: u128,
        is_gateway: bool,
        is_chosen: bool,
    ) -> Result<(), Fault> {
        let pools = self.pools.values().filter(|pool| pool.subnet == *key);
        let pools: u64 = pools.map(|pool| pool.holders).sum();
        let subnet = self.subnet(key)?;
        let holders = match subnet.held.get(&ip) {
            Some(held) if is_gateway => pools.min(held.holders + 1),
            _ => 1,
        };
        let held = Held { is_gateway, holders };
        let name = address_key(key, address(ip, subnet.place.net));
        self.commit(&Batch::new().put(ADDRESSES, &name, encode_held(held)))?;
        let subnet = self.subnet_mut(key)?;
        subnet.held.insert(ip, held);
        if is_chosen {
            subnet.last = Some(ip);
        }
        Ok(())
    }

    /// Forgets an address, or one holder of a gateway; answers whether there was one.
    pub(super) fn take_back(&mut self, key: &str, ip: u128) -> Result<bool, Fault> {
        let subnet = self.subnet(key)?;
        let Some(mut held) = subnet.held.get(&ip).copied() else {
            return Ok(false);
        };
        let name = address_key(key, address(ip, subnet.place.net));
        held.holders = held.holders.saturating_sub(1);
        if held.holders > 0 {
            self.commit(&Batch::new().put(ADDRESSES, &name, encode_held(held)))?;
            self.subnet_mut(key)?.held.insert(ip, held);
        } else {
            self.commit(&Batch::new().delete(ADDRESSES, &name))?;
            self.subnet_mut(key)?.held.remove(&ip);
        }
        Ok(true)
    }
}
