//! The addresses of one subnet: which are held, which rest after a release, which comes next.
//!
//! Addresses that nobody had come first, in order; then those that were released, the longest ago first. So a
//! released address is the last to be given out again: neighbours and connection tracking have forgotten it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use plugin_api::ipam::{AddressPurpose, AddressRequest};
use plugin_api::{Fault, FaultKind};

use super::pool::{address, first_free, number, usable, usable_within};

/// How long a released address rests where the subnet has others: longer than neighbours remember it.
pub const REST: Duration = Duration::from_secs(60);

/// So many resting addresses are kept; beyond them the oldest is used again before a fresh one, so that the
/// records of a large subnet stay few.
const RESTING: usize = 1024;

/// An address that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// It is the subnet's gateway.
    pub is_gateway: bool,
    /// How many pools share the gateway; 1 for other addresses.
    pub holders: u64,
    /// Who asked, where it said so.
    pub holder: Option<String>,
}

/// What is known of an address that was given out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Somebody has it.
    Held(Held),
    /// It was released at this time since boot, in milliseconds.
    Resting(u64),
}

/// A subnet and its addresses.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Its address space.
    pub space: String,
    /// The subnet.
    pub net: IpNet,
    slots: BTreeMap<u128, Slot>,
    resting: BTreeSet<(u64, u128)>,
    named: BTreeMap<String, u128>,
    /// Everything below has a slot.
    floor: u128,
    /// Addresses whose records are being written.
    busy: BTreeSet<u128>,
}

impl Subnet {
    /// A subnet of which nothing is given out.
    pub fn new(space: &str, net: IpNet) -> Self {
        Self {
            space: space.to_owned(),
            net,
            slots: BTreeMap::new(),
            resting: BTreeSet::new(),
            named: BTreeMap::new(),
            floor: usable(net).0,
            busy: BTreeSet::new(),
        }
    }

    /// The slot of an address.
    pub fn slot(&self, number: u128) -> Option<&Slot> {
        self.slots.get(&number)
    }

    /// What is held, if it is.
    pub fn held(&self, number: u128) -> Option<&Held> {
        match self.slots.get(&number) {
            Some(Slot::Held(held)) => Some(held),
            _ => None,
        }
    }

    /// Everything that is held, by number.
    pub fn all_held(&self) -> impl Iterator<Item = (IpAddr, &Held)> {
        self.slots.iter().filter_map(|(number, slot)| match slot {
            Slot::Held(held) => Some((address(*number, self.net), held)),
            Slot::Resting(_) => None,
        })
    }

    /// Every address that has a record.
    pub fn recorded(&self) -> impl Iterator<Item = IpAddr> {
        self.slots.keys().map(|number| address(*number, self.net))
    }

    /// How many addresses rest.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// How many addresses there are to give, at most `u64::MAX`.
    pub fn size(&self) -> u64 {
        let (first, last) = usable(self.net);
        u64::try_from(last - first).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Changes a slot, or forgets it.
    pub fn put(&mut self, number: u128, slot: Option<Slot>) {
        match self.slots.remove(&number) {
            Some(Slot::Resting(since)) => {
                self.resting.remove(&(since, number));
            }
            Some(Slot::Held(Held {
                holder: Some(holder), ..
            })) => {
                self.named.remove(&holder);
            }
            _ => {}
        }
        match &slot {
            Some(Slot::Resting(since)) => {
                self.resting.insert((*since, number));
            }
            Some(Slot::Held(Held {
                holder: Some(holder), ..
            })) => {
                self.named.insert(holder.clone(), number);
            }
            _ => {}
        }
        match slot {
            Some(slot) => {
                self.slots.insert(number, slot);
            }
            None => self.floor = self.floor.min(number),
        }
    }

    /// While an address is busy its record is being written, and nobody else may change it.
    pub fn set_busy(&mut self, number: u128, is_busy: bool) {
        if is_busy {
            self.busy.insert(number);
        } else {
            self.busy.remove(&number);
        }
    }

    /// Whether an address's record is being written.
    pub fn is_busy(&self, number: u128) -> bool {
        self.busy.contains(&number)
    }

    /// Whether any is.
    pub fn has_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// The number to give, unless it is refused. `now` is the time since boot in milliseconds.
    pub fn pick(&mut self, sub: Option<IpNet>, request: &AddressRequest, now: u64) -> Result<u128, Fault> {
        let is_gateway = request.purpose == AddressPurpose::Gateway;
        let mine = request
            .holder
            .as_ref()
            .and_then(|holder| self.named.get(holder.as_str()));
        if let Some(&mine) = mine {
            let asked = request.address.map_or(mine, number);
            if asked == mine {
                return Ok(mine);
            }
            let has = address(mine, self.net);
            let text = format!(
                "address {} of pool {}: its holder has {has}",
                address(asked, self.net),
                self.net
            );
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        if let Some(wanted) = request.address {
            return self.given(wanted, is_gateway);
        }
        if is_gateway && let Some((gateway, _)) = self.all_held().find(|(_, held)| held.is_gateway) {
            return Ok(number(gateway));
        }
        self.next(usable_within(self.net, sub), now)
            .ok_or_else(|| self.full(sub))
    }

    fn given(&self, wanted: IpAddr, is_gateway: bool) -> Result<u128, Fault> {
        let net = self.net;
        if wanted.is_ipv4() != net.addr().is_ipv4() || !net.contains(&wanted) {
            return Err(Fault::invalid(format!(
                "address {wanted} lies outside pool {net}"
            )));
        }
        let (first, last) = usable(net);
        let ip = number(wanted);
        if ip < first || ip > last {
            return Err(Fault::invalid(format!(
                "address {wanted} is pool {net}'s own, or its broadcast"
            )));
        }
        match self.held(ip) {
            Some(held) if !(held.is_gateway && is_gateway) => {
                let by = held
                    .holder
                    .as_ref()
                    .map(|by| format!(" by {by}"))
                    .unwrap_or_default();
                let text = format!("address {wanted} of pool {net} is held already{by}");
                Err(Fault::new(FaultKind::Conflict, text))
            }
            _ => Ok(ip),
        }
    }

    fn next(&mut self, (first, last): (u128, u128), now: u64) -> Option<u128> {
        let rested = |since: u64| now.saturating_sub(since) >= u64::try_from(REST.as_millis()).unwrap_or(0);
        let mut within = self
            .resting
            .iter()
            .filter(|(_, ip)| (first..=last).contains(ip) && !self.busy.contains(ip));
        let oldest = within.next().copied();
        let (total_first, total_last) = usable(self.net);
        if first <= total_first {
            // Only a search from the very beginning may move it.
            self.floor =
                first_free((self.floor, total_last), &self.slots).unwrap_or(total_last.saturating_add(1));
        }
        match oldest {
            Some((since, ip)) if self.resting.len() >= RESTING && rested(since) => Some(ip),
            _ => first_free((first.max(self.floor), last), &self.slots).or(oldest.map(|(_, ip)| ip)),
        }
    }

    fn full(&self, sub: Option<IpNet>) -> Fault {
        let (first, last) = usable_within(self.net, sub);
        let size = (last + 1).saturating_sub(first);
        let inside = |ip: IpAddr| (first..=last).contains(&number(ip));
        let held = self.all_held().filter(|(ip, _)| inside(*ip));
        let (count, gateways) = held.fold((0, 0), |(count, gateways), (_, held)| {
            (count + 1, gateways + u64::from(held.is_gateway))
        });
        let part = sub.map(|sub| format!(" within {sub}")).unwrap_or_default();
        Fault::exhausted(format!(
            "pool {}{part} of address space {} has no free address: {count} of {size} are held, {gateways} of \
             them as gateway; release some, or use a larger pool",
            self.net, self.space
        ))
    }
}

#[cfg(test)]
mod tests {
    use plugin_api::id::{HolderId, PoolId};
    use proptest::prelude::*;

    use super::*;

    fn any() -> AddressRequest {
        AddressRequest {
            pool: PoolId::new("p").unwrap(),
            address: None,
            purpose: AddressPurpose::Endpoint,
            mac: None,
            serial: false,
            holder: None,
        }
    }

    fn held() -> Slot {
        Slot::Held(Held {
            is_gateway: false,
            holders: 1,
            holder: None,
        })
    }

    fn subnet(net: &str) -> Subnet {
        Subnet::new("L", net.parse().unwrap())
    }

    fn take(subnet: &mut Subnet, now: u64) -> Option<u8> {
        let ip = subnet.pick(None, &any(), now).ok()?;
        subnet.put(ip, Some(held()));
        ip.to_be_bytes().last().copied()
    }

    #[test]
    fn a_released_address_comes_after_all_others_and_the_oldest_first() {
        let mut subnet = subnet("10.0.0.0/29");
        for wanted in 1..=3 {
            assert_eq!(take(&mut subnet, 0), Some(wanted));
        }
        let ip = |last: u128| u128::from(u32::from_be_bytes([10, 0, 0, 0])) + last;
        subnet.put(ip(2), Some(Slot::Resting(5)));
        subnet.put(ip(1), Some(Slot::Resting(7)));
        let order: Vec<_> = (0..5).map_while(|_| take(&mut subnet, 8)).collect();
        assert_eq!(order, [4, 5, 6, 2, 1]);
        let fault = subnet.pick(None, &any(), 9).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Exhausted);
        assert!(
            fault.message.contains("10.0.0.0/29") && fault.message.contains("6 of 6"),
            "{fault}"
        );
    }

    #[test]
    fn records_of_a_large_subnet_stay_few() {
        let mut subnet = subnet("fd00::/64");
        let mut highest = 0;
        for turn in 0..5_000u64 {
            let now = turn * 1000;
            let ip = subnet.pick(None, &any(), now).unwrap();
            subnet.put(ip, Some(held()));
            subnet.put(ip, Some(Slot::Resting(now)));
            highest = highest.max(subnet.recorded().count());
        }
        assert_eq!(highest, RESTING);
    }

    #[test]
    fn one_that_rests_shortly_is_not_used_while_fresh_ones_are_there() {
        let mut subnet = subnet("fd00::/64");
        for _ in 0..2 * RESTING {
            let ip = subnet.pick(None, &any(), 1).unwrap();
            subnet.put(ip, Some(Slot::Resting(1)));
        }
        assert_eq!(subnet.resting(), 2 * RESTING);
    }

    #[test]
    fn a_holder_gets_what_it_has() {
        let mut subnet = subnet("10.0.0.0/24");
        let mine = AddressRequest {
            holder: Some(HolderId::new("me").unwrap()),
            ..any()
        };
        let ip = subnet.pick(None, &mine, 0).unwrap();
        subnet.put(
            ip,
            Some(Slot::Held(Held {
                is_gateway: false,
                holders: 1,
                holder: Some("me".into()),
            })),
        );
        assert_eq!(subnet.pick(None, &mine, 0).unwrap(), ip);
        let other = AddressRequest {
            address: Some("10.0.0.77".parse().unwrap()),
            ..mine.clone()
        };
        assert_eq!(
            subnet.pick(None, &other, 0).unwrap_err().kind,
            FaultKind::Conflict
        );
        subnet.put(ip, Some(Slot::Resting(1)));
        assert_ne!(subnet.pick(None, &mine, 0).unwrap(), ip);
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_is_lost(steps in prop::collection::vec(0u8..=255, 0..300)) {
            let mut subnet = subnet("10.0.0.0/27");
            let mut mine = std::collections::BTreeSet::new();
            for (now, step) in steps.into_iter().enumerate() {
                let now = now as u64;
                if step < 160 {
                    if let Ok(ip) = subnet.pick(None, &any(), now) {
                        prop_assert!(mine.insert(ip), "{ip} was given twice");
                        subnet.put(ip, Some(held()));
                    } else {
                        prop_assert_eq!(mine.len(), 30);
                    }
                } else if let Some(ip) = mine.iter().nth(usize::from(step) % mine.len().max(1)).copied() {
                    mine.remove(&ip);
                    subnet.put(ip, Some(Slot::Resting(now)));
                }
                prop_assert_eq!(subnet.all_held().count(), mine.len());
            }
            while let Ok(ip) = subnet.pick(None, &any(), 1_000) {
                prop_assert!(mine.insert(ip));
                subnet.put(ip, Some(held()));
            }
            prop_assert_eq!(mine.len(), 30);
        }
    }
}
