//! Beside an engine that writes iptables rules.

use super::keeper::{SOON, network_with_a_port, until};
use super::*;

fn iptables(words: &[&str]) -> String {
    #[allow(clippy::disallowed_methods)] // A test may be the engine beside us, and the administrator.
    let out = std::process::Command::new("iptables-nft")
        .args(words)
        .output()
        .unwrap();
    assert!(out.status.success(), "iptables-nft {words:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// What an engine does at its start.
fn engine_starts() {
    iptables(&["-N", "DOCKER-USER"]);
    iptables(&["-A", "DOCKER-USER", "-j", "RETURN"]);
    iptables(&["-I", "FORWARD", "-j", "DOCKER-USER"]);
    iptables(&["-P", "FORWARD", "DROP"]);
    // Where br_netfilter is loaded, and off, bridged frames are no business of iptables.
    match kernel::netns::set_sysctl("bridge/bridge-nf-call-iptables", "0") {
        Err(error) if !error.is_missing() => panic!("{error}"),
        _ => {}
    }
}

fn rules() -> Vec<String> {
    let text = iptables(&["-S", "DOCKER-USER"]);
    text.lines().skip(1).map(str::to_owned).collect()
}

const OURS: &str =
    "-A DOCKER-USER -m mark --mark 0x10000000/0x10000000 -m comment --comment longshore -j ACCEPT";
const RETURN: &str = "-A DOCKER-USER -j RETURN";

fn is_open() -> bool {
    rules().iter().any(|rule| rule == OURS)
}

#[test]
fn an_engines_policy_of_drop_lets_pass_what_we_let_pass_and_nothing_else() {
    World::run(|world| {
        let there = outside();
        let b = network_with_a_port(&world);
        engine_starts();
        let took = until("the rule in the engine's chain", is_open);
        assert!(took < SOON, "the rule came after {took:?}");
        assert_eq!(rules().last().unwrap(), RETURN);
        let from_outside = || there.run(|| reads("192.0.2.1:8080")).unwrap();
        assert_eq!(
            (0..5).find_map(|_| from_outside()).as_deref(),
            Some("b"),
            "{}",
            ruleset()
        );
        // From a container to the outside.
        there
            .run(|| {
                let listener = TcpListener::bind("0.0.0.0:99").unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let _ = stream.unwrap().write_all(b"out");
                    }
                });
            })
            .unwrap();
        let out = (0..5).find_map(|_| b.reads("192.0.2.2:99"));
        assert_eq!(out.as_deref(), Some("out"));
        // What the administrator forbids before our rule stays forbidden.
        iptables(&["-I", "DOCKER-USER", "-p", "tcp", "-j", "DROP"]);
        assert_eq!(from_outside(), None);
        iptables(&["-D", "DOCKER-USER", "-p", "tcp", "-j", "DROP"]);
        assert_eq!((0..5).find_map(|_| from_outside()).as_deref(), Some("b"));
        // The rule comes back where somebody empties the chain.
        iptables(&["-F", "DOCKER-USER"]);
        let took = until("the rule in the emptied chain", is_open);
        assert!(took < SOON, "the rule came back after {took:?}");
        world.driver().delete_network(&b.at.network).unwrap();
        assert_eq!(
            rules(),
            Vec::<String>::new(),
            "our rule outlives our last network"
        );
    });
}

#[test]
fn an_engines_own_containers_are_not_opened_to_ours() {
    World::run(|world| {
        let b = network_with_a_port(&world);
        engine_starts();
        until("the rule in the engine's chain", is_open);
        // A container of the engine, behind its bridge.
        let theirs = Namespace::unnamed().unwrap();
        let host = Socket::route().unwrap();
        host.all(link::create_bridge("docker0", &link::Bridge::default()))
            .unwrap();
        let bridge = host.index_of("docker0").unwrap();
        let pair = link::Veth {
            outer: "veth0",
            inner: "eth0",
            up: true,
            master: Some(bridge),
            inner_namespace: Some(theirs.as_fd()),
            ..link::Veth::default()
        };
        host.all(link::create_veth(&pair)).unwrap();
        host.all(vec![
            address::add(bridge, "172.17.0.1/16".parse().unwrap()),
            link::set_up(At::Index(bridge)),
        ])
        .unwrap();
        let inside = Socket::in_namespace(theirs.as_fd()).unwrap();
        let index = inside.index_of("eth0").unwrap();
        inside
            .all(vec![
                address::add(index, "172.17.0.2/16".parse().unwrap()),
                link::set_up(At::Index(index)),
                address::add_route(&address::Route {
                    destination: "0.0.0.0/0".parse().unwrap(),
                    gateway: Some("172.17.0.1".parse().unwrap()),
                    link: Some(index),
                    table: address::MAIN_TABLE,
                }),
            ])
            .unwrap();
        theirs
            .run(|| {
                let listener = TcpListener::bind("0.0.0.0:80").unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let _ = stream.unwrap().write_all(b"theirs");
                    }
                });
            })
            .unwrap();
        let host_reads = (0..10).find_map(|_| reads("172.17.0.2:80"));
        assert_eq!(host_reads.as_deref(), Some("theirs"), "the host");
        assert_eq!(b.reads("172.17.0.2:80"), None);
        // It is the engine's policy that keeps them apart, and not something else.
        iptables(&["-P", "FORWARD", "ACCEPT"]);
        let reached = (0..10).find_map(|_| b.reads("172.17.0.2:80"));
        assert_eq!(reached.as_deref(), Some("theirs"));
    });
}

#[test]
fn the_rule_of_a_driver_that_died_goes_with_the_next_start_without_networks() {
    World::run(|mut world| {
        let b = network_with_a_port(&world);
        engine_starts();
        until("the rule in the engine's chain", is_open);
        world.restart();
        assert_eq!(rules(), [OURS, RETURN], "a restart doubles or moves the rule");
        // As if it had died within the removal of the network.
        world.driver().core.forget_network(&b.at.network).unwrap();
        world.restart();
        assert_eq!(rules(), [RETURN]);
    });
}
