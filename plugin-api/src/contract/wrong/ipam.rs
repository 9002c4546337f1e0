//! Wrong address drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use super::defects;
use crate::Done;
use crate::contract::twin;
use crate::fault::{Fault, FaultKind};
use crate::id::{AddressSpace, PoolId};
use crate::ipam::{
    AddressLease, AddressPurpose, AddressRequest, DefaultSpaces, IpamCapabilities, IpamDriver, PoolLease,
    PoolRequest,
};

defects! {
    /// One broken rule of an address driver.
    IpamDefect;
    SpacesChange fails the_default_spaces_stay_the_same;
    PoolIsToldWithHostBits fails a_given_pool_is_granted_as_asked;
    PoolIsGrantedOnce fails a_given_pool_is_granted_again_and_counted;
    PoolsAreNotCounted fails a_given_pool_is_granted_again_and_counted;
    ChosenPoolsRepeat fails chosen_pools_do_not_overlap a_chosen_ipv6_pool_is_ipv6 concurrently_chosen_pools_do_not_overlap;
    OverlapIsTaken fails an_overlapping_pool_is_refused;
    SpacesMeet fails pools_of_two_spaces_do_not_meet;
    PoolsStay fails a_given_pool_is_granted_again_and_counted a_released_pool_can_be_had_again the_last_release_of_a_pool_frees_its_addresses release_of_an_unknown_pool_is_already_so;
    AddressesOutliveTheirPool fails the_last_release_of_a_pool_frees_its_addresses;
    ReleaseOfUnknownPoolFails fails release_of_an_unknown_pool_is_already_so;
    SubPoolIsNotChecked fails a_sub_pool_outside_its_pool_is_refused;
    UnknownPoolGives fails a_given_pool_is_granted_again_and_counted an_address_of_an_unknown_pool_is_refused;
    PrefixIsLost fails an_address_has_its_pools_prefix_length chosen_addresses_come_from_the_sub_pool;
    AddressesRepeat fails addresses_are_given_once concurrent_requests_never_double;
    NetworkIsGiven fails addresses_are_never_the_network_or_its_broadcast;
    GivenIsIgnored fails a_given_address_is_granted a_held_address_is_refused;
    HeldIsGranted fails a_held_address_is_refused;
    ReplayIsRefused fails a_replayed_address_is_granted_again;
    OutsideIsTaken fails an_address_outside_its_pool_is_refused;
    AuxiliaryIsRefused fails an_auxiliary_address_may_lie_outside_the_sub_pool;
    SubPoolIsIgnored fails a_sub_pool_outside_its_pool_is_refused chosen_addresses_come_from_the_sub_pool a_sub_pool_has_an_end;
    SubPoolSpillsOver fails a_sub_pool_has_an_end;
    GatewayOnce fails the_gateway_is_granted_again;
    GatewayMoves fails a_chosen_gateway_stays_the_same;
    GatewayIsGivenAway fails the_gateway_is_given_to_nobody_else a_slash_30_holds_two_addresses_and_then_says_so;
    ReleasedIsLost fails a_released_address_is_given_again release_of_a_free_address_is_already_so release_frees_only_its_own_address;
    ReleaseOfFreeFails fails release_of_a_free_address_is_already_so;
    ReleaseFreesNeighbour fails release_frees_only_its_own_address;
    SmallPoolsAreEmpty fails a_slash_30_holds_two_addresses_and_then_says_so;
    FullIsADefect fails addresses_are_never_the_network_or_its_broadcast a_sub_pool_has_an_end the_gateway_is_given_to_nobody_else a_released_address_is_given_again release_frees_only_its_own_address a_slash_30_holds_two_addresses_and_then_says_so pools_and_addresses_survive_a_restart_of_the_driver;
    Ipv6PrefixIsLost fails ipv6_pools_give_ipv6_addresses;
    ChosenIpv6IsIpv4 fails a_chosen_ipv6_pool_is_ipv6;
    OtherFamilyIsTaken fails an_address_of_the_other_family_is_refused;
    RequestsRace fails concurrent_requests_never_double;
    ChoicesRace fails concurrently_chosen_pools_do_not_overlap;
    RestartForgets fails pools_and_addresses_survive_a_restart_of_the_driver;
}

#[derive(Debug, Default)]
struct Memory {
    calls: usize,
    chosen: Option<IpNet>,
    pools: BTreeMap<PoolId, IpNet>,
    ranges: BTreeMap<PoolId, IpNet>,
    held: BTreeSet<(PoolId, IpAddr)>,
    last: BTreeMap<PoolId, (usize, IpAddr)>,
    gateways: BTreeMap<PoolId, IpAddr>,
    edges: BTreeSet<PoolId>,
}

/// An address twin with one defect.
#[derive(Debug)]
pub struct Ipam {
    defect: IpamDefect,
    inner: twin::Ipam,
    memory: Mutex<Memory>,
    under_way: AtomicUsize,
}

impl Ipam {
    /// A driver that has this defect only.
    pub fn new(defect: IpamDefect) -> Self {
        let replays = defect == IpamDefect::ReplayIsRefused;
        let inner = if replays {
            twin::Ipam::replaying()
        } else {
            twin::Ipam::new()
        };
        Self {
            defect,
            inner,
            memory: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The driver as a new process finds it.
    pub fn restarted(&self) -> Self {
        let new = Self::new(self.defect);
        if self.is(IpamDefect::RestartForgets) {
            // The pools are remembered, what was given out of them is not.
            for (id, net) in &twin::locked(&self.memory).pools {
                let space = id
                    .as_str()
                    .split('/')
                    .next()
                    .and_then(|text| AddressSpace::new(text).ok());
                let space = space.expect("a pool's id begins with its space");
                let (sub_pool, options) = (None, crate::Options::new());
                let _ = new.inner.request_pool(&PoolRequest {
                    space,
                    pool: Some(*net),
                    sub_pool,
                    options,
                    v6: false,
                });
            }
            return new;
        }
        let memory = Mutex::new(std::mem::take(&mut *twin::locked(&self.memory)));
        Self {
            inner: self.inner.restarted(),
            memory,
            ..new
        }
    }

    fn is(&self, defect: IpamDefect) -> bool {
        self.defect == defect
    }

    /// What becomes of a pool's request before it is granted.
    fn bent(&self, request: &PoolRequest, memory: &Memory) -> PoolRequest {
        let mut request = request.clone();
        match self.defect {
            IpamDefect::ChosenPoolsRepeat => request.pool = request.pool.or(memory.chosen),
            IpamDefect::SpacesMeet => request.space = AddressSpace::new("one").expect("a plain word"),
            IpamDefect::SubPoolIsIgnored => request.sub_pool = None,
            IpamDefect::ChosenIpv6IsIpv4 => request.v6 &= request.pool.is_some(),
            _ => {}
        }
        request
    }

    /// What becomes of an address that was granted.
    fn granted(&self, request: &AddressRequest, mut lease: AddressLease) -> AddressLease {
        let mut memory = twin::locked(&self.memory);
        let (id, address) = (&request.pool, lease.address.addr());
        let (count, last) = memory.last.get(id).copied().unwrap_or((0, address));
        memory.held.insert((id.clone(), address));
        memory.last.insert(id.clone(), (count + 1, address));
        if request.purpose == AddressPurpose::Gateway {
            memory.gateways.insert(id.clone(), address);
        }
        let chosen = request.address.is_none() && request.purpose == AddressPurpose::Endpoint;
        let told = match self.defect {
            IpamDefect::AddressesRepeat if chosen && count == 9 => {
                IpNet::new(last, lease.address.prefix_len())
            }
            IpamDefect::PrefixIsLost if address.is_ipv4() => IpNet::new(address, 32),
            IpamDefect::Ipv6PrefixIsLost if address.is_ipv6() => IpNet::new(address, 128),
            _ => return lease,
        };
        lease.address = told.unwrap_or(lease.address);
        lease
    }

    /// What becomes of an address that was refused.
    fn denied(&self, request: &AddressRequest, fault: Fault) -> Result<AddressLease, Fault> {
        let memory = twin::locked(&self.memory);
        let id = &request.pool;
        let anyhow = |address: IpAddr| {
            let address = IpNet::new(address, 24).map_err(|_| Fault::internal("no prefix"))?;
            Ok(AddressLease {
                address,
                data: BTreeMap::new(),
            })
        };
        match (self.defect, fault.kind, request.address) {
            (IpamDefect::UnknownPoolGives, FaultKind::NotFound, _) => anyhow([10, 9, 9, 9].into()),
            (IpamDefect::HeldIsGranted, FaultKind::Conflict, Some(address)) => anyhow(address),
            (IpamDefect::OutsideIsTaken, FaultKind::Invalid, Some(address)) if address.is_ipv4() => {
                anyhow(address)
            }
            (IpamDefect::OtherFamilyIsTaken, FaultKind::Invalid, Some(address)) if address.is_ipv6() => {
                anyhow(address)
            }
            (IpamDefect::GatewayIsGivenAway, FaultKind::Exhausted, _) if memory.gateways.contains_key(id) => {
                let count = memory.last.get(id).map_or(0, |(count, _)| *count);
                if count < 8 {
                    anyhow(memory.gateways[id])
                } else {
                    Err(fault)
                }
            }
            (IpamDefect::SubPoolSpillsOver, FaultKind::Exhausted, _) if memory.ranges.contains_key(id) => {
                anyhow(memory.pools[id].addr())
            }
            (IpamDefect::FullIsADefect, FaultKind::Exhausted, _) => Err(Fault::internal("a defect")),
            _ => Err(fault),
        }
    }

    /// What is answered without asking the twin.
    fn instead(&self, request: &AddressRequest, before: usize) -> Option<Result<AddressLease, Fault>> {
        let mut memory = twin::locked(&self.memory);
        let (id, chosen) = (&request.pool, request.address.is_none());
        let is_gateway = request.purpose == AddressPurpose::Gateway;
        let small = |prefix| memory.pools.get(id).is_some_and(|net| net.prefix_len() == prefix);
        let (is_29, is_30) = (small(29), small(30));
        let net = memory.pools.get(id).copied();
        let outside = memory
            .ranges
            .get(id)
            .zip(request.address)
            .is_some_and(|(range, given)| !range.contains(&given));
        let held = request
            .address
            .is_some_and(|given| memory.held.contains(&(id.clone(), given)));
        let lease = |address| AddressLease {
            address,
            data: BTreeMap::new(),
        };
        match self.defect {
            IpamDefect::RequestsRace if before > 0 && chosen => {
                let (_, last) = *memory.last.get(id)?;
                Some(
                    IpNet::new(last, 24)
                        .map(lease)
                        .map_err(|_| Fault::internal("no prefix")),
                )
            }
            IpamDefect::NetworkIsGiven if chosen && !is_gateway && is_29 => memory
                .edges
                .insert(id.clone())
                .then(|| Ok(lease(net.expect("seen in the guard")))),
            IpamDefect::AuxiliaryIsRefused if outside => Some(Err(Fault::invalid("outside the sub-pool"))),
            IpamDefect::GatewayOnce if is_gateway && !chosen && memory.gateways.contains_key(id) => {
                Some(Err(Fault::new(FaultKind::Conflict, "held")))
            }
            IpamDefect::ReplayIsRefused if !is_gateway && held => {
                Some(Err(Fault::new(FaultKind::Conflict, "held")))
            }
            IpamDefect::SmallPoolsAreEmpty if !is_gateway && is_30 => {
                Some(Err(Fault::exhausted("none is left")))
            }
            _ => None,
        }
    }
}

impl IpamDriver for Ipam {
    fn capabilities(&self) -> IpamCapabilities {
        self.inner.capabilities()
    }

    fn default_spaces(&self) -> Result<DefaultSpaces, Fault> {
        let mut spaces = self.inner.default_spaces()?;
        if self.is(IpamDefect::SpacesChange) {
            let mut memory = twin::locked(&self.memory);
            memory.calls += 1;
            spaces.global = AddressSpace::new(format!("Global{}", memory.calls)).expect("a plain word");
        }
        Ok(spaces)
    }

    fn request_pool(&self, request: &PoolRequest) -> Result<PoolLease, Fault> {
        let before = self.under_way.fetch_add(1, Ordering::SeqCst);
        let mut request = self.bent(request, &twin::locked(&self.memory));
        if self.is(IpamDefect::ChoicesRace) {
            std::thread::sleep(Duration::from_millis(30));
            if before > 0 && request.pool.is_none() {
                request.pool = twin::locked(&self.memory).chosen;
            }
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let mut answer = self.inner.request_pool(&request);
        match (self.defect, answer.as_ref().map_err(|fault| fault.kind)) {
            (IpamDefect::OverlapIsTaken, Err(FaultKind::Conflict)) => {
                request.space = AddressSpace::new("elsewhere").expect("a plain word");
                answer = self.inner.request_pool(&request);
            }
            (IpamDefect::SubPoolIsNotChecked, Err(FaultKind::Invalid)) => {
                request.sub_pool = None;
                answer = self.inner.request_pool(&request);
            }
            _ => {}
        }
        let mut lease = answer?;
        let mut memory = twin::locked(&self.memory);
        let known = memory.pools.insert(lease.id.clone(), lease.pool).is_some();
        if request.pool.is_none() {
            memory.chosen = Some(lease.pool);
        }
        if let Some(range) = request.sub_pool {
            memory.ranges.insert(lease.id.clone(), range);
        }
        match self.defect {
            IpamDefect::PoolIsGrantedOnce if known => {
                self.inner.release_pool(&lease.id)?;
                return Err(Fault::new(FaultKind::Conflict, "held"));
            }
            IpamDefect::PoolIsToldWithHostBits => {
                let first = lease.pool.hosts().next().unwrap_or(lease.pool.addr());
                lease.pool = IpNet::new(first, lease.pool.prefix_len()).unwrap_or(lease.pool);
            }
            IpamDefect::AddressesOutliveTheirPool => {
                for (pool, address) in memory.held.iter().filter(|(pool, _)| *pool == lease.id) {
                    let (pool, address, purpose) = (pool.clone(), Some(*address), AddressPurpose::Endpoint);
                    let _ = self.inner.request_address(&AddressRequest {
                        pool,
                        address,
                        purpose,
                        mac: None,
                        serial: false,
                        holder: None,
                    });
                }
            }
            _ => {}
        }
        Ok(lease)
    }

    fn release_pool(&self, id: &PoolId) -> Result<Done, Fault> {
        if self.is(IpamDefect::PoolsStay) && twin::locked(&self.memory).pools.contains_key(id) {
            return Ok(Done::Changed);
        }
        let answer = self.inner.release_pool(id)?;
        if self.is(IpamDefect::ReplayIsRefused) {
            twin::locked(&self.memory).held.retain(|(pool, _)| pool != id);
        }
        match self.defect {
            IpamDefect::ReleaseOfUnknownPoolFails if answer == Done::AlreadySo => {
                Err(Fault::not_found("no such pool"))
            }
            IpamDefect::PoolsAreNotCounted => {
                while self.inner.release_pool(id)? == Done::Changed {}
                Ok(answer)
            }
            IpamDefect::PoolIsGrantedOnce => {
                twin::locked(&self.memory).pools.remove(id);
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    fn request_address(&self, request: &AddressRequest) -> Result<AddressLease, Fault> {
        let before = self.under_way.fetch_add(1, Ordering::SeqCst);
        if self.is(IpamDefect::RequestsRace) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if let Some(answer) = self.instead(request, before) {
            return answer;
        }
        let mut request = request.clone();
        let moves = self.is(IpamDefect::GatewayMoves) && request.address.is_none();
        if moves && twin::locked(&self.memory).gateways.contains_key(&request.pool) {
            request.purpose = AddressPurpose::Endpoint;
        }
        let is_200 = matches!(request.address, Some(IpAddr::V4(v4)) if v4.octets()[3] == 200);
        let ranged = twin::locked(&self.memory).ranges.contains_key(&request.pool);
        if self.is(IpamDefect::GivenIsIgnored) && is_200 && !ranged {
            request.address = None;
        }
        match self.inner.request_address(&request) {
            Ok(lease) => Ok(self.granted(&request, lease)),
            Err(fault) => self.denied(&request, fault),
        }
    }

    fn release_address(&self, pool: &PoolId, address: IpAddr) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        let held = memory.held.remove(&(pool.clone(), address));
        if self.is(IpamDefect::ReleasedIsLost) && memory.pools.contains_key(pool) {
            return Ok(Done::Changed);
        }
        if memory.pools.get(pool).is_some_and(|net| net.network() == address) && memory.edges.remove(pool) {
            return Ok(Done::Changed);
        }
        if self.is(IpamDefect::ReleaseFreesNeighbour)
            && held
            && let IpAddr::V4(v4) = address
        {
            self.inner
                .release_address(pool, std::net::Ipv4Addr::from(u32::from(v4) + 1).into())?;
        }
        let answer = self.inner.release_address(pool, address)?;
        if self.is(IpamDefect::ReleaseOfFreeFails)
            && answer == Done::AlreadySo
            && memory.pools.contains_key(pool)
        {
            return Err(Fault::not_found("nobody holds it"));
        }
        Ok(answer)
    }
}
