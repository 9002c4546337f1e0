//! The messages against the real kernel, each test in namespaces of its own.

use std::os::fd::AsFd;

use super::link::{self, At, Bridge, Veth};
use super::{Socket, address, neighbour};
use crate::netns::{Namespace, run_in_new};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn veth<'a>(master: u32) -> Veth<'a> {
    Veth {
        outer: "outer",
        inner: "inner",
        mac: Some(MAC),
        mtu: Some(1400),
        master: Some(master),
        alias: Some("note:outer"),
        group: Some(77),
        up: true,
        inner_namespace: None,
    }
}

#[test]
fn a_bridge_and_a_veth_pair_are_as_asked_for() {
    run_in_new(|| {
        let socket = Socket::route().unwrap();
        let bridge = Bridge {
            mac: Some([2, 0, 0, 0, 0, 1]),
            alias: Some("note:bridge".to_owned()),
            ..Bridge::default()
        };
        let mut requests = link::create_bridge("br0", &bridge);
        requests.push(link::set_up(At::Name("br0")));
        socket.all(requests).unwrap();
        let bridge = socket.link("br0").unwrap().unwrap();
        assert!(bridge.is_up());
        assert_eq!(bridge.alias, "note:bridge");
        assert_eq!(
            (bridge.kind.as_str(), bridge.mac),
            ("bridge", Some([2, 0, 0, 0, 0, 1]))
        );
        socket.all(link::create_veth(&veth(bridge.index))).unwrap();
        let outer = socket.link("outer").unwrap().unwrap();
        let inner = socket.link("inner").unwrap().unwrap();
        assert_eq!(
            (outer.master, outer.group, outer.mtu),
            (Some(bridge.index), 77, 1400)
        );
        assert!(outer.is_up() && !inner.is_up());
        assert_eq!(
            (inner.mac, inner.mtu, inner.peer),
            (Some(MAC), 1400, Some(outer.index))
        );
        assert_eq!(outer.alias, "note:outer");
        socket
            .one(link::set_port(At::Index(outer.index), true, true))
            .unwrap();
        socket.one(link::set_master(At::Name("outer"), None)).unwrap();
        assert_eq!(socket.link("outer").unwrap().unwrap().master, None);
        socket.one(link::delete_group(77)).unwrap();
        assert_eq!(socket.link("inner").unwrap(), None);
        assert!(socket.one(link::delete_group(77)).unwrap_err().is_missing());
    })
    .unwrap();
}

#[test]
fn a_failure_names_its_request_and_does_not_stop_the_next() {
    run_in_new(|| {
        let socket = Socket::route().unwrap();
        let mut requests = vec![link::set_up(At::Name("nobody"))];
        requests.extend(link::create_bridge("br0", &Bridge::default()));
        requests.extend(link::create_bridge("br0", &Bridge::default()));
        let outcomes = socket.each(requests).unwrap();
        assert!(outcomes[0].as_ref().unwrap_err().is_missing());
        assert!(outcomes[1].is_ok());
        let twice = outcomes[2].as_ref().unwrap_err();
        assert!(twice.is_exists(), "{twice:?}");
        assert!(twice.to_string().starts_with("create bridge br0"), "{twice}");
    })
    .unwrap();
}

#[test]
fn a_moved_link_is_renamed_addressed_and_routed_inside() {
    run_in_new(|| {
        let socket = Socket::route().unwrap();
        let inside = Namespace::unnamed().unwrap();
        let pair = Veth {
            outer: "outer",
            inner: "inner",
            ..Veth::default()
        };
        socket.all(link::create_veth(&pair)).unwrap();
        socket
            .one(link::move_to(At::Name("inner"), inside.as_fd()))
            .unwrap();
        let inner = Socket::in_namespace(inside.as_fd()).unwrap();
        let index = inner.index_of("inner").unwrap();
        let net: ipnet::IpNet = "10.1.2.3/24".parse().unwrap();
        let six: ipnet::IpNet = "fd00:1::3/64".parse().unwrap();
        let route = address::Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("10.1.2.1".parse().unwrap()),
            link: Some(index),
            table: address::MAIN_TABLE,
        };
        let near = neighbour::Neighbour {
            link: index,
            address: "10.1.2.9".parse().unwrap(),
            mac: MAC,
        };
        let requests = vec![
            link::rename(index, "eth0"),
            link::set_mac(At::Index(index), MAC),
            link::set_mtu(At::Index(index), 1300),
            address::add(index, net),
            address::add(index, six),
            link::set_up(At::Index(index)),
            address::add_route(&route),
            neighbour::put(&near),
        ];
        inner.all(requests).unwrap();
        let eth0 = inner.link("eth0").unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(MAC), 1300));
        let addresses: Vec<_> = inner.addresses().unwrap().iter().map(|a| a.address).collect();
        assert!(
            addresses.contains(&net) && addresses.contains(&six),
            "{addresses:?}"
        );
        assert!(inner.routes().unwrap().contains(&route));
        assert!(inner.neighbours().unwrap().contains(&near));
        inner
            .all(vec![address::delete_route(&route), address::delete(index, net)])
            .unwrap();
        assert!(!inner.routes().unwrap().contains(&route));
        // The socket of this thread still speaks to this thread's namespace.
        assert_eq!(socket.link("eth0").unwrap(), None);
    })
    .unwrap();
}

#[test]
fn an_inner_end_is_born_in_its_namespace() {
    run_in_new(|| {
        let socket = Socket::route().unwrap();
        let inside = Namespace::unnamed().unwrap();
        let pair = Veth {
            outer: "outer",
            inner: "eth0",
            mac: Some(MAC),
            inner_namespace: Some(inside.as_fd()),
            ..Veth::default()
        };
        socket.all(link::create_veth(&pair)).unwrap();
        assert_eq!(socket.link("eth0").unwrap(), None);
        let eth0 = Socket::in_namespace(inside.as_fd())
            .unwrap()
            .link("eth0")
            .unwrap()
            .unwrap();
        assert_eq!(eth0.mac, Some(MAC));
        assert!(socket.link("outer").unwrap().unwrap().peer_elsewhere);
    })
    .unwrap();
}

#[test]
fn more_links_than_one_send_holds_in_one_call() {
    run_in_new(|| {
        let socket = Socket::route().unwrap();
        let names: Vec<_> = (0..150).map(|n| format!("br{n}")).collect();
        let bridge = Bridge {
            group: Some(5),
            ..Bridge::default()
        };
        socket
            .all(
                names
                    .iter()
                    .flat_map(|name| link::create_bridge(name, &bridge))
                    .collect(),
            )
            .unwrap();
        assert_eq!(socket.links().unwrap().len(), 151);
        socket.one(link::delete_group(5)).unwrap();
        assert_eq!(socket.links().unwrap().len(), 1);
    })
    .unwrap();
}
