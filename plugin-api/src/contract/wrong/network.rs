//! Wrong network drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::defects;
use crate::contract::twin;
use crate::fault::{Fault, FaultKind};
use crate::id::{MacAddr, NetworkId};
use crate::network::{
    ConnectivitySpec, Discovery, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity,
    GatewayCheck, JoinPlan, JoinSpec, NetworkAllocation, NetworkCapabilities, NetworkDriver, NetworkSpec,
    Node,
};
use crate::{Done, Options};

defects! {
    /// One broken rule of a network driver.
    NetworkDefect;
    RepeatedCreateFails fails create_network_twice_is_already_so create_network_with_another_subnet_is_refused concurrent_creates_make_one_network networks_survive_a_restart_of_the_driver;
    AnotherSubnetIsTaken fails create_network_with_another_subnet_is_refused;
    UnknownOptionIsTaken fails create_network_with_an_unknown_option_makes_nothing;
    CreatesRace fails concurrent_creates_make_one_network;
    DeleteOfUnknownNetworkFails fails delete_of_an_unknown_network_is_already_so;
    DeleteWithEndpointsIsRefused fails delete_of_a_network_takes_its_endpoints;
    EndpointsNeedNoNetwork fails an_endpoint_of_an_unknown_network_is_refused create_network_with_an_unknown_option_makes_nothing;
    ReplyRepeatsTheAddress fails a_reply_fills_only_what_was_empty;
    SecondReplyDiffers fails create_endpoint_twice_gives_the_same_answer;
    MacsRepeat fails endpoints_have_macs_of_their_own;
    DeleteOfUnknownEndpointFails fails delete_of_an_unknown_endpoint_is_already_so delete_of_a_network_takes_its_endpoints;
    DeletedEndpointsStayJoined fails delete_of_an_endpoint_implies_leave;
    DeletedEndpointsJoin fails a_deleted_endpoint_can_be_made_again delete_of_a_network_takes_its_endpoints;
    InfoInvents fails endpoint_info_knows_live_endpoints_only;
    JoinInvents fails join_of_an_unknown_endpoint_is_refused a_deleted_endpoint_can_be_made_again delete_of_a_network_takes_its_endpoints;
    LinkNamesAreLong fails join_names_a_link_the_kernel_takes;
    GatewayIsForgotten fails join_tells_the_gateway;
    SecondJoinDiffers fails join_twice_gives_the_same_answer leave_of_one_endpoint_leaves_the_others joins_survive_a_restart_of_the_driver;
    LinksRepeat fails links_of_two_endpoints_differ concurrent_endpoints_do_not_meet;
    LeaveOfUnknownFails fails leave_of_an_unknown_endpoint_is_already_so delete_of_a_network_takes_its_endpoints delete_of_an_endpoint_implies_leave;
    SecondLeaveFails fails leave_twice_is_already_so;
    JoinsOnce fails leave_then_join_works;
    LeaveTakesAll fails leave_of_one_endpoint_leaves_the_others concurrent_endpoints_do_not_meet;
    JoinsRace fails concurrent_endpoints_do_not_meet;
    AllocationLosesOptions fails allocation_echoes_the_options;
    FreeOfUnknownFails fails free_of_an_unknown_network_is_already_so;
    GatewayCheckChanges fails the_gateway_check_stays_the_same;
    SecondProgramFails fails program_twice_is_already_so;
    TakenPortIsGranted fails a_taken_port_is_refused;
    RevokeKeepsPorts fails revoke_frees_the_port revoke_of_an_unknown_endpoint_is_already_so;
    RevokeOfUnknownFails fails revoke_of_an_unknown_endpoint_is_already_so;
    LeaveKeepsPorts fails leave_implies_revoke;
    DeleteKeepsPorts fails delete_of_an_endpoint_implies_revoke;
    NodesComeOnce fails nodes_may_come_and_go_twice;
    RestartForgetsNetworks fails networks_survive_a_restart_of_the_driver joins_survive_a_restart_of_the_driver;
    RestartForgetsJoins fails joins_survive_a_restart_of_the_driver;
}

#[derive(Debug, Default)]
struct Memory {
    calls: usize,
    networks: BTreeSet<NetworkId>,
    endpoints: BTreeSet<EndpointRef>,
    plans: BTreeMap<EndpointRef, JoinPlan>,
    left: BTreeSet<EndpointRef>,
    ports: BTreeMap<EndpointRef, Vec<u16>>,
    stuck: BTreeSet<u16>,
    last: Option<JoinPlan>,
}

/// A network twin with one defect.
#[derive(Debug)]
pub struct Network {
    defect: NetworkDefect,
    inner: twin::Network,
    memory: Mutex<Memory>,
    under_way: AtomicUsize,
}

impl Network {
    /// A driver that has this defect only.
    pub fn new(defect: NetworkDefect) -> Self {
        let inner = twin::Network::new();
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
        if self.is(NetworkDefect::RestartForgetsNetworks) {
            return new;
        }
        let memory = std::mem::take(&mut *twin::locked(&self.memory));
        let inner = self.inner.restarted();
        if self.is(NetworkDefect::RestartForgetsJoins) {
            for at in memory.plans.keys() {
                let _ = inner.leave(at);
            }
        }
        Self {
            inner,
            memory: Mutex::new(memory),
            ..new
        }
    }

    fn is(&self, defect: NetworkDefect) -> bool {
        self.defect == defect
    }
}

impl NetworkDriver for Network {
    fn capabilities(&self) -> NetworkCapabilities {
        self.inner.capabilities()
    }

    fn create_network(&self, spec: &NetworkSpec) -> Result<Done, Fault> {
        let known = twin::locked(&self.memory).networks.contains(&spec.id);
        if self.is(NetworkDefect::CreatesRace) && !known {
            std::thread::sleep(Duration::from_millis(30));
        }
        let answer = self.inner.create_network(spec);
        twin::locked(&self.memory).networks.insert(spec.id.clone());
        match (self.defect, answer) {
            (NetworkDefect::CreatesRace, Ok(_)) if !known => Ok(Done::Changed),
            (NetworkDefect::RepeatedCreateFails, Ok(Done::AlreadySo)) => {
                Err(Fault::already_exists("it exists"))
            }
            (NetworkDefect::AnotherSubnetIsTaken, Err(fault)) if fault.kind == FaultKind::AlreadyExists => {
                Ok(Done::AlreadySo)
            }
            (NetworkDefect::UnknownOptionIsTaken, Err(fault)) if fault.kind == FaultKind::Invalid => {
                self.inner.create_network(&NetworkSpec {
                    options: Options::new(),
                    ..spec.clone()
                })
            }
            (_, answer) => answer,
        }
    }

    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        if self.is(NetworkDefect::DeleteWithEndpointsIsRefused)
            && memory.endpoints.iter().any(|at| at.network == *id)
        {
            return Err(Fault::in_use("it has endpoints"));
        }
        memory.networks.remove(id);
        memory.endpoints.retain(|at| at.network != *id);
        match self.inner.delete_network(id)? {
            Done::AlreadySo if self.is(NetworkDefect::DeleteOfUnknownNetworkFails) => {
                Err(Fault::not_found("no such network"))
            }
            done => Ok(done),
        }
    }

    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
        let mut reply = match self.inner.create_endpoint(spec) {
            Err(_) if self.is(NetworkDefect::EndpointsNeedNoNetwork) => {
                return Ok(EndpointInterface::default());
            }
            answer => answer?,
        };
        let known = !twin::locked(&self.memory).endpoints.insert(spec.at.clone());
        match self.defect {
            NetworkDefect::ReplyRepeatsTheAddress => reply.address = spec.interface.address,
            NetworkDefect::SecondReplyDiffers if known => reply.mac = Some(MacAddr([2, 9, 9, 9, 9, 9])),
            NetworkDefect::MacsRepeat => reply.mac = reply.mac.map(|_| MacAddr([2, 9, 9, 9, 9, 9])),
            _ => {}
        }
        Ok(reply)
    }

    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        memory.endpoints.remove(at);
        if let (true, Some(ports)) = (self.is(NetworkDefect::DeleteKeepsPorts), memory.ports.remove(at)) {
            memory.stuck.extend(ports);
        }
        match self.inner.delete_endpoint(at)? {
            Done::AlreadySo if self.is(NetworkDefect::DeleteOfUnknownEndpointFails) => {
                Err(Fault::not_found("no such endpoint"))
            }
            done => Ok(done),
        }
    }

    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        match self.inner.endpoint_info(at) {
            Err(_) if self.is(NetworkDefect::InfoInvents) => Ok(BTreeMap::new()),
            answer => answer,
        }
    }

    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
        let before = self.under_way.fetch_add(1, Ordering::SeqCst);
        if self.is(NetworkDefect::JoinsRace) {
            std::thread::sleep(Duration::from_millis(if before == 0 { 10 } else { 40 }));
        }
        let mut memory = twin::locked(&self.memory);
        let known = memory.plans.get(&spec.at).cloned();
        match self.defect {
            NetworkDefect::JoinsOnce if memory.left.contains(&spec.at) => {
                return Err(Fault::not_found("it left"));
            }
            NetworkDefect::SecondJoinDiffers if known.is_some() => drop(self.inner.leave(&spec.at)?),
            _ => {}
        }
        let answer = self.inner.join(spec);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let mut plan = match (self.defect, answer) {
            (NetworkDefect::JoinInvents, Err(_)) => JoinPlan::default(),
            (NetworkDefect::DeletedEndpointsJoin, Err(fault)) => known.ok_or(fault)?,
            (_, answer) => answer?,
        };
        match (self.defect, plan.link.as_mut()) {
            (NetworkDefect::LinkNamesAreLong, Some(link)) => link.source.push_str("-of-a-container"),
            (NetworkDefect::LinksRepeat, Some(link)) => link.source = "twin".into(),
            (NetworkDefect::GatewayIsForgotten, _) => plan.gateway = None,
            (NetworkDefect::JoinsRace, _) if before > 0 => plan = memory.last.clone().unwrap_or(plan),
            _ => {}
        }
        memory.last = Some(plan.clone());
        memory.plans.insert(spec.at.clone(), plan.clone());
        Ok(plan)
    }

    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        let (known, joined) = (memory.endpoints.contains(at), memory.plans.contains_key(at));
        memory.left.insert(at.clone());
        match self.defect {
            NetworkDefect::LeaveKeepsPorts => {
                let ports = memory.ports.remove(at).unwrap_or_default();
                memory.stuck.extend(ports);
            }
            NetworkDefect::LeaveTakesAll => {
                let others = memory
                    .endpoints
                    .iter()
                    .filter(|other| other.network == at.network && *other != at);
                for other in others {
                    self.inner.leave(other)?;
                }
            }
            _ => {}
        }
        let network = memory.networks.contains(&at.network);
        match (self.defect, self.inner.leave(at)?) {
            (NetworkDefect::LeaveOfUnknownFails, Done::AlreadySo) if !known => {
                Err(Fault::not_found("no such endpoint"))
            }
            (NetworkDefect::SecondLeaveFails, Done::AlreadySo) if known => {
                Err(Fault::not_found("not joined"))
            }
            (NetworkDefect::DeletedEndpointsStayJoined, Done::AlreadySo) if !known && joined && network => {
                Ok(Done::Changed)
            }
            (_, done) => Ok(done),
        }
    }

    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        Some(self)
    }

    fn discovery(&self) -> Option<&dyn Discovery> {
        Some(self)
    }

    fn allocate_network(&self, allocation: &NetworkAllocation) -> Result<Options, Fault> {
        if self.is(NetworkDefect::AllocationLosesOptions) {
            return Ok(Options::new());
        }
        self.inner.allocate_network(allocation)
    }

    fn free_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        if self.is(NetworkDefect::FreeOfUnknownFails) {
            return Err(Fault::not_found("no such network"));
        }
        self.inner.free_network(id)
    }

    fn gateway_check(&self, options: &Options) -> Result<GatewayCheck, Fault> {
        let mut check = self.inner.gateway_check(options)?;
        if self.is(NetworkDefect::GatewayCheckChanges) {
            let mut memory = twin::locked(&self.memory);
            memory.calls += 1;
            check.skip_ipv6 = memory.calls.is_multiple_of(2);
        }
        Ok(check)
    }
}

impl ExternalConnectivity for Network {
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        let ports: Vec<u16> = spec.ports.iter().map(|port| port.host_port).collect();
        if ports.iter().any(|port| memory.stuck.contains(port)) {
            return Err(Fault::in_use("the port is taken"));
        }
        let answer = self.inner.program(spec);
        memory.ports.insert(spec.at.clone(), ports);
        match (self.defect, answer) {
            (NetworkDefect::SecondProgramFails, Ok(Done::AlreadySo)) => {
                Err(Fault::in_use("the port is taken"))
            }
            (NetworkDefect::TakenPortIsGranted, Err(fault)) if fault.kind == FaultKind::InUse => {
                Ok(Done::Changed)
            }
            (_, answer) => answer,
        }
    }

    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let mut memory = twin::locked(&self.memory);
        if self.is(NetworkDefect::RevokeKeepsPorts) && memory.ports.contains_key(at) {
            return Ok(Done::Changed);
        }
        memory.ports.remove(at);
        match self.inner.revoke(at)? {
            Done::AlreadySo if self.is(NetworkDefect::RevokeOfUnknownFails) => {
                Err(Fault::not_found("no ports"))
            }
            done => Ok(done),
        }
    }
}

impl Discovery for Network {
    fn node_arrived(&self, node: &Node) -> Result<Done, Fault> {
        match self.inner.node_arrived(node)? {
            Done::AlreadySo if self.is(NetworkDefect::NodesComeOnce) => {
                Err(Fault::already_exists("it is there"))
            }
            done => Ok(done),
        }
    }

    fn node_left(&self, node: &Node) -> Result<Done, Fault> {
        self.inner.node_left(node)
    }
}
