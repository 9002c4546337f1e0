//! Verbs of the bridge driver.

use std::collections::BTreeMap;

use plugin_api::Fault;
use plugin_api::id::{EndpointId, NetworkId, SandboxKey};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, JoinSpec, NetworkDriver, NetworkSpec,
    PortBinding, Protocol, Subnet,
};

use crate::ground::Ground;
use crate::sweep::sweep;

pub(crate) const DRIVERS: &str = "[network.crash]\ndriver = \"bridge\"\n";

fn network_id() -> NetworkId {
    NetworkId::new("3f2a".repeat(16)).unwrap()
}

fn at() -> EndpointRef {
    EndpointRef {
        network: network_id(),
        endpoint: EndpointId::new("e17b".repeat(16)).unwrap(),
    }
}

pub(crate) fn network(ground: &Ground) -> Result<(), Fault> {
    let subnet = Subnet {
        address_space: "LocalDefault".into(),
        pool: "10.88.0.0/24".parse().unwrap(),
        gateway: Some("10.88.0.1/24".parse().unwrap()),
        auxiliary: BTreeMap::new(),
    };
    let spec = NetworkSpec {
        id: network_id(),
        options: BTreeMap::new(),
        enable_ipv4: true,
        enable_ipv6: false,
        internal: false,
        ipv4: vec![subnet],
        ipv6: Vec::new(),
    };
    ground.client()?.network().create_network(&spec)?;
    Ok(())
}

pub(crate) fn no_network(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.network().delete_network(&network_id())?;
    Ok(())
}

fn ports() -> Vec<PortBinding> {
    let published = |protocol, port| PortBinding {
        protocol,
        container_port: port,
        host_ip: None,
        host_port: port + 8000,
        host_port_end: port + 8000,
    };
    vec![published(Protocol::Tcp, 80), published(Protocol::Udp, 53)]
}

pub(crate) fn endpoint(ground: &Ground) -> Result<(), Fault> {
    let spec = EndpointSpec {
        at: at(),
        interface: EndpointInterface {
            address: Some("10.88.0.7/24".parse().unwrap()),
            ..Default::default()
        },
        ports: ports(),
        exposed: Vec::new(),
        options: BTreeMap::new(),
    };
    ground.client()?.network().create_endpoint(&spec)?;
    Ok(())
}

pub(crate) fn no_endpoint(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.network().delete_endpoint(&at())?;
    Ok(())
}

pub(crate) fn join(ground: &Ground) -> Result<(), Fault> {
    let spec = JoinSpec {
        at: at(),
        sandbox: SandboxKey::new("/run/netns/box").unwrap(),
        options: BTreeMap::new(),
    };
    let plan = ground.client()?.network().join(&spec)?;
    let link = plan.link.expect("a bridge gives a link").source;
    ground.run(&["ip", "link", "show", "dev", &link]);
    ground.remember("link", link);
    Ok(())
}

/// What the engine does with the link that `join` named.
#[allow(clippy::unnecessary_wraps, reason = "a step of the tables")]
fn enter(ground: &Ground) -> Result<(), Fault> {
    ground.run(&["ip", "link", "set", &ground.recall("link"), "netns", "box"]);
    Ok(())
}

pub(crate) fn leave(ground: &Ground) -> Result<(), Fault> {
    ground.client()?.network().leave(&at())?;
    Ok(())
}

pub(crate) fn program(ground: &Ground) -> Result<(), Fault> {
    let spec = ConnectivitySpec {
        at: at(),
        ports: ports(),
        exposed: Vec::new(),
    };
    let network = ground.client()?.network();
    let connectivity = network.external_connectivity();
    connectivity.expect("a bridge publishes ports").program(&spec)?;
    Ok(())
}

pub(crate) fn revoke(ground: &Ground) -> Result<(), Fault> {
    let network = ground.client()?.network();
    let connectivity = network.external_connectivity();
    connectivity.expect("a bridge publishes ports").revoke(&at())?;
    Ok(())
}

sweep!(creating_a_network: DRIVERS, [], network, [no_network]);
sweep!(creating_an_endpoint: DRIVERS, [network], endpoint, [no_endpoint, no_network]);
sweep!(joining: DRIVERS, [network, endpoint], join, [leave, no_endpoint, no_network]);
sweep!(programming: DRIVERS, [network, endpoint, join, enter], program, [revoke, leave, no_endpoint, no_network]);
sweep!(revoking: DRIVERS, [network, endpoint, join, enter, program], revoke, [leave, no_endpoint, no_network]);
sweep!(leaving: DRIVERS, [network, endpoint, join, enter, program], leave: [revoke], [no_endpoint, no_network]);
sweep!(leaving_before_the_engine_took_the_link: DRIVERS, [network, endpoint, join], leave, [no_endpoint, no_network]);
sweep!(deleting_an_endpoint: DRIVERS, [network, endpoint], no_endpoint, [no_network]);
sweep!(deleting_a_joined_endpoint: DRIVERS, [network, endpoint, join, enter, program], no_endpoint: [revoke, leave], [no_network]);
sweep!(deleting_a_network: DRIVERS, [network], no_network, []);
sweep!(deleting_a_network_in_use: DRIVERS, [network, endpoint, join, enter, program], no_network: [revoke, leave, no_endpoint], []);
