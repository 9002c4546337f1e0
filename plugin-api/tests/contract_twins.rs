//! The twins keep every rule, in this process and over a socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests as well")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plugin_api::client::Client;
use plugin_api::contract::wire::{self, WireSubject};
use plugin_api::contract::{
    GraphSubject, IpamSubject, NetworkSubject, Outcome, Report, VolumeSubject, graph, ipam, network, twin,
    volume,
};
use plugin_api::server::{Plugin, bind, serve};

/// No case may be skipped, but these.
fn skipped(reports: &[Report], expected: &[&str]) {
    let skipped: Vec<&str> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Skipped(_)))
        .map(|report| report.name)
        .collect();
    assert_eq!(skipped, expected);
}

/// A twin that is ended and started again as cases ask.
struct Twin<T>(Mutex<Arc<T>>);

impl<T> Twin<T> {
    fn new(first: T) -> Self {
        Self(Mutex::new(Arc::new(first)))
    }

    fn now(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap())
    }

    fn again(&self, restarted: impl FnOnce(&T) -> T) -> Arc<T> {
        let mut held = self.0.lock().unwrap();
        *held = Arc::new(restarted(&held));
        Arc::clone(&held)
    }
}

#[test]
fn the_volume_twin_keeps_every_rule() {
    let home = tempfile::tempdir().unwrap();
    let twin = Twin::new(twin::Volume::open(home.path()).unwrap());
    let subject = VolumeSubject::new(|| Ok(twin.now() as _))
        .on_restart(|_| Ok(twin.again(twin::Volume::restarted) as _))
        .other_option("size", "2");
    skipped(&volume::check(&subject), &[]);
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "the suite left volumes behind"
    );
}

#[test]
fn the_address_twin_keeps_every_rule() {
    let twin = Twin::new(twin::Ipam::new());
    let subject =
        IpamSubject::new(|| Ok(twin.now() as _)).on_restart(|_| Ok(twin.again(twin::Ipam::restarted)));
    skipped(&ipam::check(&subject), &["a_replayed_address_is_granted_again"]);
}

#[test]
fn the_address_twin_that_wants_replays_keeps_every_rule() {
    let twin = Twin::new(twin::Ipam::replaying());
    let subject =
        IpamSubject::new(|| Ok(twin.now() as _)).on_restart(|_| Ok(twin.again(twin::Ipam::restarted)));
    skipped(&ipam::check(&subject), &["a_held_address_is_refused"]);
}

#[test]
fn the_network_twin_keeps_every_rule() {
    let twin = Twin::new(twin::Network::new());
    let subject = NetworkSubject::new(|| Ok(twin.now() as _))
        .on_restart(|_| Ok(twin.again(twin::Network::restarted)))
        .option("mtu", "1400");
    skipped(&network::check(&subject), &[]);
}

#[test]
fn the_graph_twin_keeps_every_rule() {
    let home = tempfile::tempdir().unwrap();
    let twin = Twin::new(twin::Graph::open(home.path()).unwrap());
    let subject = GraphSubject::new(|| Ok(twin.now() as _))
        .on_restart(|_| Ok(twin.again(|old| old.restarted().unwrap()) as _));
    let without = ["an_exact_diff_gives_back_the_archive", "a_size_limit_is_kept"];
    skipped(&graph::check(&subject), &without);
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "the suite left layers behind"
    );
}

// === over a socket ===

/// A plugin of twins behind a socket of its own, served until it is dropped.
struct Served {
    client: Client,
    socket: PathBuf,
    _home: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let plugin = Plugin {
            volume: Some(Arc::new(
                twin::Volume::open(&home.path().join("volumes")).unwrap(),
            )),
            network: Some(Arc::new(twin::Network::new())),
            ipam: Some(Arc::new(twin::Ipam::new())),
            graph: Some(Arc::new(twin::Graph::open(&home.path().join("layers")).unwrap())),
            ..Plugin::default()
        };
        let socket = home.path().join("twins.sock");
        let bound = bind(&socket).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(serve(
            vec![(bound, plugin)],
            std::future::pending(),
            Duration::from_secs(1),
        ));
        let client = Client::connect(&socket).unwrap();
        Self {
            client,
            socket,
            _home: home,
            _runtime: runtime,
        }
    }
}

#[test]
fn the_volume_twin_keeps_every_rule_over_a_socket() {
    let served = Served::new();
    let open = || Ok(Arc::new(served.client.volume()) as volume::Driver);
    let subject = VolumeSubject::new(open).over_a_socket().other_option("size", "2");
    let restarts = [
        "volumes_survive_a_restart_of_the_driver",
        "holds_survive_a_restart_of_the_driver",
    ];
    skipped(&volume::check(&subject), &restarts);
}

#[test]
fn the_address_twin_keeps_every_rule_over_a_socket() {
    let served = Served::new();
    let open = || Ok(Arc::new(served.client.ipam()) as ipam::Driver);
    let without = [
        "a_replayed_address_is_granted_again",
        "pools_and_addresses_survive_a_restart_of_the_driver",
    ];
    skipped(&ipam::check(&IpamSubject::new(open).over_a_socket()), &without);
}

#[test]
fn the_network_twin_keeps_every_rule_over_a_socket() {
    let served = Served::new();
    let open = || Ok(Arc::new(served.client.network()) as network::Driver);
    let subject = NetworkSubject::new(open).over_a_socket().option("mtu", "1400");
    let without = [
        "nodes_may_come_and_go_twice",
        "networks_survive_a_restart_of_the_driver",
        "joins_survive_a_restart_of_the_driver",
    ];
    skipped(&network::check(&subject), &without);
}

#[test]
fn the_graph_twin_keeps_every_rule_over_a_socket() {
    let served = Served::new();
    let open = || Ok(Arc::new(served.client.graph()) as graph::Driver);
    let without = [
        "layers_survive_a_restart_of_the_driver",
        "an_exact_diff_gives_back_the_archive",
        "a_size_limit_is_kept",
    ];
    skipped(&graph::check(&GraphSubject::new(open).over_a_socket()), &without);
}

#[test]
fn the_server_keeps_every_rule_of_the_wire() {
    let served = Served::new();
    let subject = WireSubject::new(|| wire::Socket::open(&served.socket).map(Arc::new));
    skipped(&wire::check(&subject), &[]);
}
