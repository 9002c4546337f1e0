//! What the driver has, for people and for doors.

use std::net::SocketAddr;

use ipnet::IpNet;
use plugin_api::id::SandboxKey;
use plugin_api::report::{EndpointUse, NetworkUse, PortUse};

use super::driver::Core;
use super::plan;
use super::records::{Endpoint, EndpointPhase, Network};

impl Core {
    /// From memory, which says what the records say.
    pub(super) fn report(&self) -> Vec<NetworkUse> {
        let state = self.state();
        let networks = state.networks.values().map(|network| {
            let mine = state
                .endpoints
                .values()
                .filter(|one| one.at.network == network.spec.id);
            network_use(network, mine)
        });
        networks.collect()
    }
}

fn network_use<'a>(network: &Network, endpoints: impl Iterator<Item = &'a Endpoint>) -> NetworkUse {
    let subnets = plan::subnets(&network.spec).unwrap_or_default();
    let subnets = subnets
        .into_iter()
        .map(|one| (one.pool, one.gateway.map(|net| net.addr())));
    NetworkUse {
        id: network.spec.id.clone(),
        link: network.bridge.clone(),
        is_internal: network.spec.internal,
        subnets: subnets.collect(),
        endpoints: endpoints.map(endpoint_use).collect(),
    }
}

fn endpoint_use(endpoint: &Endpoint) -> EndpointUse {
    let joined = endpoint.phase != EndpointPhase::Apart;
    let sandbox = endpoint
        .sandbox
        .as_ref()
        .filter(|_| joined)
        .map(SandboxKey::as_str);
    let addresses: [Option<IpNet>; 2] = [endpoint.asked.address, endpoint.asked.address_v6];
    let ports = endpoint.published.iter().map(|port| PortUse {
        protocol: port.protocol,
        host: SocketAddr::new(port.host, port.host_port),
        to: SocketAddr::new(port.to, port.to_port),
    });
    EndpointUse {
        id: endpoint.at.endpoint.clone(),
        link: endpoint.outer.clone(),
        mac: endpoint.mac,
        addresses: addresses.into_iter().flatten().collect(),
        sandbox: sandbox.map(str::to_owned),
        ports: ports.collect(),
    }
}
