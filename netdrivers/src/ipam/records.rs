//! What the driver keeps on disk: subnets, pools, addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kernel::record::{Damaged, Decoder, Encoder, Records};
use plugin_api::{Fault, FaultKind};

use super::pool::number;
use super::subnet::{Held, Slot, Subnet};

/// Table of subnets, by `SPACE/CIDR`.
pub const SUBNETS: &str = "subnets";
/// Table of pools, by their id.
pub const POOLS: &str = "pools";
/// Table of addresses, by `SUBNET|ADDRESS`.
pub const ADDRESSES: &str = "addresses";
/// Table of what belongs to this host.
pub const HOST: &str = "host";
/// Version of the layouts of subnets and of the host's own.
pub const LAYOUT: u8 = 1;
/// Version of the layouts of pools and addresses, which have a holder since 2.
const NAMED: u8 = 2;

/// A pool: what somebody holds of a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Key of its subnet.
    pub subnet: String,
    /// Where chosen addresses come from, if not from everywhere.
    pub sub: Option<IpNet>,
    /// How often it was asked for.
    pub holders: u64,
    /// Who holds it, where it said so.
    pub holder: Option<String>,
}

/// What the records say.
#[derive(Debug, Default)]
pub struct State {
    /// By `SPACE/CIDR`.
    pub subnets: BTreeMap<String, Subnet>,
    /// By id.
    pub pools: BTreeMap<String, Pool>,
}

fn parse<T: std::str::FromStr>(text: &str, decoder: &Decoder<'_>) -> Result<T, Damaged> {
    text.parse().map_err(|_| decoder.damaged())
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::from_error(FaultKind::Corrupt, error)
}

/// A subnet's record.
pub fn encode_subnet(subnet: &Subnet) -> Vec<u8> {
    let last_of_old: Option<&str> = None;
    Encoder::new(LAYOUT)
        .text(&subnet.space)
        .text(&subnet.net.to_string())
        .maybe(last_of_old)
        .finish()
}

fn decode_subnet(bytes: &[u8]) -> Result<Subnet, Damaged> {
    let mut d = Decoder::new("subnet", LAYOUT, bytes)?;
    let space = d.text()?;
    let net = parse(&d.text()?, &d)?;
    d.maybe()?;
    d.end()?;
    Ok(Subnet::new(&space, net))
}

impl Pool {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let sub = self.sub.map(|sub| sub.to_string());
        Encoder::new(NAMED)
            .text(&self.subnet)
            .maybe(sub.as_deref())
            .number(self.holders)
            .maybe(self.holder.as_deref())
            .finish()
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let (mut d, is_named) = either("pool", bytes)?;
        let subnet = d.text()?;
        let sub = d.maybe()?.map(|sub| parse(&sub, &d)).transpose()?;
        let holders = d.number()?;
        let holder = if is_named { d.maybe()? } else { None };
        d.end()?;
        Ok(Self {
            subnet,
            sub,
            holders,
            holder,
        })
    }
}

/// A value of the layout with a holder, or of the one before.
fn either<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(Decoder<'a>, bool), Damaged> {
    match Decoder::new(what, NAMED, bytes) {
        Ok(named) => Ok((named, true)),
        Err(_) => Decoder::new(what, LAYOUT, bytes).map(|old| (old, false)),
    }
}

impl Slot {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Held(held) => Encoder::new(NAMED)
                .flag(true)
                .flag(held.is_gateway)
                .number(held.holders)
                .maybe(held.holder.as_deref())
                .finish(),
            Self::Resting(since) => Encoder::new(NAMED).flag(false).number(*since).finish(),
        }
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let (mut d, is_named) = either("address", bytes)?;
        let slot = if is_named && !d.flag()? {
            Self::Resting(d.number()?)
        } else {
            Self::Held(Held {
                is_gateway: d.flag()?,
                holders: d.number()?,
                holder: if is_named { d.maybe()? } else { None },
            })
        };
        d.end()?;
        Ok(slot)
    }
}

/// Key of an address.
pub fn address_key(subnet: &str, ip: IpAddr) -> String {
    format!("{subnet}|{ip}")
}

impl State {
    /// Reads everything. What rests since an earlier boot, whose clock went further, rests from `now` on.
    pub fn load(records: &Records, now: u64) -> Result<Self, Fault> {
        let list = |table| {
            let rows = records.list(table);
            rows.map_err(|error| Fault::from_error(FaultKind::Unavailable, error))
        };
        let mut state = Self::default();
        for (key, value) in list(SUBNETS)? {
            state.subnets.insert(key, decode_subnet(&value).map_err(corrupt)?);
        }
        for (key, value) in list(POOLS)? {
            state.pools.insert(key, Pool::decode(&value).map_err(corrupt)?);
        }
        for (key, value) in list(ADDRESSES)? {
            let slot = match Slot::decode(&value).map_err(corrupt)? {
                Slot::Resting(since) => Slot::Resting(since.min(now)),
                held @ Slot::Held(_) => held,
            };
            let ip = key
                .rsplit_once('|')
                .and_then(|(subnet, ip)| Some((subnet, ip.parse::<IpAddr>().ok()?)));
            let (subnet, ip) = ip.ok_or_else(|| {
                Fault::new(FaultKind::Corrupt, format!("address record {key} makes no sense"))
            })?;
            if let Some(subnet) = state.subnets.get_mut(subnet) {
                subnet.put(number(ip), Some(slot));
            }
        }
        Ok(state)
    }

    /// How many times a subnet is held.
    pub fn pools_of(&self, subnet: &str) -> u64 {
        let pools = self.pools.values().filter(|pool| pool.subnet == subnet);
        pools.map(|pool| pool.holders).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_older_ones_are_read() {
        let pool = Pool {
            subnet: "L/10.0.0.0/24".into(),
            sub: Some("10.0.0.64/26".parse().unwrap()),
            holders: 2,
            holder: Some("me".into()),
        };
        assert_eq!(Pool::decode(&pool.encode()).unwrap(), pool);
        let held = Slot::Held(Held {
            is_gateway: true,
            holders: 3,
            holder: None,
        });
        for slot in [held.clone(), Slot::Resting(77)] {
            assert_eq!(Slot::decode(&slot.encode()).unwrap(), slot);
        }
        let old = Encoder::new(LAYOUT).flag(true).number(3).finish();
        assert_eq!(Slot::decode(&old).unwrap(), held);
        let old = Encoder::new(LAYOUT)
            .text("L/10.0.0.0/24")
            .maybe(None)
            .number(1)
            .finish();
        assert_eq!(Pool::decode(&old).unwrap().holders, 1);
        assert!(Slot::decode(&[9]).is_err());
    }
}
