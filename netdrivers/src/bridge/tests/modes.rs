//! How a network meets the world.

use super::*;

fn with(options: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = network_spec("one", "10.9.0.0/24");
    for (key, value) in options {
        spec.options.insert((*key).to_owned(), (*value).to_owned());
    }
    spec
}

/// The neighbour beyond the host has a route to the network.
fn outside_with_route() -> Namespace {
    let there = outside();
    let remote = Socket::in_namespace(there.as_fd()).unwrap();
    let route = address::Route {
        destination: "10.9.0.0/24".parse().unwrap(),
        gateway: Some("192.0.2.1".parse().unwrap()),
        link: Some(remote.index_of("eth0").unwrap()),
        table: address::MAIN_TABLE,
    };
    remote.one(address::add_route(&route)).unwrap();
    there
}

/// Tells on port 99 of the neighbour who asks.
fn tell_who_asks(there: &Namespace) {
    there
        .run(|| {
            let listener = TcpListener::bind("0.0.0.0:99").unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let who = stream.peer_addr().unwrap().ip().to_string();
                    let _ = stream.write_all(who.as_bytes());
                }
            });
        })
        .unwrap();
}

/// Asks again where a loaded machine was slow.
fn reached(from: &Namespace, at: &str) -> Option<String> {
    from.run(|| (0..5).find_map(|_| reads(at))).unwrap()
}

#[test]
fn a_routed_network_opens_published_ports_at_the_endpoints_own_address() {
    World::run(|world| {
        let there = outside_with_route();
        tell_who_asks(&there);
        let spec = with(&[("com.docker.network.bridge.gateway_mode_ipv4", "routed")]);
        world.driver().create_network(&spec).unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        b.serve(81, "closed");
        world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap();
        assert_eq!(reached(&there, "10.9.0.3:80").as_deref(), Some("b"));
        assert_eq!(
            there.run(|| reads("10.9.0.3:81")).unwrap(),
            None,
            "never published"
        );
        assert_eq!(there.run(|| reads("192.0.2.1:8080")).unwrap(), None, "translated");
        // Nobody hides behind the host, and no port of the host is taken.
        assert_eq!(reached(&b.namespace, "192.0.2.2:99").as_deref(), Some("10.9.0.3"));
        drop(TcpListener::bind("0.0.0.0:8080").unwrap());
        let info = world.driver().endpoint_info(&b.at).unwrap();
        assert_eq!(info["port.0"], "10.9.0.3:80 -> 80/tcp");
        world.driver().revoke(&b.at).unwrap();
        assert_eq!(there.run(|| reads("10.9.0.3:80")).unwrap(), None, "revoked");
        world.driver().delete_network(&b.at.network).unwrap();
        nothing_is_left();
    });
}

#[test]
fn an_unprotected_network_is_reached_by_who_has_a_route_and_a_protected_one_is_not() {
    for (mode, is_open) in [("nat", false), ("nat-unprotected", true)] {
        World::run(move |world| {
            let there = outside_with_route();
            world
                .driver()
                .create_network(&with(&[("gateway_mode_v4", mode)]))
                .unwrap();
            let b = world.start("one", "b", "10.9.0.3/24");
            b.serve(81, "b");
            if is_open {
                assert_eq!(reached(&there, "10.9.0.3:81").as_deref(), Some("b"));
            } else {
                assert_eq!(there.run(|| reads("10.9.0.3:81")).unwrap(), None);
            }
        });
    }
}

#[test]
fn a_trusted_link_reaches_every_port() {
    World::run(|world| {
        let there = outside_with_route();
        world
            .driver()
            .create_network(&with(&[(
                "com.docker.network.bridge.trusted_host_interfaces",
                "lan7:wan",
            )]))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(81, "b");
        assert_eq!(reached(&there, "10.9.0.3:81").as_deref(), Some("b"));
    });
}

#[test]
fn a_network_leaves_under_the_address_that_the_user_chose() {
    World::run(|world| {
        let there = outside_with_route();
        tell_who_asks(&there);
        let host = Socket::route().unwrap();
        let wan = host.index_of("wan").unwrap();
        host.one(address::add(wan, "192.0.2.7/24".parse().unwrap()))
            .unwrap();
        world
            .driver()
            .create_network(&with(&[("com.docker.network.host_ipv4", "192.0.2.7")]))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        assert_eq!(
            reached(&b.namespace, "192.0.2.2:99").as_deref(),
            Some("192.0.2.7")
        );
        assert!(world.driver().core.are_tables_whole().unwrap());
    });
}

#[test]
fn an_isolated_network_has_no_address_on_the_host() {
    World::run(|world| {
        let isolated = ("gateway_mode_v4", "isolated");
        let refused = world.driver().create_network(&with(&[isolated])).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Invalid);
        assert!(refused.message.contains("internal"), "{refused}");
        nothing_is_left();
        let spec = NetworkSpec {
            internal: true,
            ..with(&[isolated])
        };
        world.driver().create_network(&spec).unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        assert_eq!(reached(&a.namespace, "10.9.0.3:80").as_deref(), Some("b"));
        let host = Socket::route().unwrap();
        let bridge = host.index_of("br-one").unwrap();
        let addresses = host.addresses().unwrap();
        assert!(addresses.iter().all(|has| has.link != bridge), "{addresses:?}");
    });
}

#[test]
fn a_bridge_without_ipv4_still_connects_its_endpoints() {
    World::run(|world| {
        world
            .driver()
            .create_network(&with(&[("inhibit_ipv4", "true")]))
            .unwrap();
        let host = Socket::route().unwrap();
        let bridge = host.index_of("br-one").unwrap();
        let addresses = host.addresses().unwrap();
        assert!(addresses.iter().all(|has| has.link != bridge), "{addresses:?}");
    });
}
