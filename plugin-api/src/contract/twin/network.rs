//! Networks and endpoints in maps, without links.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use super::locked;
use crate::fault::Fault;
use crate::id::{MacAddr, NetworkId};
use crate::network::{
    ConnectivitySpec, Discovery, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity,
    GatewayCheck, JoinLink, JoinPlan, JoinSpec, NetworkCapabilities, NetworkDriver, NetworkSpec, Node,
    PortBinding, Protocol,
};
use crate::volume::Scope;
use crate::{Done, Options};

#[derive(Debug)]
struct Endpoint {
    reply: EndpointInterface,
    plan: Option<JoinPlan>,
    ports: Option<Vec<PortBinding>>,
}

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<NetworkId, NetworkSpec>,
    endpoints: BTreeMap<EndpointRef, Endpoint>,
    nodes: BTreeMap<String, Node>,
    last: u32,
}

/// A network driver that answers as one with links would. It knows the option `mtu`.
#[derive(Debug, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

impl Network {
    /// One without networks.
    pub fn new() -> Self {
        Self::default()
    }

    /// The twin as a new process finds it.
    pub fn restarted(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

fn unknown(at: &EndpointRef) -> Fault {
    let (endpoint, network) = (at.endpoint.short(), at.network.short());
    Fault::not_found(format!("endpoint {endpoint} of network {network} does not exist"))
}

fn gateway(spec: &NetworkSpec, v6: bool) -> Option<IpAddr> {
    let subnets = if v6 { &spec.ipv6 } else { &spec.ipv4 };
    subnets
        .iter()
        .find_map(|subnet| subnet.gateway)
        .map(|gateway| gateway.addr())
}

/// Whether two bindings cannot both be had.
fn clash(one: &PortBinding, two: &PortBinding) -> bool {
    let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    let same_ip = any(one.host_ip) || any(two.host_ip) || one.host_ip == two.host_ip;
    one.host_port != 0 && one.protocol == two.protocol && same_ip && one.host_port == two.host_port
}

fn fixed_v4(ip: Option<IpAddr>) -> Option<Ipv4Addr> {
    ip.and_then(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None })
}

fn fixed_v6(ip: Option<IpAddr>) -> Option<Ipv6Addr> {
    ip.and_then(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None })
}

impl NetworkDriver for Network {
    fn capabilities(&self) -> NetworkCapabilities {
        NetworkCapabilities {
            scope: Scope::Local,
            connectivity: Scope::Local,
            checks_gateway: true,
        }
    }

    fn create_network(&self, spec: &NetworkSpec) -> Result<Done, Fault> {
        if let Some(key) = spec.options.keys().find(|key| *key != "mtu") {
            let (id, key) = (spec.id.short(), crate::id::quoted(key));
            return Err(Fault::invalid(format!(
                "create network {id}: unknown option {key}, known is mtu"
            )));
        }
        let mut state = self.state();
        match state.networks.get(&spec.id) {
            Some(known) if known == spec => Ok(Done::AlreadySo),
            Some(_) => Err(Fault::already_exists(format!(
                "network {} exists with another definition",
                spec.id.short()
            ))),
            None => {
                state.networks.insert(spec.id.clone(), spec.clone());
                Ok(Done::Changed)
            }
        }
    }

    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        let mut state = self.state();
        state.endpoints.retain(|at, _| at.network != *id);
        let known = state.networks.remove(id).is_some();
        Ok(if known { Done::Changed } else { Done::AlreadySo })
    }

    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
        let mut state = self.state();
        if !state.networks.contains_key(&spec.at.network) {
            return Err(Fault::not_found(format!(
                "network {} does not exist",
                spec.at.network.short()
            )));
        }
        if let Some(known) = state.endpoints.get(&spec.at) {
            return Ok(known.reply.clone());
        }
        state.last += 1;
        let [a, b, c, d] = state.last.to_be_bytes();
        let mac = spec
            .interface
            .mac
            .is_none()
            .then_some(MacAddr([2, 66, a, b, c, d]));
        let reply = EndpointInterface {
            mac,
            ..EndpointInterface::default()
        };
        let endpoint = Endpoint {
            reply: reply.clone(),
            plan: None,
            ports: None,
        };
        state.endpoints.insert(spec.at.clone(), endpoint);
        Ok(reply)
    }

    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let known = self.state().endpoints.remove(at).is_some();
        Ok(if known { Done::Changed } else { Done::AlreadySo })
    }

    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        let state = self.state();
        let endpoint = state.endpoints.get(at).ok_or_else(|| unknown(at))?;
        Ok(BTreeMap::from([(
            "joined".into(),
            endpoint.plan.is_some().to_string(),
        )]))
    }

    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
        let mut state = self.state();
        let network = state
            .networks
            .get(&spec.at.network)
            .ok_or_else(|| unknown(&spec.at))?;
        let (v4, v6) = (gateway(network, false), gateway(network, true));
        state.last += 1;
        let source = format!("twin{:x}", state.last);
        let endpoint = state
            .endpoints
            .get_mut(&spec.at)
            .ok_or_else(|| unknown(&spec.at))?;
        let plan = endpoint.plan.get_or_insert_with(|| JoinPlan {
            link: Some(JoinLink {
                source,
                prefix: "eth".into(),
            }),
            gateway: fixed_v4(v4),
            gateway_v6: fixed_v6(v6),
            ..JoinPlan::default()
        });
        Ok(plan.clone())
    }

    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let mut state = self.state();
        let Some(endpoint) = state.endpoints.get_mut(at) else {
            return Ok(Done::AlreadySo);
        };
        endpoint.ports = None;
        Ok(if endpoint.plan.take().is_some() {
            Done::Changed
        } else {
            Done::AlreadySo
        })
    }

    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        Some(self)
    }

    fn discovery(&self) -> Option<&dyn Discovery> {
        Some(self)
    }

    fn gateway_check(&self, options: &Options) -> Result<GatewayCheck, Fault> {
        let isolated = options.contains_key("isolated");
        Ok(GatewayCheck {
            skip_ipv4: isolated,
            skip_ipv6: isolated,
        })
    }
}

impl ExternalConnectivity for Network {
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
        let mut state = self.state();
        let others = state.endpoints.iter().filter(|(at, _)| **at != spec.at);
        let mut taken = others.flat_map(|(_, endpoint)| endpoint.ports.iter().flatten());
        if let Some(port) = taken.find(|taken| spec.ports.iter().any(|port| clash(port, taken))) {
            let (protocol, number) = (Protocol::as_str(port.protocol), port.host_port);
            return Err(Fault::in_use(format!(
                "publish {protocol} port {number}: another endpoint has it"
            )));
        }
        let endpoint = state
            .endpoints
            .get_mut(&spec.at)
            .ok_or_else(|| unknown(&spec.at))?;
        if endpoint.ports.as_ref() == Some(&spec.ports) {
            return Ok(Done::AlreadySo);
        }
        endpoint.ports = Some(spec.ports.clone());
        Ok(Done::Changed)
    }

    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let mut state = self.state();
        let ports = state
            .endpoints
            .get_mut(at)
            .and_then(|endpoint| endpoint.ports.take());
        Ok(if ports.is_some() {
            Done::Changed
        } else {
            Done::AlreadySo
        })
    }
}

impl Discovery for Network {
    fn node_arrived(&self, node: &Node) -> Result<Done, Fault> {
        let known = self.state().nodes.insert(node.address.clone(), node.clone());
        Ok(if known.as_ref() == Some(node) {
            Done::AlreadySo
        } else {
            Done::Changed
        })
    }

    fn node_left(&self, node: &Node) -> Result<Done, Fault> {
        let known = self.state().nodes.remove(&node.address).is_some();
        Ok(if known { Done::Changed } else { Done::AlreadySo })
    }
}
