//! `network …`.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use plugin_api::Options;
use plugin_api::id::{AddressSpace, NetworkId, PoolId};
use plugin_api::ipam::{AddressPurpose, AddressRequest, IpamDriver, PoolRequest};
use plugin_api::network::{GatewayCheck, NetworkDriver, NetworkSpec, Subnet};
use plugin_api::volume::Scope;

use super::{each, inspect, options, table};
use crate::cli::{NetworkCommand, NetworkCreate};
use crate::engine::{DEFAULT_DRIVER, Engine};
use crate::plugins::Told;
use crate::state::container::{Container, Leg, Status};
use crate::state::network::{Network, Pool};
use crate::state::{Kind, check_name, fresh_id, now, short};
use crate::{endpoints, monitor};

pub(super) fn perform(engine: &Engine, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Create(typed) => {
            let network = create(engine, &typed)?;
            say!("{}", network.id);
            Ok(())
        }
        NetworkCommand::Ls => list(engine),
        NetworkCommand::Inspect { name } => inspect::network(engine, &name),
        NetworkCommand::Rm { names } => each(&names, |name| remove(engine, name)),
        NetworkCommand::Connect {
            ip,
            ip6,
            alias,
            network,
            container,
        } => {
            let leg = Leg {
                network: engine.store.network(&network)?.id,
                aliases: alias,
                ip,
                ip6,
                ..Leg::default()
            };
            connect(engine, &container, leg)
        }
        NetworkCommand::Disconnect { network, container } => disconnect(engine, &network, &container),
    }
}

// === create ===

/// A pool to be asked for, with its gateway and range if they were typed.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    v6: bool,
    subnet: Option<IpNet>,
    gateway: Option<IpAddr>,
    range: Option<IpNet>,
}

fn is_v6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

/// Which pools a command line asks for.
fn wishes(typed: &NetworkCreate) -> Result<Vec<Wish>> {
    let mut all: Vec<Wish> = Vec::new();
    for v6 in [false, true] {
        let subnets: Vec<&IpNet> = typed.subnet.iter().filter(|net| is_v6(net) == v6).collect();
        if subnets.is_empty() && (!v6 || typed.ipv6) {
            all.push(Wish {
                v6,
                subnet: None,
                gateway: None,
                range: None,
            });
        }
        all.extend(subnets.into_iter().map(|subnet| Wish {
            v6,
            subnet: Some(subnet.trunc()),
            gateway: None,
            range: None,
        }));
    }
    for gateway in &typed.gateway {
        let wish = all.iter_mut().find(|wish| {
            wish.subnet.is_some_and(|subnet| subnet.contains(gateway)) && wish.gateway.is_none()
        });
        wish.with_context(|| format!("gateway {gateway} is in no subnet that was given"))?
            .gateway = Some(*gateway);
    }
    for range in &typed.ip_range {
        let wish = all
            .iter_mut()
            .find(|wish| wish.subnet.is_some_and(|subnet| subnet.contains(range)) && wish.range.is_none());
        wish.with_context(|| format!("range {range} is in no subnet that was given"))?
            .range = Some(range.trunc());
    }
    Ok(all)
}

/// Makes a network.
pub(super) fn create(engine: &Engine, typed: &NetworkCreate) -> Result<Network> {
    check_name("network name", &typed.name)?;
    let driver_options = options(&typed.opt)?;
    let wishes = wishes(typed)?;
    let driver = engine.plugins.network(&typed.driver)?;
    let ipam_name = match &typed.ipam_driver {
        Some(name) => name.clone(),
        None if engine.plugins.implements(&typed.driver, "IpamDriver") => typed.driver.clone(),
        None => DEFAULT_DRIVER.to_owned(),
    };
    let ipam = engine.plugins.ipam(&ipam_name)?;
    let capabilities = driver
        .announced()
        .told(|| format!("ask plugin {}", typed.driver))?;
    let spaces = ipam.default_spaces().told(|| format!("ask plugin {ipam_name}"))?;
    let space = if capabilities.scope == Scope::Global {
        spaces.global
    } else {
        spaces.local
    };
    let check = if capabilities.checks_gateway {
        driver
            .gateway_check(&driver_options)
            .told(|| format!("ask plugin {}", typed.driver))?
    } else {
        GatewayCheck::default()
    };
    let mut network = Network {
        id: fresh_id()?,
        name: typed.name.clone(),
        created: now(),
        driver: typed.driver.clone(),
        ipam: ipam_name,
        options: driver_options,
        internal: typed.internal,
        ipv6: typed.ipv6 || typed.subnet.iter().any(is_v6),
        pools: Vec::new(),
        ready: false,
    };
    announce(engine, &network)?;
    let outcome = wishes
        .iter()
        .try_for_each(|wish| lease(engine, &ipam, &mut network, (&space, check), wish))
        .and_then(|()| {
            driver
                .create_network(&spec(&network)?)
                .told(|| format!("create network {}", network.name))
        });
    if let Err(error) = outcome {
        return Err(match give_back(engine, &network) {
            Ok(()) => error,
            Err(undo) => error.context(format!("not undone, left to network rm: {undo:#}")),
        });
    }
    network.ready = true;
    let lock = engine.store.lock()?;
    engine.store.put_network(&lock, &network)?;
    Ok(network)
}

fn announce(engine: &Engine, network: &Network) -> Result<()> {
    let lock = engine.store.lock()?;
    if engine
        .store
        .networks()?
        .iter()
        .any(|other| other.name == network.name)
    {
        bail!("network {} exists already", network.name);
    }
    engine.store.put_network(&lock, network)
}

fn lease(
    engine: &Engine,
    ipam: &dyn IpamDriver,
    network: &mut Network,
    (space, check): (&AddressSpace, GatewayCheck),
    wish: &Wish,
) -> Result<()> {
    let request = PoolRequest {
        space: space.clone(),
        pool: wish.subnet,
        sub_pool: wish.range,
        options: Options::new(),
        v6: wish.v6,
    };
    let lease = ipam.request_pool(&request).told(|| "request pool".into())?;
    network.pools.push(Pool {
        id: lease.id.as_str().to_owned(),
        space: space.as_str().to_owned(),
        subnet: lease.pool,
        gateway: None,
    });
    engine.store.put_network(&engine.store.lock()?, network)?;
    let skipped = if wish.v6 { check.skip_ipv6 } else { check.skip_ipv4 };
    if skipped && wish.gateway.is_none() {
        return Ok(());
    }
    let told = lease.data.get("com.docker.network.gateway");
    let gateway = match (wish.gateway, told) {
        (None, Some(told)) => told
            .parse::<IpNet>()
            .context("the address driver's gateway is no address")?,
        (address, _) => {
            let request = AddressRequest {
                pool: lease.id,
                address,
                purpose: AddressPurpose::Gateway,
                mac: None,
                serial: false,
                holder: None,
            };
            let lease = ipam.request_address(&request).told(|| "request gateway".into())?;
            lease.address
        }
    };
    network.pools.last_mut().expect("it was just pushed").gateway = Some(gateway);
    engine.store.put_network(&engine.store.lock()?, network)
}

fn spec(network: &Network) -> Result<NetworkSpec> {
    let subnets = |v6: bool| {
        let pools = network.pools.iter().filter(move |pool| is_v6(&pool.subnet) == v6);
        pools.map(|pool| Subnet {
            address_space: pool.space.clone(),
            pool: pool.subnet,
            gateway: pool.gateway,
            auxiliary: std::collections::BTreeMap::new(),
        })
    };
    Ok(NetworkSpec {
        id: NetworkId::new(&network.id)?,
        options: network.options.clone(),
        enable_ipv4: true,
        enable_ipv6: network.ipv6,
        internal: network.internal,
        ipv4: subnets(false).collect(),
        ipv6: subnets(true).collect(),
    })
}

/// Gives back what a network has, then forgets it. Repeatable.
fn give_back(engine: &Engine, network: &Network) -> Result<()> {
    let driver = engine.plugins.network(&network.driver)?;
    driver
        .delete_network(&NetworkId::new(&network.id)?)
        .told(|| format!("delete network {}", network.name))?;
    if !network.pools.is_empty() {
        let ipam = engine.plugins.ipam(&network.ipam)?;
        for pool in network.pools.iter().rev() {
            let id = PoolId::new(&pool.id)?;
            if let Some(gateway) = pool.gateway {
                ipam.release_address(&id, gateway.addr())
                    .told(|| format!("release gateway {}", gateway.addr()))?;
            }
            ipam.release_pool(&id)
                .told(|| format!("release pool {}", pool.subnet))?;
        }
    }
    let lock = engine.store.lock()?;
    engine.store.remove(&lock, Kind::Network, &network.id)
}

fn remove(engine: &Engine, name: &str) -> Result<()> {
    let network = engine.store.network(name)?;
    let members = engine.store.containers()?;
    let member = members.iter().find(|one| {
        let mut legs = one.legs.iter();
        legs.any(|leg| leg.network == network.id && (leg.endpoint.is_some() || one.status == Status::Running))
    });
    if let Some(member) = member {
        bail!(
            "network {name} is used by container {} ({})",
            member.name,
            short(&member.id)
        );
    }
    give_back(engine, &network)
}

fn list(engine: &Engine) -> Result<()> {
    let rows: Vec<Vec<String>> = engine
        .store
        .networks()?
        .into_iter()
        .map(|network| {
            let subnets: Vec<String> = network.pools.iter().map(|pool| pool.subnet.to_string()).collect();
            let name = if network.ready {
                network.name
            } else {
                format!("{} (unfinished)", network.name)
            };
            vec![
                short(&network.id).to_owned(),
                name,
                network.driver,
                subnets.join(","),
            ]
        })
        .collect();
    table(&["NETWORK ID", "NAME", "DRIVER", "SUBNET"], &rows);
    Ok(())
}

// === members ===

fn connect(engine: &Engine, typed: &str, leg: Leg) -> Result<()> {
    let container = engine.store.container(typed)?;
    let network = leg.network.clone();
    let mut twice = false;
    let container: Container = engine.store.change(&container.id, |one| {
        twice = one.legs.iter().any(|other| other.network == network);
        if !twice {
            one.legs.push(leg);
        }
    })?;
    if twice {
        bail!("container {typed} is in that network already");
    }
    if container.status != Status::Running {
        return Ok(());
    }
    let outcome = endpoints::attach(engine, &container.id, &network)
        .and_then(|()| endpoints::publish(engine, &container.id))
        .and_then(|()| monitor::refresh_hosts(engine, &container.id));
    if let Err(error) = outcome {
        return Err(match forget_leg(engine, &container.id, &network) {
            Ok(()) => error,
            Err(undo) => anyhow!("{error:#}; not undone: {undo:#}"),
        });
    }
    Ok(())
}

fn forget_leg(engine: &Engine, id: &str, network: &str) -> Result<()> {
    endpoints::detach(engine, id, network)?;
    engine
        .store
        .change(id, |one| one.legs.retain(|leg| leg.network != network))?;
    Ok(())
}

fn disconnect(engine: &Engine, network: &str, typed: &str) -> Result<()> {
    let network = engine.store.network(network)?;
    let container = engine.store.container(typed)?;
    if !container.legs.iter().any(|leg| leg.network == network.id) {
        bail!("container {typed} is not in network {}", network.name);
    }
    forget_leg(engine, &container.id, &network.id)?;
    if container.status == Status::Running {
        monitor::refresh_hosts(engine, &container.id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(subnets: &[&str], gateways: &[&str], ranges: &[&str], ipv6: bool) -> NetworkCreate {
        NetworkCreate {
            driver: "bridge".into(),
            ipam_driver: None,
            subnet: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            gateway: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ip_range: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ipv6,
            internal: false,
            opt: vec![],
            name: "front".into(),
        }
    }

    #[test]
    fn a_bare_network_asks_for_one_pool_per_family() {
        let families = |ipv6| {
            let all = wishes(&typed(&[], &[], &[], ipv6)).unwrap();
            all.iter().map(|wish| wish.v6).collect::<Vec<_>>()
        };
        assert_eq!(families(false), [false]);
        assert_eq!(families(true), [false, true]);
    }

    #[test]
    fn gateways_and_ranges_find_their_subnet() {
        let all = wishes(&typed(
            &["10.1.0.0/16", "fd00::/64"],
            &["fd00::1", "10.1.0.254"],
            &["10.1.4.0/24"],
            false,
        ))
        .unwrap();
        assert_eq!(all[0].gateway, Some("10.1.0.254".parse().unwrap()));
        assert_eq!(all[0].range, Some("10.1.4.0/24".parse().unwrap()));
        assert_eq!(all[1].gateway, Some("fd00::1".parse().unwrap()));
        assert!(wishes(&typed(&["10.1.0.0/16"], &["10.2.0.1"], &[], false)).is_err());
        assert!(wishes(&typed(&[], &["10.2.0.1"], &[], false)).is_err());
        assert!(wishes(&typed(&["10.1.0.0/16"], &[], &["10.2.0.0/24"], false)).is_err());
    }
}
