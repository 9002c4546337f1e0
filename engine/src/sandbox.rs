//! A container's network namespace: pinned below the root, and the links moved into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::netlink::address::{self, MAIN_TABLE, Route};
use kernel::netlink::link::{self, At};
use kernel::netlink::{Request, Socket};
use kernel::netns::{self, Namespace};
use plugin_api::id::MacAddr;
use plugin_api::network::StaticRoute;

use crate::state::{Store, short};

/// What a link shall be in the sandbox.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) gateway_v6: Option<Ipv6Addr>,
    pub(crate) routes: Vec<StaticRoute>,
}

/// Where the namespace of a container is pinned.
pub(crate) fn path(store: &Store, id: &str) -> PathBuf {
    store.root().join("netns").join(short(id))
}

/// Makes the namespace, with its loopback link up. What a death left there is replaced.
pub(crate) fn make(path: &Path) -> Result<Namespace> {
    netns::delete(path)?;
    let namespace = netns::create(path)?;
    let inside = Socket::in_namespace(namespace.as_fd())?;
    inside.one(link::set_up(At::Name("lo")))?;
    Ok(namespace)
}

/// Unpins the namespace; nothing there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    netns::delete(path)?;
    Ok(())
}

/// Moves a link of the host into the sandbox and makes it as wanted.
pub(crate) fn plug(path: &Path, source: &str, wanted: &Wanted) -> Result<()> {
    let namespace = Namespace::open(path)?;
    let host = Socket::route()?;
    let outside = host
        .index_of(source)
        .context("find the link that the driver made")?;
    host.one(link::move_to(At::Index(outside), namespace.as_fd()))?;
    let inside = Socket::in_namespace(namespace.as_fd())?;
    let index = inside.index_of(source)?;
    inside.all(requests(index, wanted))?;
    Ok(())
}

fn requests(index: u32, wanted: &Wanted) -> Vec<Request> {
    let mut all = vec![
        link::set_down(At::Index(index)),
        link::rename(index, &wanted.name),
    ];
    if let Some(mac) = wanted.mac {
        all.push(link::set_mac(At::Index(index), mac.0));
    }
    all.extend(wanted.addresses.iter().map(|one| address::add(index, *one)));
    all.push(link::set_up(At::Index(index)));
    all.extend(routes(index, wanted).iter().map(address::add_route));
    all
}

/// Routes in the order in which the kernel takes them: on-link ones first, gateways last.
fn routes(index: u32, wanted: &Wanted) -> Vec<Route> {
    let route = |destination: IpNet, gateway: Option<IpAddr>| Route {
        destination,
        gateway,
        link: Some(index),
        table: MAIN_TABLE,
    };
    let mut fixed: Vec<_> = wanted.routes.clone();
    fixed.sort_by_key(|one| one.next_hop.is_some());
    let mut all: Vec<Route> = fixed
        .iter()
        .map(|one| route(one.destination, one.next_hop))
        .collect();
    if let Some(gateway) = wanted.gateway {
        all.push(route(IpNet::V4(Ipv4Net::default()), Some(gateway.into())));
    }
    if let Some(gateway) = wanted.gateway_v6 {
        all.push(route(IpNet::V6(Ipv6Net::default()), Some(gateway.into())));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_link_routes_come_before_those_that_need_them() {
        let route = |destination: &str, next_hop: Option<&str>| StaticRoute {
            destination: destination.parse().unwrap(),
            next_hop: next_hop.map(|ip| ip.parse().unwrap()),
        };
        let wanted = Wanted {
            routes: vec![route("10.2.0.0/16", Some("10.1.0.1")), route("10.1.0.1/32", None)],
            gateway: Some("10.1.0.1".parse().unwrap()),
            ..Wanted::default()
        };
        let order: Vec<String> = routes(3, &wanted)
            .iter()
            .map(|route| route.destination.to_string())
            .collect();
        assert_eq!(order, ["10.1.0.1/32", "10.2.0.0/16", "0.0.0.0/0"]);
    }

    #[test]
    fn a_link_arrives_named_addressed_and_routed() {
        let host = Namespace::unnamed().unwrap();
        let inner = Namespace::unnamed().unwrap();
        let inner_path = format!("/proc/{}/fd/{}", std::process::id(), {
            use std::os::fd::AsRawFd;
            inner.as_fd().as_raw_fd()
        });
        let wanted = Wanted {
            name: "eth0".into(),
            mac: Some("02:42:0a:01:00:02".parse().unwrap()),
            addresses: vec!["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            gateway: Some("10.1.0.1".parse().unwrap()),
            ..Wanted::default()
        };
        host.run(|| {
            let socket = Socket::route().unwrap();
            let veth = link::Veth {
                outer: "outer",
                inner: "inner",
                ..link::Veth::default()
            };
            socket.all(link::create_veth(&veth)).unwrap();
            plug(Path::new(&inner_path), "inner", &wanted).unwrap();
            assert!(
                socket.link("inner").unwrap().is_none(),
                "the link is still outside"
            );
        })
        .unwrap();
        let inside = Socket::in_namespace(inner.as_fd()).unwrap();
        let link = inside.link("eth0").unwrap().unwrap();
        let addresses = inside.addresses().unwrap();
        for wanted in &wanted.addresses {
            assert!(
                addresses
                    .iter()
                    .any(|one| one.link == link.index && one.address == *wanted)
            );
        }
        assert!(
            inside
                .routes()
                .unwrap()
                .iter()
                .any(|route| route.gateway == wanted.gateway.map(IpAddr::V4))
        );
    }
}
