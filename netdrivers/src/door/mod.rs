//! Doors for engines that do not speak the Docker plugin protocol themselves.
//!
//! A CNI runtime or netavark starts a program for each leg of a container. [`Door`] is what such a program
//! does: it speaks to the running daemon's socket as an engine would, moves the link into the container's
//! namespace and makes it ready.
//!
//! **Invariant:** a door keeps no state. Ids follow from names, pools are held under the network's id and
//! addresses under the endpoint's, so whoever comes next finds what a dead door left, in the daemon's report.
//!
//! **Invariant:** a network comes with its first leg and goes with its last. Nobody tells a door that a
//! network is no longer wanted.

mod lock;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use plugin_api::client::Client;
use plugin_api::door::{Attached, Leg, NetworkWish, SubnetWish};
use plugin_api::id::{AddressSpace, EndpointId, HolderId, NetworkId, PoolId, SandboxKey};
use plugin_api::ipam::{AddressPurpose, AddressRequest, HOLDER, IpamDriver, PoolRequest};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinPlan, JoinSpec,
    NetworkDriver, NetworkSpec, Subnet,
};
use plugin_api::report::{EndpointUse, Report};
use plugin_api::{Fault, FaultKind, Options};

use crate::ipam::pool::{address, usable};
use lock::Lock;

/// A door over one socket of the daemon.
#[derive(Debug)]
pub struct Door {
    client: Client,
    locks: PathBuf,
}

/// A subnet that is held for a network.
struct Pool {
    id: PoolId,
    net: IpNet,
    gateway: IpNet,
}

impl Door {
    /// Connects to the daemon. `locks` is a folder that this makes, the same for every door of the machine.
    pub fn open(socket: &Path, locks: &Path) -> Result<Self, Fault> {
        Ok(Self {
            client: Client::connect(socket)?,
            locks: locks.to_owned(),
        })
    }

    /// Whether the daemon answers and serves what doors need; the sentence says what is missing.
    pub fn is_ready(&self) -> Result<(), Fault> {
        let kinds = self.client.activate()?;
        for kind in ["NetworkDriver", "IpamDriver"] {
            if !kinds.iter().any(|one| one == kind) {
                let text = format!("{} serves no {kind}", self.client.path().display());
                return Err(Fault::unsupported(text));
            }
        }
        self.client.report(None).map(drop)
    }

    /// Brings a container into a network, which is made if it is not there. A failure leaves nothing behind.
    pub fn attach(&self, wish: &NetworkWish, leg: &Leg) -> Result<Attached, Fault> {
        let namespace = sandbox::open(&leg.sandbox)?;
        if sandbox::link(&namespace, &leg.link)?.is_some() {
            let text = format!("link {} is there already in {}", leg.link, leg.sandbox.display());
            return Err(Fault::already_exists(text));
        }
        let report = self.client.report(Some(&wish.id))?;
        let elsewhere =
            |one: &&EndpointUse| one.sandbox.is_some() && one.sandbox.as_deref() != leg.sandbox.to_str();
        let mut mine = endpoints(&report).filter(|one| one.id == leg.endpoint);
        if let Some(there) = mine.find(elsewhere) {
            let place = there.sandbox.as_deref().unwrap_or_default();
            let text = format!(
                "endpoint {} is joined to {place}; take it out first",
                leg.endpoint
            );
            return Err(Fault::in_use(text));
        }
        let lock = Lock::shared(&self.locks, &wish.id)?;
        let outcome = self.try_attach(wish, leg, &namespace);
        drop(lock);
        outcome.map_err(|fault| match self.detach(&wish.id, &leg.endpoint, None) {
            Ok(()) => fault,
            Err(left) => {
                let text = format!("{}; not undone: {}", fault.sentence(), left.sentence());
                Fault::new(fault.kind, text)
            }
        })
    }

    fn try_attach(
        &self,
        wish: &NetworkWish,
        leg: &Leg,
        namespace: &kernel::netns::Namespace,
    ) -> Result<Attached, Fault> {
        let pools = self.network(wish)?;
        let interface = self.addresses(&pools, leg)?;
        let at = EndpointRef {
            network: wish.id.clone(),
            endpoint: leg.endpoint.clone(),
        };
        let driver = self.client.network();
        let answered = driver.create_endpoint(&EndpointSpec {
            at: at.clone(),
            interface: interface.clone(),
            ports: leg.ports.clone(),
            exposed: Vec::new(),
            options: Options::new(),
        })?;
        let plan = driver.join(&JoinSpec {
            at: at.clone(),
            sandbox: SandboxKey::new(leg.sandbox.to_string_lossy())?,
            options: Options::new(),
        })?;
        let interface = EndpointInterface {
            mac: interface.mac.or(answered.mac),
            ..interface
        };
        let mut attached = sandbox::plug(namespace, leg, &interface, &plan)?;
        attached.addresses = gateways(&interface, &plan);
        attached.host = self.host_links(&at)?;
        if !leg.ports.is_empty() {
            driver.program(&ConnectivitySpec {
                at,
                ports: leg.ports.clone(),
                exposed: Vec::new(),
            })?;
        }
        Ok(attached)
    }

    /// Holds the pools of a network and makes it; the same again changes nothing.
    fn network(&self, wish: &NetworkWish) -> Result<Vec<Pool>, Fault> {
        let ipam = self.client.ipam();
        let space = ipam.default_spaces()?.local;
        let mut pools = Vec::new();
        for subnet in &wish.subnets {
            pools.push(self.pool(&space, &wish.id, subnet)?);
        }
        let of_family = |v6: bool| {
            let mine = pools.iter().filter(move |pool| pool.net.addr().is_ipv6() == v6);
            let subnets = mine.map(|pool| Subnet {
                address_space: space.to_string(),
                pool: pool.net,
                gateway: Some(pool.gateway),
                auxiliary: BTreeMap::new(),
            });
            subnets.collect::<Vec<_>>()
        };
        let (ipv4, ipv6) = (of_family(false), of_family(true));
        self.client.network().create_network(&NetworkSpec {
            id: wish.id.clone(),
            options: wish.options.clone(),
            enable_ipv4: !ipv4.is_empty(),
            enable_ipv6: !ipv6.is_empty(),
            internal: wish.is_internal,
            ipv4,
            ipv6,
        })?;
        Ok(pools)
    }

    fn pool(&self, space: &AddressSpace, network: &NetworkId, wish: &SubnetWish) -> Result<Pool, Fault> {
        let ipam = self.client.ipam();
        let lease = ipam.request_pool(&PoolRequest {
            space: space.clone(),
            pool: wish.subnet,
            sub_pool: wish.range,
            options: Options::from([(HOLDER.to_owned(), network.to_string())]),
            v6: wish.v6,
        })?;
        // The first address, also where addresses are chosen from a range: so runtimes have it.
        let first = address(usable(lease.pool).0, lease.pool);
        let gateway = ipam.request_address(&AddressRequest {
            pool: lease.id.clone(),
            address: Some(wish.gateway.unwrap_or(first)),
            purpose: AddressPurpose::Gateway,
            mac: None,
            serial: false,
            holder: None,
        })?;
        Ok(Pool {
            id: lease.id,
            net: lease.pool,
            gateway: gateway.address,
        })
    }

    fn addresses(&self, pools: &[Pool], leg: &Leg) -> Result<EndpointInterface, Fault> {
        let outside = |ip: &&IpAddr| !pools.iter().any(|pool| pool.net.contains(*ip));
        if let Some(ip) = leg.addresses.iter().find(outside) {
            return Err(Fault::invalid(format!(
                "address {ip} lies in no subnet of the network"
            )));
        }
        let mut interface = EndpointInterface {
            mac: leg.mac,
            ..EndpointInterface::default()
        };
        for pool in pools {
            let lease = self.client.ipam().request_address(&AddressRequest {
                pool: pool.id.clone(),
                address: leg.addresses.iter().copied().find(|ip| pool.net.contains(ip)),
                purpose: AddressPurpose::Endpoint,
                mac: leg.mac,
                serial: false,
                holder: Some(HolderId::new(leg.endpoint.as_str())?),
            })?;
            match pool.net {
                IpNet::V4(_) => interface.address = Some(lease.address),
                IpNet::V6(_) => interface.address_v6 = Some(lease.address),
            }
        }
        Ok(interface)
    }

    /// The network's link and the outer end of the leg.
    fn host_links(&self, at: &EndpointRef) -> Result<Vec<plugin_api::door::Link>, Fault> {
        let report = self.client.report(Some(&at.network))?;
        let mut names = Vec::new();
        for network in report.networks {
            names.push(network.link);
            let mine = network.endpoints.into_iter().filter(|one| one.id == at.endpoint);
            names.extend(mine.map(|one| one.link));
        }
        sandbox::host_links(&names)
    }

    /// Takes a container out of a network, and the network away with its last leg. What is not there is no
    /// error. `sandbox` is the namespace and the link's name there, where the caller knows them.
    pub fn detach(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        sandbox: Option<(&Path, &str)>,
    ) -> Result<(), Fault> {
        let report = self.client.report(Some(network))?;
        let there = endpoints(&report).find(|one| one.id == *endpoint);
        if let (Some(there), Some((path, link))) = (there, sandbox) {
            sandbox::put_aside(path, link, there.mac)?;
        }
        let at = EndpointRef {
            network: network.clone(),
            endpoint: endpoint.clone(),
        };
        let driver = self.client.network();
        driver.leave(&at)?;
        driver.delete_endpoint(&at)?;
        self.release(&report, |holder| holder == endpoint.as_str())?;
        self.settle(network)
    }

    /// Gives back addresses by their holders.
    fn release(&self, report: &Report, is_gone: impl Fn(&str) -> bool) -> Result<(), Fault> {
        for subnet in &report.subnets {
            let Some(pool) = subnet.pools.first() else {
                continue;
            };
            let held = subnet
                .addresses
                .iter()
                .filter(|one| one.holder.as_deref().is_some_and(&is_gone));
            for one in held {
                self.client.ipam().release_address(&pool.id, one.address)?;
            }
        }
        Ok(())
    }

    /// Removes a network that nobody is in, and pools that are held for none.
    fn settle(&self, network: &NetworkId) -> Result<(), Fault> {
        let is_used = |report: &Report| endpoints(report).next().is_some();
        if is_used(&self.client.report(Some(network))?) {
            return Ok(());
        }
        let lock = Lock::exclusive(&self.locks, network)?;
        let report = self.client.report(Some(network))?;
        if is_used(&report) {
            return Ok(());
        }
        self.client.network().delete_network(network)?;
        for subnet in report.subnets {
            let mine = |holder: Option<&str>| holder == Some(network.as_str());
            for pool in subnet.pools.iter().filter(|pool| mine(pool.holder.as_deref())) {
                self.client.ipam().release_pool(&pool.id)?;
            }
        }
        lock.remove();
        Ok(())
    }

    /// Whether a leg is as it was made; the sentence says what is missing.
    pub fn check(&self, network: &NetworkId, leg: &Leg, wanted: &[IpNet]) -> Result<(), Fault> {
        let report = self.client.report(Some(network))?;
        let missing = |text: String| Fault::not_found(text);
        let there = endpoints(&report)
            .find(|one| one.id == leg.endpoint)
            .ok_or_else(|| missing(format!("endpoint {} is not there", leg.endpoint)))?;
        if there.sandbox.as_deref() != leg.sandbox.to_str() {
            let text = format!(
                "endpoint {} is not joined to {}",
                leg.endpoint,
                leg.sandbox.display()
            );
            return Err(Fault::new(FaultKind::WrongState, text));
        }
        if let Some(net) = wanted.iter().find(|net| !there.addresses.contains(net)) {
            return Err(missing(format!(
                "address {net} is not that of endpoint {}",
                leg.endpoint
            )));
        }
        let published: BTreeSet<u16> = there.ports.iter().map(|port| port.host.port()).collect();
        let mut ports = leg.ports.iter();
        if let Some(port) = ports.find(|port| !published.contains(&port.host_port)) {
            return Err(missing(format!("host port {} is not published", port.host_port)));
        }
        sandbox::check(leg, there)
    }

    /// Takes out every container that is not in `keep`, and what it holds.
    pub fn collect(&self, network: &NetworkId, keep: &BTreeSet<EndpointId>) -> Result<(), Fault> {
        let report = self.client.report(Some(network))?;
        for gone in endpoints(&report).filter(|one| !keep.contains(&one.id)) {
            self.detach(network, &gone.id, None)?;
        }
        let is_gone = |holder: &str| !keep.iter().any(|one| one.as_str() == holder);
        // Whoever attaches holds an address before its endpoint is there.
        let lock = Lock::exclusive(&self.locks, network)?;
        self.release(&self.client.report(Some(network))?, is_gone)?;
        drop(lock);
        self.settle(network)
    }
}

fn endpoints(report: &Report) -> impl Iterator<Item = &EndpointUse> {
    report.networks.iter().flat_map(|network| &network.endpoints)
}

/// The addresses of an interface, each with the gateway that its driver told.
fn gateways(interface: &EndpointInterface, plan: &JoinPlan) -> Vec<(IpNet, Option<IpAddr>)> {
    let v4 = interface.address.map(|net| (net, plan.gateway.map(IpAddr::from)));
    let v6 = interface
        .address_v6
        .map(|net| (net, plan.gateway_v6.map(IpAddr::from)));
    v4.into_iter().chain(v6).collect()
}
