//! Networks of both families.

use super::*;

/// A network of both families.
pub(super) fn dual_spec(id: &str, v4: &str, v6: &str) -> NetworkSpec {
    let mut spec = network_spec(id, v4);
    spec.enable_ipv6 = true;
    spec.ipv6 = network_spec(id, v6).ipv4;
    spec
}

/// Joins a container with an address of each family.
pub(super) fn start_dual(world: &World, network: &str, id: &str, v4: &str, v6: &str) -> Container {
    let at = endpoint_record(network, id, v4).at;
    let spec = EndpointSpec {
        at: at.clone(),
        interface: EndpointInterface {
            address: Some(v4.parse().unwrap()),
            address_v6: Some(v6.parse().unwrap()),
            mac: None,
        },
        ports: Vec::new(),
        exposed: Vec::new(),
        options: plugin_api::Options::new(),
    };
    world.driver().create_endpoint(&spec).unwrap();
    let plan = world.join(&at);
    let source = plan.link.unwrap().source;
    let namespace = Namespace::unnamed().unwrap();
    let host = Socket::route().unwrap();
    host.one(link::move_to(At::Name(&source), namespace.as_fd()))
        .unwrap();
    let inside = Socket::in_namespace(namespace.as_fd()).unwrap();
    let index = inside.index_of(&source).unwrap();
    let default = |destination: &str, gateway| {
        address::add_route(&address::Route {
            destination: destination.parse().unwrap(),
            gateway: Some(gateway),
            link: Some(index),
            table: address::MAIN_TABLE,
        })
    };
    let requests = vec![
        link::rename(index, "eth0"),
        address::add(index, v4.parse().unwrap()),
        address::add(index, v6.parse().unwrap()),
        link::set_up(At::Index(index)),
        link::set_up(At::Name("lo")),
        default("0.0.0.0/0", plan.gateway.unwrap().into()),
        default("::/0", plan.gateway_v6.unwrap().into()),
    ];
    inside.all(requests).unwrap();
    Container { namespace, at }
}

/// Serves on a port of both families, telling each client its address.
fn serve_clients_address(container: &Container) {
    container
        .namespace
        .run(|| {
            let listener = TcpListener::bind("[::]:80").unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let from = stream.peer_addr().unwrap().ip();
                    let _ = stream.write_all(format!("b for {from}").as_bytes());
                }
            });
        })
        .unwrap();
}

#[test]
fn ipv6_between_endpoints_and_through_a_published_port() {
    World::run(|world| {
        let there = outside();
        let host = Socket::route().unwrap();
        let wan = host.index_of("wan").unwrap();
        host.one(address::add(wan, "2001:db8::1/64".parse().unwrap()))
            .unwrap();
        let remote = Socket::in_namespace(there.as_fd()).unwrap();
        let index = remote.index_of("eth0").unwrap();
        remote
            .one(address::add(index, "2001:db8::2/64".parse().unwrap()))
            .unwrap();
        for (id, v4, v6) in [
            ("one", "10.9.0.0/24", "fd00:9::/64"),
            ("two", "10.10.0.0/24", "fd00:10::/64"),
        ] {
            world.driver().create_network(&dual_spec(id, v4, v6)).unwrap();
        }
        let a = start_dual(&world, "one", "a", "10.9.0.2/24", "fd00:9::2/64");
        let b = start_dual(&world, "one", "b", "10.9.0.3/24", "fd00:9::3/64");
        let c = start_dual(&world, "two", "c", "10.10.0.2/24", "fd00:10::2/64");
        serve_clients_address(&b);
        // Links come up a moment after they are told to.
        let patiently = |from: &Container, at: &str| (0..10).find_map(|_| from.reads(at)).unwrap_or_default();
        assert_eq!(patiently(&a, "[fd00:9::3]:80"), "b for fd00:9::2");
        assert_eq!(patiently(&a, "10.9.0.3:80"), "b for ::ffff:10.9.0.2");
        assert_eq!(c.reads("[fd00:9::3]:80"), None, "from another network");
        let outside = |at: &str| there.run(|| (0..5).find_map(|_| reads(at))).unwrap();
        assert_eq!(outside("[2001:db8::1]:8080"), None);
        world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap();
        assert_eq!(
            outside("[2001:db8::1]:8080").as_deref(),
            Some("b for 2001:db8::2")
        );
        assert_eq!(
            outside("192.0.2.1:8080").as_deref(),
            Some("b for ::ffff:192.0.2.2")
        );
        for at in ["[2001:db8::1]:8080", "[fd00:9::1]:8080"] {
            assert!(
                patiently(&a, at).starts_with("b for "),
                "from its network to {at}"
            );
            assert!(
                patiently(&c, at).starts_with("b for "),
                "from another network to {at}"
            );
        }
        assert!(reads("[::1]:8080").is_some(), "through loopback");
        world.driver().revoke(&b.at).unwrap();
        assert_eq!(outside("[2001:db8::1]:8080"), None);
        for id in ["one", "two"] {
            world
                .driver()
                .delete_network(&NetworkId::new(id).unwrap())
                .unwrap();
        }
        nothing_is_left();
    });
}
