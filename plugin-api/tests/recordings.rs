//! Everything that real engines were heard saying can be read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to stop")]

mod heard;

use std::collections::BTreeSet;

use heard::{Heard, decode, has_fields};
use plugin_api::FaultKind;
use plugin_api::network::Protocol;
use plugin_api::wire::{Subsystem, Verb, graph, ipam, network, volume};
use serde_json::{Value, json};

fn of(engine: &str, verb: Verb) -> Vec<Heard> {
    let all: Vec<Heard> = heard::all()
        .into_iter()
        .filter(|heard| heard.file.starts_with(engine) && heard.verb() == verb)
        .collect();
    assert!(!all.is_empty(), "{engine} was never heard saying {}", verb.name());
    all
}

#[test]
fn every_recorded_request_is_read() {
    for heard in heard::all() {
        let read = decode(heard.verb(), &heard.path, &heard.body);
        assert!(read.is_ok(), "{}: {}", heard.file, read.unwrap_err().sentence());
    }
}

#[test]
fn every_subsystem_was_heard() {
    let heard: BTreeSet<&str> = heard::all()
        .iter()
        .map(|heard| heard.verb().subsystem().name())
        .collect();
    for subsystem in [
        Subsystem::Plugin,
        Subsystem::Volume,
        Subsystem::Network,
        Subsystem::Ipam,
        Subsystem::Graph,
    ] {
        assert!(
            heard.contains(subsystem.name()),
            "{} is not among {heard:?}",
            subsystem.name()
        );
    }
}

#[test]
fn unknown_fields_change_nothing() {
    for heard in heard::all().into_iter().filter(|heard| has_fields(heard.verb())) {
        let mut body: Value = serde_json::from_slice(&heard.body).unwrap();
        body["Unheard"] = json!({"of": [1, null, {"deep": true}]});
        let more = decode(heard.verb(), &heard.path, body.to_string().as_bytes()).unwrap();
        assert_eq!(
            more,
            decode(heard.verb(), &heard.path, &heard.body).unwrap(),
            "{}",
            heard.file
        );
    }
}

#[test]
fn an_empty_body_is_refused_where_fields_are_due() {
    let verbs: Vec<Verb> = Verb::ALL
        .iter()
        .copied()
        .filter(|verb| has_fields(*verb))
        .collect();
    assert!(verbs.len() > 25);
    for verb in verbs {
        let fault = decode(verb, "", b"").expect_err(verb.name());
        assert_eq!(fault.kind, FaultKind::Invalid, "{}", verb.name());
        assert!(
            fault.sentence().contains("empty body"),
            "{}: {}",
            verb.name(),
            fault.sentence()
        );
    }
}

#[test]
fn empty_bodies_are_recorded_only_where_no_fields_are_due() {
    for heard in heard::all().into_iter().filter(|heard| !heard.is_archive) {
        assert!(
            !heard.body.is_empty() || !has_fields(heard.verb()),
            "{}",
            heard.file
        );
    }
}

#[test]
fn a_volume_of_docker_is_read() {
    let (name, options) = volume::create_request_in(&of("docker", Verb::VolumeCreate)[0].body).unwrap();
    assert_eq!(name.as_str(), "data");
    assert_eq!(options["size"], "1G");
    assert_eq!(options["mode"], "0750");
}

#[test]
fn a_volume_of_podman_is_read() {
    let (name, options) = volume::create_request_in(&of("podman", Verb::VolumeCreate)[1].body).unwrap();
    assert_eq!(name.as_str(), "plain");
    assert!(options.is_empty());
    let mount = &of("podman", Verb::VolumeMount)[0];
    let (_, holder) = volume::hold_request_in(Verb::VolumeMount, &mount.body).unwrap();
    assert_eq!(
        holder.as_str(),
        "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"
    );
}

#[test]
fn networks_of_docker_are_read() {
    let all = of("docker", Verb::NetworkCreate);
    let [front, back, six] = [0, 1, 2].map(|n| network::create_network_request_in(&all[n].body).unwrap());
    assert_eq!(front.options["o1"], "v1");
    assert_eq!(front.options["com.docker.network.driver.mtu"], "1400");
    assert_eq!(front.ipv4[0].pool.to_string(), "10.77.0.0/16");
    assert_eq!(front.ipv4[0].gateway.unwrap().to_string(), "10.77.0.1/16");
    assert_eq!(front.ipv4[0].auxiliary["r1"].to_string(), "10.77.0.9/16");
    assert!(front.enable_ipv4 && !front.enable_ipv6 && !front.internal);
    assert!(back.internal);
    assert!(six.enable_ipv6);
    assert_eq!(six.ipv6[0].pool.to_string(), "fd77::/64");
}

#[test]
fn an_endpoint_of_docker_is_read() {
    let spec = network::create_endpoint_request_in(&of("docker", Verb::EndpointCreate)[0].body).unwrap();
    assert_eq!(spec.interface.address.unwrap().to_string(), "10.77.0.200/16");
    assert_eq!(spec.interface.mac.unwrap().to_string(), "02:00:00:00:00:99");
    assert_eq!(spec.interface.address_v6, None);
    let web = &spec.ports[0];
    assert_eq!(
        (web.protocol, web.container_port, web.host_port),
        (Protocol::Tcp, 80, 8080)
    );
    assert_eq!(web.host_ip.unwrap().to_string(), "127.0.0.1");
    let names = &spec.ports[1];
    assert_eq!(
        (names.protocol, names.container_port, names.host_ip),
        (Protocol::Udp, 53, None)
    );
    assert_eq!(spec.exposed.len(), 3);
}

#[test]
fn an_option_of_an_endpoint_is_read() {
    let all = of("docker", Verb::EndpointCreate);
    let read = all
        .iter()
        .map(|heard| network::create_endpoint_request_in(&heard.body).unwrap());
    assert!(
        read.into_iter()
            .any(|spec| spec.options.get("dop").is_some_and(|value| value == "dov"))
    );
}

#[test]
fn pools_and_addresses_of_docker_are_read() {
    let pools = of("docker", Verb::IpamRequestPool);
    let front = ipam::pool_request_in(&pools[0].body).unwrap();
    assert_eq!(front.sub_pool.unwrap().to_string(), "10.77.1.0/24");
    assert_eq!(front.options["pace"], "slow");
    let back = ipam::pool_request_in(&pools[1].body).unwrap();
    assert_eq!((back.pool, back.sub_pool, back.v6), (None, None, false));
    let gateway = ipam::address_request_in(&of("docker", Verb::IpamRequestAddress)[0].body).unwrap();
    assert_eq!(gateway.address.unwrap().to_string(), "10.77.0.1");
}

#[test]
fn layers_of_docker_are_read() {
    let init = graph::init_request_in(&of("docker", Verb::GraphInit)[0].body).unwrap();
    assert_eq!(init.options, ["size=5G"]);
    assert!(init.uid_maps.is_empty());
    let applied = of("docker", Verb::GraphApplyDiff);
    assert!(applied.iter().all(|heard| heard.is_archive));
    let (_, parent) = graph::apply_query_in(applied[0].path.split_once('?').unwrap().1).unwrap();
    assert_eq!(parent, None);
    let last = applied.last().unwrap().path.split_once('?').unwrap().1;
    let (_, parent) = graph::apply_query_in(last).unwrap();
    assert!(parent.is_some());
}
