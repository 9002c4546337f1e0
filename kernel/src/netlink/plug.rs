//! A link moved into a namespace and made ready there.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::address::{self, MAIN_TABLE, Route};
use super::link::{self, At, Link};
use super::{Request, Socket};
use crate::error::{Error, Result};
use crate::netns::{Namespace, set_sysctl};

/// What a link shall be in a namespace.
#[derive(Debug, Default, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its link-layer address; none leaves it.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its routes, on-link where there is no gateway. They are added in the order in which the kernel takes
    /// them: on-link ones first, default routes last.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// Sysctls before it is up, with `LINK` for its name: `ipv4/conf/LINK/arp_notify`. One that the kernel
    /// does not have is left out.
    pub sysctls: Vec<(String, String)>,
}

/// Moves a link of the calling thread's namespace into another one and makes it as wanted.
pub fn plug(namespace: &Namespace, source: &str, wanted: &Wanted) -> Result<Link> {
    let here = Socket::route()?;
    let outside = here.index_of(source)?;
    here.one(link::move_to(At::Index(outside), namespace.as_fd()))?;
    let inside = Socket::in_namespace(namespace.as_fd())?;
    let index = inside.index_of(source)?;
    let at = At::Index(index);
    inside.all(vec![link::set_down(at), link::rename(index, &wanted.name)])?;
    if !wanted.sysctls.is_empty() {
        namespace.run(|| set_sysctls(wanted))??;
    }
    inside.all(requests(index, wanted))?;
    let gone = || Error::other("look up link", &wanted.name, "it is gone again");
    inside.link(&wanted.name)?.ok_or_else(gone)
}

/// Takes a link's name away and sets it down, so that its name is free at once; deleting it takes longer.
/// Nothing there is no error.
pub fn put_aside(namespace: &Namespace, link: &Link) -> Result<()> {
    let inside = Socket::in_namespace(namespace.as_fd())?;
    let at = At::Index(link.index);
    let outcome = inside.all(vec![
        link::set_down(at),
        link::rename(link.index, &format!("gone{}", link.index)),
    ]);
    match outcome {
        Err(error) if error.is_missing() => Ok(()),
        other => other.map(drop),
    }
}

fn set_sysctls(wanted: &Wanted) -> Result<()> {
    for (name, value) in &wanted.sysctls {
        match set_sysctl(&name.replace("LINK", &wanted.name), value) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn requests(index: u32, wanted: &Wanted) -> Vec<Request> {
    let mut all: Vec<Request> = Vec::new();
    if let Some(mac) = wanted.mac {
        all.push(link::set_mac(At::Index(index), mac));
    }
    all.extend(wanted.addresses.iter().map(|one| address::add(index, *one)));
    all.push(link::set_up(At::Index(index)));
    all.extend(routes(index, wanted).iter().map(address::add_route));
    all
}

fn routes(index: u32, wanted: &Wanted) -> Vec<Route> {
    let mut sorted = wanted.routes.clone();
    sorted.sort_by_key(|(destination, gateway)| (destination.prefix_len() == 0, gateway.is_some()));
    let route = |(destination, gateway)| Route {
        destination,
        gateway,
        link: Some(index),
        table: MAIN_TABLE,
    };
    sorted.into_iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_link_routes_come_before_those_that_need_them() {
        let route = |to: &str, via: Option<&str>| (to.parse().unwrap(), via.map(|ip| ip.parse().unwrap()));
        let wanted = Wanted {
            routes: vec![
                route("0.0.0.0/0", Some("10.1.0.1")),
                route("10.2.0.0/16", Some("10.1.0.1")),
                route("10.1.0.1/32", None),
            ],
            ..Wanted::default()
        };
        let order: Vec<String> = routes(3, &wanted)
            .iter()
            .map(|route| route.destination.to_string())
            .collect();
        assert_eq!(order, ["10.1.0.1/32", "10.2.0.0/16", "0.0.0.0/0"]);
    }

    #[test]
    fn a_link_arrives_named_addressed_and_routed_and_its_name_can_be_freed() {
        let host = Namespace::unnamed().unwrap();
        let inner = Namespace::unnamed().unwrap();
        let gateway: IpAddr = "10.1.0.1".parse().unwrap();
        let wanted = Wanted {
            name: "eth0".into(),
            mac: Some([2, 0x42, 10, 1, 0, 2]),
            addresses: vec!["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            routes: vec![("0.0.0.0/0".parse().unwrap(), Some(gateway))],
            sysctls: vec![
                ("ipv4/conf/LINK/arp_notify".into(), "1".into()),
                ("ipv4/conf/LINK/no_such".into(), "1".into()),
            ],
        };
        let link = host
            .run(|| {
                let socket = Socket::route().unwrap();
                let veth = link::Veth {
                    outer: "outer",
                    inner: "inner",
                    ..link::Veth::default()
                };
                socket.all(link::create_veth(&veth)).unwrap();
                let link = plug(&inner, "inner", &wanted).unwrap();
                assert!(
                    socket.link("inner").unwrap().is_none(),
                    "the link is still outside"
                );
                link
            })
            .unwrap();
        assert_eq!((link.mac, link.is_up()), (wanted.mac, true));
        let inside = Socket::in_namespace(inner.as_fd()).unwrap();
        let addresses = inside.addresses().unwrap();
        for wanted in &wanted.addresses {
            assert!(
                addresses
                    .iter()
                    .any(|one| one.link == link.index && one.address == *wanted)
            );
        }
        let routes = inside.routes().unwrap();
        assert!(routes.iter().any(|route| route.gateway == Some(gateway)));
        let notify = inner
            .run(|| crate::netns::sysctl("ipv4/conf/eth0/arp_notify"))
            .unwrap();
        assert_eq!(notify.unwrap(), "1");
        put_aside(&inner, &link).unwrap();
        assert_eq!(inside.link("eth0").unwrap(), None);
        put_aside(&inner, &Link { index: 9999, ..link }).unwrap();
    }
}
