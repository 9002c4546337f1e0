//! Against the kernel, each test in namespaces of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernel::netlink::link::{self, At};
use kernel::netlink::{Socket, address, nft};
use kernel::netns::{Namespace, run_in_new};
use plugin_api::contract::NetworkSubject;
use plugin_api::id::{EndpointId, MacAddr, NetworkId, SandboxKey};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinSpec,
    NetworkDriver, NetworkSpec, PortBinding, Protocol, Subnet,
};
use plugin_api::{Done, Fault, FaultKind};

use super::records::{Endpoint, EndpointPhase, Network, NetworkPhase};
use super::{Driver, firewall, plan};

mod guard;
mod ipv6;
mod keeper;
mod modes;
mod passage;
mod relays;
mod revoke;
mod storm;
mod udp;

pub(super) fn network_spec(id: &str, pool: &str) -> NetworkSpec {
    let pool: ipnet::IpNet = pool.parse().unwrap();
    let first = crate::ipam::pool::address(crate::ipam::pool::usable(pool).0, pool);
    NetworkSpec {
        id: NetworkId::new(id).unwrap(),
        options: plugin_api::Options::new(),
        enable_ipv4: true,
        enable_ipv6: false,
        internal: false,
        ipv4: vec![Subnet {
            address_space: "LongshoreLocal".into(),
            pool,
            gateway: Some(ipnet::IpNet::new(first, pool.prefix_len()).unwrap()),
            auxiliary: std::collections::BTreeMap::new(),
        }],
        ipv6: Vec::new(),
    }
}

pub(super) fn endpoint_record(network: &str, id: &str, address: &str) -> Endpoint {
    Endpoint {
        at: EndpointRef {
            network: NetworkId::new(network).unwrap(),
            endpoint: EndpointId::new(id).unwrap(),
        },
        asked: EndpointInterface {
            address: Some(address.parse().unwrap()),
            ..EndpointInterface::default()
        },
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        outer: "o".into(),
        inner: "i".into(),
        phase: EndpointPhase::Joined,
        sandbox: None,
        bindings: Vec::new(),
        published: Vec::new(),
        is_programmed: false,
    }
}

/// A driver over one folder: a test's folder is no place that ends with the boot, but it ends with the test.
pub(super) fn open_in(home: &std::path::Path) -> Result<Driver, Fault> {
    Driver::open(home, home)
}

/// A network that is there.
pub(super) fn network_record(id: &str, pool: &str) -> Network {
    Network {
        spec: network_spec(id, pool),
        bridge: format!("br-{id}"),
        is_adopted: false,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        phase: NetworkPhase::Made,
    }
}

/// A container: a namespace whose link was moved, named and addressed as an engine does it.
struct Container {
    namespace: Namespace,
    at: EndpointRef,
}

struct World {
    home: tempfile::TempDir,
    driver: Option<Driver>,
}

impl World {
    /// Runs a test in a new network namespace that plays the host.
    fn run(test: impl FnOnce(World) + Send) {
        run_in_new(|| {
            let home = tempfile::tempdir().unwrap();
            let socket = Socket::route().unwrap();
            socket.one(link::set_up(At::Name("lo"))).unwrap();
            let driver = Some(open_in(home.path()).unwrap());
            test(World { home, driver });
        })
        .unwrap();
    }

    fn driver(&self) -> &Driver {
        self.driver.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.driver = None;
        self.driver = Some(open_in(self.home.path()).unwrap());
    }

    fn endpoint(&self, network: &str, id: &str, address: &str) -> EndpointRef {
        let at = endpoint_record(network, id, address).at;
        let spec = EndpointSpec {
            at: at.clone(),
            interface: EndpointInterface {
                address: Some(address.parse().unwrap()),
                ..EndpointInterface::default()
            },
            ports: Vec::new(),
            exposed: Vec::new(),
            options: plugin_api::Options::new(),
        };
        assert!(self.driver().create_endpoint(&spec).unwrap().mac.is_some());
        at
    }

    fn join(&self, at: &EndpointRef) -> plugin_api::network::JoinPlan {
        let sandbox = SandboxKey::new(format!("/run/netns/{}", at.endpoint)).unwrap();
        let spec = JoinSpec {
            at: at.clone(),
            sandbox,
            options: plugin_api::Options::new(),
        };
        self.driver().join(&spec).unwrap()
    }

    /// Does what an engine does behind a join.
    fn start(&self, network: &str, id: &str, address: &str) -> Container {
        let at = self.endpoint(network, id, address);
        let plan = self.join(&at);
        let namespace = Namespace::unnamed().unwrap();
        let host = Socket::route().unwrap();
        let source = plan.link.unwrap().source;
        host.one(link::move_to(At::Name(&source), namespace.as_fd()))
            .unwrap();
        let inside = Socket::in_namespace(namespace.as_fd()).unwrap();
        let index = inside.index_of(&source).unwrap();
        let mut requests = vec![
            link::rename(index, "eth0"),
            address::add(index, address.parse().unwrap()),
            link::set_up(At::Index(index)),
            link::set_up(At::Name("lo")),
        ];
        requests.extend(plan.gateway.map(|gateway| {
            address::add_route(&address::Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: Some(gateway.into()),
                link: Some(index),
                table: address::MAIN_TABLE,
            })
        }));
        inside.all(requests).unwrap();
        Container { namespace, at }
    }

    fn publish(
        &self,
        at: &EndpointRef,
        protocol: Protocol,
        host_port: u16,
        port: u16,
    ) -> Result<Done, Fault> {
        let binding = PortBinding {
            protocol,
            container_port: port,
            host_ip: None,
            host_port,
            host_port_end: host_port,
        };
        let spec = ConnectivitySpec {
            at: at.clone(),
            ports: vec![binding],
            exposed: Vec::new(),
        };
        self.driver().program(&spec)
    }
}

impl Container {
    /// Serves one TCP connection after the other on a port, telling each who it is.
    fn serve(&self, port: u16, word: &'static str) {
        self.namespace
            .run(|| {
                let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let _ = stream.unwrap().write_all(word.as_bytes());
                    }
                });
            })
            .unwrap();
    }

    fn reads(&self, at: &str) -> Option<String> {
        self.namespace.run(|| reads(at)).unwrap()
    }
}

/// What a TCP connection from this thread's namespace gets.
fn reads(at: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_millis(700)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn ruleset() -> String {
    #[allow(clippy::disallowed_methods)] // A test may ask nft itself.
    let out = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn link_names() -> Vec<String> {
    let links = Socket::route().unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

/// The host and a neighbour beyond it: 192.0.2.1 here, 192.0.2.2 there.
fn outside() -> Namespace {
    let there = Namespace::unnamed().unwrap();
    let host = Socket::route().unwrap();
    let pair = link::Veth {
        outer: "wan",
        inner: "eth0",
        up: true,
        inner_namespace: Some(there.as_fd()),
        ..link::Veth::default()
    };
    host.all(link::create_veth(&pair)).unwrap();
    let wan = host.index_of("wan").unwrap();
    host.one(address::add(wan, "192.0.2.1/24".parse().unwrap()))
        .unwrap();
    let remote = Socket::in_namespace(there.as_fd()).unwrap();
    let index = remote.index_of("eth0").unwrap();
    let requests = vec![
        address::add(index, "192.0.2.2/24".parse().unwrap()),
        link::set_up(At::Index(index)),
    ];
    remote.all(requests).unwrap();
    there
}

fn nothing_is_left() {
    assert_eq!(ruleset(), "");
    let rest: Vec<_> = link_names()
        .into_iter()
        .filter(|name| name != "lo" && name != "wan")
        .collect();
    assert_eq!(rest, Vec::<String>::new());
}

#[test]
fn containers_of_a_network_meet_and_those_of_two_do_not() {
    World::run(|world| {
        let driver = world.driver();
        driver
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        driver
            .create_network(&network_spec("two", "10.10.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        let c = world.start("two", "c", "10.10.0.2/24");
        b.serve(80, "b");
        assert_eq!(a.reads("10.9.0.3:80").unwrap(), "b");
        assert_eq!(reads("10.9.0.3:80").unwrap(), "b");
        assert_eq!(c.reads("10.9.0.3:80"), None);
        driver.delete_network(&NetworkId::new("one").unwrap()).unwrap();
        driver.delete_network(&NetworkId::new("two").unwrap()).unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_published_port_is_reached_from_outside_from_the_host_and_from_containers() {
    World::run(|world| {
        let there = outside();
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        world
            .driver()
            .create_network(&network_spec("two", "10.10.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        let c = world.start("two", "c", "10.10.0.2/24");
        b.serve(80, "b");
        let from_outside = |at: &str| there.run(|| reads(at)).unwrap();
        assert_eq!(from_outside("192.0.2.1:8080"), None);
        assert_eq!(
            world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap(),
            Done::Changed
        );
        assert_eq!(
            world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap(),
            Done::AlreadySo
        );
        assert_eq!(from_outside("192.0.2.1:8080").unwrap(), "b", "{}", ruleset());
        assert_eq!(reads("192.0.2.1:8080").unwrap(), "b", "from the host itself");
        assert_eq!(
            a.reads("192.0.2.1:8080").as_deref(),
            Some("b"),
            "from its network"
        );
        assert_eq!(b.reads("192.0.2.1:8080").as_deref(), Some("b"), "from itself");
        assert_eq!(c.reads("192.0.2.1:8080").unwrap(), "b", "from another network");
        world.driver().revoke(&b.at).unwrap();
        assert_eq!(from_outside("192.0.2.1:8080"), None);
        drop((a, b, c));
    });
}

#[test]
fn containers_reach_the_outside_with_the_hosts_address_unless_internal() {
    World::run(|world| {
        let there = outside();
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let mut inner = network_spec("two", "10.10.0.0/24");
        inner.internal = true;
        world.driver().create_network(&inner).unwrap();
        let listener = there.run(|| TcpListener::bind("192.0.2.2:80").unwrap()).unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let c = world.start("two", "c", "10.10.0.2/24");
        let stream = a
            .namespace
            .run(|| TcpStream::connect("192.0.2.2:80").unwrap())
            .unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "192.0.2.1");
        drop(stream);
        // Even a container that helps itself to a default route stays inside.
        let inside = Socket::in_namespace(c.namespace.as_fd()).unwrap();
        let route = address::Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("10.10.0.1".parse().unwrap()),
            link: None,
            table: address::MAIN_TABLE,
        };
        inside.one(address::add_route(&route)).unwrap();
        assert_eq!(c.reads("192.0.2.2:80"), None);
    });
}

#[test]
fn endpoints_of_a_network_without_icc_do_not_meet() {
    World::run(|world| {
        let mut spec = network_spec("one", "10.9.0.0/24");
        spec.options.insert("icc".into(), "false".into());
        world.driver().create_network(&spec).unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        assert_eq!(a.reads("10.9.0.3:80"), None);
        assert_eq!(reads("10.9.0.3:80").unwrap(), "b");
    });
}

#[test]
fn ports_of_host_processes_and_of_other_endpoints_are_refused() {
    World::run(|world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        let b = world.start("one", "b", "10.9.0.3/24");
        let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
        let kind = |outcome: Result<Done, Fault>| outcome.map_err(|fault| fault.kind);
        assert_eq!(
            kind(world.publish(&a.at, Protocol::Tcp, 8080, 80)),
            Err(FaultKind::InUse)
        );
        drop(listener);
        world.publish(&a.at, Protocol::Tcp, 8080, 80).unwrap();
        world.publish(&b.at, Protocol::Udp, 8080, 80).unwrap();
        assert_eq!(
            kind(world.publish(&b.at, Protocol::Tcp, 8080, 80)),
            Err(FaultKind::InUse)
        );
        // Any port: chosen, told, and not the host's any more.
        world.publish(&b.at, Protocol::Tcp, 0, 80).unwrap();
        let info = world.driver().endpoint_info(&b.at).unwrap();
        let port: u16 = info["port.0"].split([':', ' ']).nth(1).unwrap().parse().unwrap();
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        b.serve(80, "b");
        for at in ["10.9.0.1", "127.0.0.1"] {
            assert_eq!(reads(&format!("{at}:{port}")).unwrap(), "b", "{at}");
        }
    });
}

#[test]
fn a_restart_finds_everything_and_repairs_what_was_broken() {
    World::run(|mut world| {
        let there = outside();
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        world.publish(&b.at, Protocol::Tcp, 8080, 80).unwrap();
        let (rules, links) = (ruleset(), link_names());
        world.restart();
        assert_eq!((ruleset(), link_names()), (rules.clone(), links));
        assert!(
            TcpListener::bind("0.0.0.0:8080").is_err(),
            "the port is not held any more"
        );
        // Somebody flushes the firewall and deletes the bridge while the driver is away.
        world.driver = None;
        Socket::netfilter()
            .unwrap()
            .commit(nft::Batch::new().delete_table(firewall::TABLE))
            .unwrap();
        let socket = Socket::route().unwrap();
        socket.one(link::delete(At::Name("br-one"))).unwrap();
        world.driver = Some(open_in(world.home.path()).unwrap());
        assert_eq!(ruleset(), rules);
        assert_eq!(there.run(|| reads("192.0.2.1:8080")).unwrap().unwrap(), "b");
        assert_eq!(
            world
                .driver()
                .create_network(&network_spec("one", "10.9.0.0/24"))
                .unwrap(),
            Done::AlreadySo
        );
        world.driver().delete_network(&b.at.network).unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_container_that_died_without_leave_holds_nothing() {
    World::run(|mut world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        world.publish(&a.at, Protocol::Tcp, 8080, 80).unwrap();
        let outer = plan::link_names(&a.at.endpoint).0;
        let socket = Socket::route().unwrap();
        let died = |a: Container| {
            drop(a);
            for _ in 0..300 {
                if socket.link(&outer).unwrap().is_none() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("the link outlives its sandbox");
        };
        died(a);
        // Its address and its port go to the next one.
        let again = world.start("one", "b", "10.9.0.2/24");
        world.publish(&again.at, Protocol::Tcp, 8080, 80).unwrap();
        world.driver().delete_endpoint(&again.at).unwrap();
        let a = world.start("one", "a", "10.9.0.2/24");
        world.publish(&a.at, Protocol::Tcp, 8080, 80).unwrap();
        let at = a.at.clone();
        died(a);
        world.restart();
        assert!(world.driver().endpoint_info(&at).is_err());
        assert!(!ruleset().contains("8080"), "{}", ruleset());
    });
}

#[test]
fn a_dead_endpoint_of_another_network_frees_its_port_and_a_live_one_keeps_it() {
    World::run(|world| {
        for (id, pool) in [("one", "10.9.0.0/24"), ("two", "10.10.0.0/24")] {
            world.driver().create_network(&network_spec(id, pool)).unwrap();
        }
        let dead = world.start("one", "a", "10.9.0.2/24");
        let live = world.start("one", "b", "10.9.0.3/24");
        let next = world.start("two", "c", "10.10.0.2/24");
        world.publish(&dead.at, Protocol::Tcp, 8080, 80).unwrap();
        world.publish(&live.at, Protocol::Tcp, 8081, 80).unwrap();
        let at = dead.at.clone();
        let socket = Socket::route().unwrap();
        let outer = plan::link_names(&at.endpoint).0;
        drop(dead);
        // The kernel takes namespaces down in the background, and not in a hurry.
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while socket.link(&outer).unwrap().is_some() {
            assert!(
                std::time::Instant::now() < until,
                "the dead endpoint's link stays"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let refused = world.publish(&next.at, Protocol::Tcp, 8081, 80).unwrap_err();
        assert_eq!(refused.kind, FaultKind::InUse);
        world.publish(&next.at, Protocol::Tcp, 8080, 80).unwrap();
        assert!(world.driver().endpoint_info(&at).is_err(), "it was not swept");
        assert!(world.driver().endpoint_info(&live.at).is_ok());
        next.serve(80, "c");
        assert_eq!(reads("10.9.0.1:8080").as_deref(), Some("c"));
    });
}

#[test]
fn half_made_things_are_taken_back_at_the_next_start() {
    World::run(|mut world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let at = world.endpoint("one", "a", "10.9.0.2/24");
        world.join(&at);
        let state = || world.driver().core.state();
        let mut endpoint = state().endpoints[&at].clone();
        endpoint.phase = EndpointPhase::Joining;
        world.driver().core.put_endpoint(&endpoint).unwrap();
        let mut network = state().networks[&at.network].clone();
        network.spec.id = NetworkId::new("half").unwrap();
        network.bridge = "br-half".into();
        network.phase = NetworkPhase::Making;
        world.driver().core.put_network(&network).unwrap();
        let socket = Socket::route().unwrap();
        let bridge = link::Bridge {
            alias: Some(plan::bridge_alias(&network.spec.id)),
            ..link::Bridge::default()
        };
        socket.all(link::create_bridge("br-half", &bridge)).unwrap();
        let strange = link::Bridge {
            alias: Some("longshore:nobody".into()),
            ..link::Bridge::default()
        };
        socket.all(link::create_bridge("strange", &strange)).unwrap();
        world.restart();
        assert_eq!(link_names(), ["lo", "br-one"]);
        // The endpoint is there, apart, and can be joined.
        world.join(&at);
        world.driver().leave(&at).unwrap();
        world.driver().delete_network(&at.network).unwrap();
        nothing_is_left();
    });
}

#[test]
fn an_adopted_bridge_stays_and_a_link_that_is_no_bridge_is_refused() {
    World::run(|world| {
        let socket = Socket::route().unwrap();
        socket
            .all(link::create_bridge("mine", &link::Bridge::default()))
            .unwrap();
        let mut spec = network_spec("one", "10.9.0.0/24");
        spec.options.insert("name".into(), "mine".into());
        world.driver().create_network(&spec).unwrap();
        assert!(
            socket
                .addresses()
                .unwrap()
                .iter()
                .any(|has| has.address.to_string() == "10.9.0.1/24")
        );
        world.driver().delete_network(&spec.id).unwrap();
        assert!(socket.link("mine").unwrap().is_some());
        assert!(
            !socket
                .addresses()
                .unwrap()
                .iter()
                .any(|has| has.address.to_string() == "10.9.0.1/24")
        );
        spec.options.insert("name".into(), "lo".into());
        assert_eq!(
            world.driver().create_network(&spec).unwrap_err().kind,
            FaultKind::AlreadyExists
        );
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_port_on_loopback_is_relayed_until_it_is_revoked() {
    World::run(|mut world| {
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        b.serve(80, "b");
        let binding = PortBinding {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: Some([127, 0, 0, 1].into()),
            host_port: 8080,
            host_port_end: 8080,
        };
        let spec = ConnectivitySpec {
            at: b.at.clone(),
            ports: vec![binding],
            exposed: Vec::new(),
        };
        world.driver().program(&spec).unwrap();
        assert_eq!(reads("127.0.0.1:8080").as_deref(), Some("b"));
        world.restart();
        assert_eq!(reads("127.0.0.1:8080").as_deref(), Some("b"));
        world.driver().leave(&b.at).unwrap();
        assert_eq!(reads("127.0.0.1:8080"), None);
    });
}

#[test]
fn a_udp_port_is_reached_from_outside() {
    World::run(|world| {
        let there = outside();
        world
            .driver()
            .create_network(&network_spec("one", "10.9.0.0/24"))
            .unwrap();
        let b = world.start("one", "b", "10.9.0.3/24");
        world.publish(&b.at, Protocol::Udp, 5353, 53).unwrap();
        let echo = b
            .namespace
            .run(|| UdpSocket::bind("0.0.0.0:53").unwrap())
            .unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            let (length, from) = echo.recv_from(&mut bytes).unwrap();
            echo.send_to(&bytes[..length], from).unwrap();
        });
        let client = there.run(|| UdpSocket::bind("192.0.2.2:0").unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.send_to(b"hello", "192.0.2.1:5353").unwrap();
        let mut bytes = [0; 16];
        let (length, from) = client.recv_from(&mut bytes).unwrap();
        assert_eq!(
            (&bytes[..length], from.to_string().as_str()),
            (&b"hello"[..], "192.0.2.1:5353")
        );
    });
}

#[test]
fn the_contract_holds() {
    let home = tempfile::tempdir().unwrap();
    run_in_new(|| {
        Socket::route()
            .unwrap()
            .one(link::set_up(At::Name("lo")))
            .unwrap();
        let driver = || open_in(home.path()).map(|driver| Arc::new(driver) as Arc<dyn NetworkDriver>);
        // The store opens once, and cases share the namespace: so they share the driver.
        let shared = Mutex::new(Some(driver().unwrap()));
        let open = || Ok(Arc::clone(shared.lock().unwrap().as_ref().unwrap()));
        let again = |old| {
            let mut shared = shared.lock().unwrap();
            drop(old);
            *shared = None;
            let fresh = driver()?;
            *shared = Some(Arc::clone(&fresh));
            Ok(fresh)
        };
        plugin_api::contract::network::check(&NetworkSubject::new(open).on_restart(again));
        shared.lock().unwrap().take();
        nothing_is_left();
    })
    .unwrap();
}
