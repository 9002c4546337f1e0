//! Legs of containers in networks: address, endpoint, link, and the way back.
//!
//! **Invariant:** [`detach`] takes back whatever [`attach`] wrote down, however far it came; drivers
//! answer success about what they do not know.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::netlink::plug::{Wanted, plug};
use kernel::netns::Namespace;
use plugin_api::Options;
use plugin_api::id::{EndpointId, MacAddr, NetworkId, PoolId, SandboxKey};
use plugin_api::ipam::{AddressPurpose, AddressRequest, IpamDriver};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExposedPort, JoinPlan, JoinSpec,
    NetworkDriver, PortBinding,
};

use crate::engine::Engine;
use crate::plugins::Told;
use crate::ports;
use crate::sandbox;
use crate::state::container::{Container, Endpoint, Leg};
use crate::state::network::Network;
use crate::state::{fresh_id, short};

fn leg<'a>(container: &'a Container, network: &str) -> Result<&'a Leg> {
    let found = container.legs.iter().find(|leg| leg.network == network);
    found.with_context(|| {
        format!(
            "container {} is not in network {}",
            container.name,
            short(network)
        )
    })
}

/// Changes the record of one endpoint.
fn note(engine: &Engine, id: &str, network: &str, change: impl FnOnce(&mut Endpoint)) -> Result<()> {
    engine.store.change(id, |one| {
        let leg = one.legs.iter_mut().find(|leg| leg.network == network);
        if let Some(endpoint) = leg.and_then(|leg| leg.endpoint.as_mut()) {
            change(endpoint);
        }
    })?;
    Ok(())
}

/// Names an endpoint to its driver.
pub(crate) fn reference(network: &str, endpoint: &str) -> Result<EndpointRef> {
    Ok(EndpointRef {
        network: NetworkId::new(network)?,
        endpoint: EndpointId::new(endpoint)?,
    })
}

fn port_lists(container: &Container) -> (Vec<PortBinding>, Vec<ExposedPort>) {
    let published = container.recipe.publish.iter().map(|one| one.0).collect();
    let exposed = container.recipe.exposed.iter();
    let exposed = exposed.flat_map(|text| ports::exposed(text).unwrap_or_default());
    (published, exposed.collect())
}

/// Brings a container's sandbox into a network. A failure leaves nothing behind.
pub(crate) fn attach(engine: &Engine, id: &str, network: &str) -> Result<()> {
    let outcome = try_attach(engine, id, network);
    if let Err(error) = outcome {
        return Err(match detach(engine, id, network) {
            Ok(()) => error,
            Err(undo) => error.context(format!("not undone, left to repair: {undo:#}")),
        });
    }
    Ok(())
}

fn try_attach(engine: &Engine, id: &str, network_id: &str) -> Result<()> {
    let network = engine.store.network(network_id)?;
    let driver = engine.plugins.network(&network.driver)?;
    let endpoint = Endpoint {
        id: fresh_id()?,
        ..Endpoint::default()
    };
    let at = reference(network_id, &endpoint.id)?;
    let container = engine.store.change(id, |one| {
        let leg = one.legs.iter_mut().find(|leg| leg.network == network_id);
        if let Some(leg) = leg {
            leg.endpoint = Some(endpoint);
        }
    })?;
    let wanted = leg(&container, network_id)?.clone();
    let interface = addresses(engine, id, &network, &wanted)?;
    let (published, exposed) = port_lists(&container);
    let spec = EndpointSpec {
        at: at.clone(),
        interface: interface.clone(),
        ports: published,
        exposed,
        options: Options::new(),
    };
    let answered = driver
        .create_endpoint(&spec)
        .told(|| format!("create endpoint in network {}", network.name))?;
    let interface = EndpointInterface {
        address: interface.address.or(answered.address),
        address_v6: interface.address_v6.or(answered.address_v6),
        mac: interface.mac.or(answered.mac),
    };
    note(engine, id, network_id, |one| {
        one.address = interface.address;
        one.address_v6 = interface.address_v6;
        one.mac = interface.mac;
    })?;
    let path = sandbox::path(&engine.store, id);
    let join = JoinSpec {
        at,
        sandbox: SandboxKey::new(path.to_string_lossy())?,
        options: Options::new(),
    };
    let plan = driver
        .join(&join)
        .told(|| format!("join network {}", network.name))?;
    plug_in(engine, &container, network_id, &interface, &plan)
}

/// Addresses of a leg, each written down before the next is asked for.
fn addresses(engine: &Engine, id: &str, network: &Network, leg: &Leg) -> Result<EndpointInterface> {
    let mut interface = EndpointInterface {
        mac: leg.mac,
        ..EndpointInterface::default()
    };
    if network.pools.is_empty() {
        return Ok(interface);
    }
    let ipam = engine.plugins.ipam(&network.ipam)?;
    if ipam.capabilities().requires_mac && interface.mac.is_none() {
        interface.mac = Some(random_mac()?);
    }
    for v6 in [false, true] {
        let typed: Option<IpAddr> = if v6 {
            leg.ip6.map(Into::into)
        } else {
            leg.ip.map(Into::into)
        };
        let Some(pool) = network.pool_of(typed, v6) else {
            if let Some(typed) = typed {
                anyhow::bail!("address {typed} is in no subnet of network {}", network.name);
            }
            continue;
        };
        let request = AddressRequest {
            pool: PoolId::new(&pool.id)?,
            address: typed,
            purpose: AddressPurpose::Endpoint,
            mac: interface.mac,
            serial: false,
            holder: None,
        };
        let lease = ipam
            .request_address(&request)
            .told(|| format!("request address in network {}", network.name))?;
        let address = Some(lease.address);
        if v6 {
            interface.address_v6 = address;
        } else {
            interface.address = address;
        }
        note(engine, id, &network.id, |one| {
            if v6 {
                (one.pool_v6, one.address_v6) = (Some(pool.id.clone()), address);
            } else {
                (one.pool, one.address) = (Some(pool.id.clone()), address);
            }
        })?;
    }
    Ok(interface)
}

/// A locally administered address.
fn random_mac() -> Result<MacAddr> {
    let id = fresh_id()?;
    let text = format!("02:42:{}:{}:{}:{}", &id[..2], &id[2..4], &id[4..6], &id[6..8]);
    Ok(text.parse()?)
}

/// The first free name of a prefix: `eth0`, `eth1`…
fn free_name(container: &Container, prefix: &str) -> String {
    let taken: Vec<&str> = container
        .legs
        .iter()
        .filter_map(|leg| leg.endpoint.as_ref()?.link.as_deref())
        .collect();
    let mut names = (0..).map(|n| format!("{prefix}{n}"));
    names
        .find(|name| !taken.contains(&name.as_str()))
        .expect("numbers do not end")
}

fn plug_in(
    engine: &Engine,
    container: &Container,
    network: &str,
    interface: &EndpointInterface,
    plan: &JoinPlan,
) -> Result<()> {
    let others = || container.legs.iter().filter(|leg| leg.network != network);
    let taken_v4 = others().any(|leg| leg.endpoint.as_ref().is_some_and(|one| one.gateway.is_some()));
    let taken_v6 = others().any(|leg| leg.endpoint.as_ref().is_some_and(|one| one.gateway_v6.is_some()));
    let gateway = plan.gateway.filter(|_| !taken_v4);
    let gateway_v6 = plan.gateway_v6.filter(|_| !taken_v6);
    let Some(link) = &plan.link else {
        return Ok(());
    };
    let mut routes: Vec<_> = plan
        .routes
        .iter()
        .map(|one| (one.destination, one.next_hop))
        .collect();
    routes.extend(gateway.map(|gateway| (IpNet::V4(Ipv4Net::default()), Some(gateway.into()))));
    routes.extend(gateway_v6.map(|gateway| (IpNet::V6(Ipv6Net::default()), Some(gateway.into()))));
    let wanted = Wanted {
        name: free_name(container, &link.prefix),
        mac: interface.mac.map(|mac| mac.0),
        addresses: [interface.address, interface.address_v6]
            .into_iter()
            .flatten()
            .collect(),
        routes,
        sysctls: Vec::new(),
    };
    let namespace = Namespace::open(&sandbox::path(&engine.store, &container.id))?;
    plug(&namespace, &link.source, &wanted).with_context(|| format!("plug link {} in", link.source))?;
    note(engine, &container.id, network, |one| {
        one.link = Some(wanted.name.clone());
        one.gateway = gateway;
        one.gateway_v6 = gateway_v6;
    })
}

/// Opens the published ports on the leg that leads out.
pub(crate) fn publish(engine: &Engine, id: &str) -> Result<()> {
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    let (published, exposed) = port_lists(&container);
    let outward = container.legs.iter().find_map(|leg| {
        let endpoint = leg.endpoint.as_ref()?;
        (endpoint.gateway.is_some() || endpoint.gateway_v6.is_some()).then_some((leg, endpoint))
    });
    let Some((leg, endpoint)) = outward.filter(|_| !published.is_empty()) else {
        return Ok(());
    };
    if endpoint.programmed {
        return Ok(());
    }
    let network = engine.store.network(&leg.network)?;
    let driver = engine.plugins.network(&network.driver)?;
    let Some(outside) = driver.external_connectivity() else {
        return Ok(());
    };
    note(engine, id, &leg.network, |one| one.programmed = true)?;
    let spec = ConnectivitySpec {
        at: reference(&leg.network, &endpoint.id)?,
        ports: published,
        exposed,
    };
    outside
        .program(&spec)
        .told(|| format!("publish ports in network {}", network.name))?;
    Ok(())
}

/// Takes a container out of a network. Repeatable.
pub(crate) fn detach(engine: &Engine, id: &str, network_id: &str) -> Result<()> {
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    let Some(endpoint) = &leg(&container, network_id)?.endpoint else {
        return Ok(());
    };
    let network = engine.store.network(network_id)?;
    let driver = engine.plugins.network(&network.driver)?;
    let at = reference(network_id, &endpoint.id)?;
    if endpoint.programmed
        && let Some(outside) = driver.external_connectivity()
    {
        outside
            .revoke(&at)
            .told(|| format!("close ports in network {}", network.name))?;
    }
    driver
        .leave(&at)
        .told(|| format!("leave network {}", network.name))?;
    driver
        .delete_endpoint(&at)
        .told(|| format!("delete endpoint in network {}", network.name))?;
    let rows = [
        (&endpoint.pool, endpoint.address),
        (&endpoint.pool_v6, endpoint.address_v6),
    ];
    for (pool, address) in rows {
        let (Some(pool), Some(address)) = (pool, address) else {
            continue;
        };
        release(engine, &network, pool, address)?;
    }
    engine.store.change(id, |one| {
        let leg = one.legs.iter_mut().find(|leg| leg.network == network_id);
        if let Some(leg) = leg {
            leg.endpoint = None;
        }
    })?;
    Ok(())
}

fn release(engine: &Engine, network: &Network, pool: &str, address: IpNet) -> Result<()> {
    engine
        .plugins
        .ipam(&network.ipam)?
        .release_address(&PoolId::new(pool)?, address.addr())
        .told(|| format!("release address {}", address.addr()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::container::tests::sample;

    #[test]
    fn links_are_numbered_by_the_first_free_number() {
        let mut container = sample("web", "n1", "10.0.0.2/24");
        assert_eq!(free_name(&container, "eth"), "eth0");
        container.legs[0].endpoint.as_mut().unwrap().link = Some("eth0".into());
        assert_eq!(free_name(&container, "eth"), "eth1");
        assert_eq!(free_name(&container, "lan"), "lan0");
    }

    #[test]
    fn random_addresses_are_of_one_station() {
        assert_eq!(random_mac().unwrap().0[0], 2);
    }
}
