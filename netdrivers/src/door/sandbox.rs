//! What a door does in a container's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use kernel::netlink::address::{MAIN_TABLE, Route};
use kernel::netlink::plug::{self, Wanted};
use kernel::netlink::{Socket, link};
use kernel::netns::Namespace;
use plugin_api::door::{Attached, Leg, Link};
use plugin_api::id::MacAddr;
use plugin_api::network::{EndpointInterface, JoinPlan, StaticRoute};
use plugin_api::report::EndpointUse;
use plugin_api::{Fault, FaultKind};

fn failed(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

/// The namespace of a container; the door's own is refused, for it would lose its links.
pub(super) fn open(path: &Path) -> Result<Namespace, Fault> {
    let namespace = Namespace::open(path).map_err(|error| Fault::from_error(FaultKind::Invalid, error))?;
    let own = Namespace::current()
        .and_then(|own| own.identity())
        .map_err(failed)?;
    if namespace.identity().map_err(failed)? == own {
        return Err(Fault::invalid(format!(
            "{} is the host's own namespace",
            path.display()
        )));
    }
    Ok(namespace)
}

/// The link of a name inside.
pub(super) fn link(namespace: &Namespace, name: &str) -> Result<Option<link::Link>, Fault> {
    let inside = Socket::in_namespace(namespace.as_fd()).map_err(failed)?;
    inside
        .link(name)
        .map_err(|error| Fault::from_error(FaultKind::Invalid, error))
}

/// Moves the leg's link in and makes it ready.
pub(super) fn plug(
    namespace: &Namespace,
    leg: &Leg,
    interface: &EndpointInterface,
    plan: &JoinPlan,
) -> Result<Attached, Fault> {
    let source = plan
        .link
        .as_ref()
        .ok_or_else(|| Fault::internal("the driver made no link"))?;
    let routes = routes(leg, plan, &defaults(namespace)?);
    let without_v6 = if interface.address_v6.is_none() { "1" } else { "0" };
    let sysctl = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let wanted = Wanted {
        name: leg.link.clone(),
        mac: interface.mac.map(|mac| mac.0),
        addresses: [interface.address, interface.address_v6]
            .into_iter()
            .flatten()
            .collect(),
        routes: routes.iter().map(|one| (one.destination, one.next_hop)).collect(),
        sysctls: vec![
            // Neighbours that knew the address's last owner hear of the new one.
            sysctl("ipv4/conf/LINK/arp_notify", "1"),
            sysctl("ipv6/conf/LINK/ndisc_notify", "1"),
            // A network without IPv6 must not let neighbours in by link-local addresses.
            sysctl("ipv6/conf/LINK/disable_ipv6", without_v6),
            sysctl("ipv6/conf/LINK/accept_ra", "0"),
        ],
    };
    let made = plug::plug(namespace, &source.source, &wanted).map_err(failed)?;
    Ok(Attached {
        host: Vec::new(),
        inner: noun(&made),
        addresses: Vec::new(),
        routes,
    })
}

/// Default routes that the sandbox has already: the first network's stay.
fn defaults(namespace: &Namespace) -> Result<Vec<IpNet>, Fault> {
    let inside = Socket::in_namespace(namespace.as_fd()).map_err(failed)?;
    let routes = inside.routes().map_err(failed)?.into_iter();
    let is_default = |route: &Route| route.destination.prefix_len() == 0 && route.table == MAIN_TABLE;
    Ok(routes.filter(is_default).map(|route| route.destination).collect())
}

fn routes(leg: &Leg, plan: &JoinPlan, there: &[IpNet]) -> Vec<StaticRoute> {
    let mut routes = plan.routes.clone();
    routes.extend(leg.routes.iter().copied());
    let gateways = [
        plan.gateway
            .map(|via| (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(via))),
        plan.gateway_v6
            .map(|via| (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(via))),
    ];
    for (everywhere, via) in gateways.into_iter().flatten().filter(|_| leg.is_default) {
        let destination = IpNet::new(everywhere, 0).expect("0 is a prefix");
        if !there.contains(&destination) {
            routes.push(StaticRoute {
                destination,
                next_hop: Some(via),
            });
        }
    }
    routes
}

fn noun(link: &link::Link) -> Link {
    Link {
        name: link.name.clone(),
        mac: MacAddr(link.mac.unwrap_or_default()),
        mtu: link.mtu,
    }
}

/// Links of the host that are there.
pub(super) fn host_links(names: &[String]) -> Result<Vec<Link>, Fault> {
    let socket = Socket::route().map_err(failed)?;
    let mut found = Vec::new();
    for name in names {
        found.extend(socket.link(name).map_err(failed)?.as_ref().map(noun));
    }
    Ok(found)
}

/// Frees the name of a leg's link at once; the driver deletes the link a moment later. A namespace or a link
/// that is gone, and a link that is somebody else's, are left alone.
pub(super) fn put_aside(path: &Path, name: &str, mac: MacAddr) -> Result<(), Fault> {
    let Ok(namespace) = open(path) else {
        return Ok(());
    };
    match link(&namespace, name)? {
        Some(there) if there.mac == Some(mac.0) => plug::put_aside(&namespace, &there).map_err(failed),
        _ => Ok(()),
    }
}

/// Whether the link inside is up and has its addresses and routes.
pub(super) fn check(leg: &Leg, endpoint: &EndpointUse) -> Result<(), Fault> {
    let namespace = open(&leg.sandbox)?;
    let missing = |text: String| Fault::not_found(format!("{text} in {}", leg.sandbox.display()));
    let there = link(&namespace, &leg.link)?;
    let there = there.ok_or_else(|| missing(format!("link {} is not", leg.link)))?;
    if !there.is_up() || there.mac != Some(endpoint.mac.0) {
        let text = format!("link {} is down or another one", leg.link);
        return Err(Fault::new(FaultKind::WrongState, text));
    }
    let inside = Socket::in_namespace(namespace.as_fd()).map_err(failed)?;
    let addresses = inside.addresses().map_err(failed)?;
    let has = |net: &IpNet| {
        addresses
            .iter()
            .any(|one| one.link == there.index && one.address == *net)
    };
    if let Some(net) = endpoint.addresses.iter().find(|net| !has(net)) {
        return Err(missing(format!("address {net} is not")));
    }
    let routes = inside.routes().map_err(failed)?;
    let is_there = |wanted: &StaticRoute| {
        routes
            .iter()
            .any(|one| one.destination == wanted.destination && one.gateway == wanted.next_hop)
    };
    match leg.routes.iter().find(|route| !is_there(route)) {
        Some(route) => Err(missing(format!("the route to {} is not", route.destination))),
        None => Ok(()),
    }
}
