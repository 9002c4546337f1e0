//! What engines rely on in a network driver.
//!
//! No case touches a link: whether the driver makes real ones is its own affair.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::{Context, Failure, Report, Subject, Verdict, ensure, fresh_hex, suite, unique};
use crate::Options;
use crate::fault::Fault;
use crate::fault::FaultKind::{AlreadyExists, InUse, Invalid, NotFound};
use crate::id::{EndpointId, MacAddr, NetworkId, SandboxKey};
use crate::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, JoinPlan, JoinSpec, NetworkAllocation,
    NetworkDriver, NetworkSpec, Node, PortBinding, Protocol, Subnet,
};
use crate::volume::Scope;

/// A driver as this suite holds it.
pub type Driver = Arc<dyn NetworkDriver>;
type Ctx<'a> = Context<'a, dyn NetworkDriver>;

suite! { "network", dyn NetworkDriver;
    create_network_twice_is_already_so: "engines repeat a create whose answer got lost";
    create_network_with_another_subnet_is_refused: "an id that means two networks would mix their endpoints";
    create_network_with_an_unknown_option_makes_nothing: "a mistyped option must not give a network without it";
    concurrent_creates_make_one_network: "an engine that retries does not wait for the first answer";
    delete_of_an_unknown_network_is_already_so: "orphans of dead engines are deleted by hand, twice";
    delete_of_a_network_takes_its_endpoints: "a killed engine never deletes the endpoints of dead sandboxes";
    an_endpoint_of_an_unknown_network_is_refused: "a container must not start without its network";
    a_reply_fills_only_what_was_empty: "engines fail a container whose interface the driver modified, even to the same";
    create_endpoint_twice_gives_the_same_answer: "engines repeat a create whose answer got lost";
    endpoints_have_macs_of_their_own: "two stations of one address cannot talk";
    delete_of_an_unknown_endpoint_is_already_so: "engines delete again after a failed join";
    delete_of_an_endpoint_implies_leave: "a killed engine never leaves";
    a_deleted_endpoint_can_be_made_again: "an id may come back after a roll-back";
    endpoint_info_knows_live_endpoints_only: "engines ask after each change and show an error";
    join_of_an_unknown_endpoint_is_refused: "a sandbox must not run without its link";
    join_names_a_link_the_kernel_takes: "the engine moves the link by this name of at most 15 bytes";
    join_tells_the_gateway: "without one engines add a second link on docker_gwbridge";
    join_twice_gives_the_same_answer: "engines repeat a join whose answer got lost";
    links_of_two_endpoints_differ: "the engine would move the other container's link";
    leave_of_an_unknown_endpoint_is_already_so: "engines leave again after a failed join";
    leave_twice_is_already_so: "engines leave again after they lost an answer";
    leave_then_join_works: "docker network disconnect, then connect";
    leave_of_one_endpoint_leaves_the_others: "one container's end is not its neighbours'";
    concurrent_endpoints_do_not_meet: "compose starts many containers at once";
    allocation_echoes_the_options: "only options answered reach swarm's nodes";
    free_of_an_unknown_network_is_already_so: "swarm frees after every failed create";
    the_gateway_check_stays_the_same: "engines ask before each network that they make";
    program_twice_is_already_so: "engines repeat what they programmed after their own restart";
    a_taken_port_is_refused: "two containers on one host port: the second must learn of it";
    revoke_frees_the_port: "docker run -p of a port that another container had";
    revoke_of_an_unknown_endpoint_is_already_so: "engines revoke before each leave";
    leave_implies_revoke: "Docker 29 forgets gateways at its restart and never revokes";
    delete_of_an_endpoint_implies_revoke: "a killed engine neither revokes nor leaves";
    nodes_may_come_and_go_twice: "every start of an engine announces its nodes";
    networks_survive_a_restart_of_the_driver: "engines never repeat the create of a network";
    joins_survive_a_restart_of_the_driver: "containers outlive the driver";
}

/// Runs the suite and panics with every failed case.
pub fn check(subject: &Subject<'_, dyn NetworkDriver>) -> Vec<Report> {
    super::check(SUITE, subject)
}

fn definition(ctx: &Ctx<'_>) -> NetworkSpec {
    let [.., a, b] = unique().to_be_bytes();
    let pool = Ipv4Net::new(Ipv4Addr::new(10, a, b, 0), 24).expect("a prefix up to 32");
    let gateway = Ipv4Net::new(Ipv4Addr::new(10, a, b, 1), 24).expect("a prefix up to 32");
    let ipv4 = Subnet {
        address_space: "LocalDefault".into(),
        pool: pool.into(),
        gateway: Some(gateway.into()),
        auxiliary: std::collections::BTreeMap::new(),
    };
    NetworkSpec {
        id: NetworkId::new(fresh_hex()).expect("hexadecimal digits are plain"),
        options: ctx.options(),
        enable_ipv4: true,
        enable_ipv6: false,
        internal: false,
        ipv4: vec![ipv4],
        ipv6: Vec::new(),
    }
}

fn delete_at_end(ctx: &Ctx<'_>, id: &NetworkId) {
    let id = id.clone();
    ctx.at_end(move |driver| {
        let _ = driver.delete_network(&id);
    });
}

/// A network of our own; where its subnet is taken on this host, another.
fn network(ctx: &Ctx<'_>) -> Result<NetworkSpec, Failure> {
    let mut last = None;
    for _ in 0..8 {
        let spec = definition(ctx);
        delete_at_end(ctx, &spec.id);
        match ctx.driver().create_network(&spec) {
            Ok(done) => {
                ctx.changed(Ok(done), "the first create of a network")?;
                return Ok(spec);
            }
            Err(fault) => last = Some(fault),
        }
    }
    let text = last.map(|fault| fault.sentence()).unwrap_or_default();
    Err(Failure::new(format!(
        "8 networks at random were refused, the last: {text}"
    )))
}

fn host(network: &NetworkSpec, n: u32) -> Option<IpNet> {
    let IpNet::V4(net) = network.ipv4.first()?.pool else {
        return None;
    };
    let address = Ipv4Addr::from(u32::from(net.network()) + n);
    Ipv4Net::new(address, net.prefix_len()).ok().map(IpNet::from)
}

fn endpoint_of(network: &NetworkSpec, n: u32) -> EndpointSpec {
    let endpoint = EndpointId::new(fresh_hex()).expect("hexadecimal digits are plain");
    let interface = EndpointInterface {
        address: host(network, n),
        ..EndpointInterface::default()
    };
    EndpointSpec {
        at: EndpointRef {
            network: network.id.clone(),
            endpoint,
        },
        interface,
        ports: Vec::new(),
        exposed: Vec::new(),
        options: Options::new(),
    }
}

fn endpoint(ctx: &Ctx<'_>, network: &NetworkSpec, n: u32) -> Result<EndpointSpec, Failure> {
    let spec = endpoint_of(network, n);
    ctx.driver().create_endpoint(&spec)?;
    Ok(spec)
}

fn sandbox_of(at: &EndpointRef) -> JoinSpec {
    let key = format!("/var/run/docker/netns/{}", at.endpoint.short());
    let sandbox = SandboxKey::new(key).expect("a plain absolute path");
    JoinSpec {
        at: at.clone(),
        sandbox,
        options: Options::new(),
    }
}

fn join(ctx: &Ctx<'_>, at: &EndpointRef) -> Result<JoinPlan, Fault> {
    let plan = ctx.driver().join(&sandbox_of(at))?;
    let at = at.clone();
    ctx.at_end(move |driver| {
        let _ = driver.leave(&at);
    });
    Ok(plan)
}

fn joined(ctx: &Ctx<'_>, network: &NetworkSpec, n: u32) -> Result<(EndpointRef, JoinPlan), Failure> {
    let at = endpoint(ctx, network, n)?.at;
    let plan = join(ctx, &at)?;
    Ok((at, plan))
}

fn link_name(plan: &JoinPlan) -> Option<&str> {
    plan.link.as_ref().map(|link| link.source.as_str())
}

fn nowhere() -> EndpointRef {
    EndpointRef {
        network: NetworkId::new(fresh_hex()).expect("hexadecimal digits are plain"),
        endpoint: EndpointId::new(fresh_hex()).expect("hexadecimal digits are plain"),
    }
}

fn create_network_twice_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let spec = network(ctx)?;
    ctx.already_so(ctx.driver().create_network(&spec), "the second create")
}

fn create_network_with_another_subnet_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let spec = network(ctx)?;
    let other = NetworkSpec {
        id: spec.id.clone(),
        ..definition(ctx)
    };
    ctx.refused(
        ctx.driver().create_network(&other),
        AlreadyExists,
        "the same id with another subnet",
    )?;
    ctx.already_so(ctx.driver().create_network(&spec), "create as at first")
}

fn create_network_with_an_unknown_option_makes_nothing(ctx: &Ctx<'_>) -> Verdict {
    let mut spec = definition(ctx);
    delete_at_end(ctx, &spec.id);
    spec.options.insert("no-such-option-anywhere".into(), "1".into());
    ctx.refused(
        ctx.driver().create_network(&spec),
        Invalid,
        "a network with an unknown option",
    )?;
    let endpoint = ctx.driver().create_endpoint(&endpoint_of(&spec, 2));
    ctx.refused(endpoint, NotFound, "an endpoint of the network that was refused")
}

fn concurrent_creates_make_one_network(ctx: &Ctx<'_>) -> Verdict {
    let template = network(ctx)?;
    ctx.driver().delete_network(&template.id)?;
    let mut made = 0;
    for answer in super::at_once(8, |_| ctx.driver().create_network(&template)) {
        made += usize::from(answer? == crate::Done::Changed);
    }
    ensure!(
        !ctx.in_process() || made == 1,
        "{made} of 8 concurrent creates say they made it"
    );
    Ok(())
}

fn delete_of_an_unknown_network_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    ctx.already_so(
        ctx.driver().delete_network(&nowhere().network),
        "delete of a network never made",
    )?;
    let spec = network(ctx)?;
    ctx.changed(ctx.driver().delete_network(&spec.id), "the first delete")?;
    ctx.already_so(ctx.driver().delete_network(&spec.id), "the second delete")
}

fn delete_of_a_network_takes_its_endpoints(ctx: &Ctx<'_>) -> Verdict {
    let spec = network(ctx)?;
    let (at, _) = joined(ctx, &spec, 2)?;
    ctx.changed(
        ctx.driver().delete_network(&spec.id),
        "delete of a network with a joined endpoint",
    )?;
    ctx.already_so(ctx.driver().leave(&at), "leave after the network is gone")?;
    ctx.already_so(
        ctx.driver().delete_endpoint(&at),
        "delete of an endpoint after its network",
    )?;
    ctx.changed(ctx.driver().create_network(&spec), "the same network anew")?;
    ctx.refused(join(ctx, &at), NotFound, "join of the old network's endpoint")
}

fn an_endpoint_of_an_unknown_network_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let spec = endpoint_of(&definition(ctx), 2);
    ctx.refused(
        ctx.driver().create_endpoint(&spec),
        NotFound,
        "an endpoint of an unknown network",
    )
}

fn a_reply_fills_only_what_was_empty(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let [.., a, b, c, d] = unique().to_be_bytes();
    for mac in [None, Some(MacAddr([2, 66, a, b, c, d]))] {
        let mut spec = endpoint_of(&network, if mac.is_some() { 2 } else { 3 });
        spec.interface.mac = mac;
        let reply = ctx.driver().create_endpoint(&spec)?;
        ensure!(
            reply.address.is_none(),
            "the engine chose the address, the reply repeats {reply:?}"
        );
        ensure!(
            mac.is_none() || reply.mac.is_none(),
            "the engine chose {mac:?}, the reply says {reply:?}"
        );
    }
    Ok(())
}

fn create_endpoint_twice_gives_the_same_answer(ctx: &Ctx<'_>) -> Verdict {
    let spec = endpoint_of(&network(ctx)?, 2);
    let first = ctx.driver().create_endpoint(&spec)?;
    let second = ctx.driver().create_endpoint(&spec)?;
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

fn endpoints_have_macs_of_their_own(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let mut seen = BTreeSet::new();
    for n in 2..10 {
        let reply = ctx.driver().create_endpoint(&endpoint_of(&network, n))?;
        let Some(mac) = reply.mac else {
            return Err(Failure::absent(
                "the driver leaves the choice of addresses to the kernel",
            ));
        };
        ensure!(seen.insert(mac), "{mac} was given to two endpoints");
    }
    Ok(())
}

fn delete_of_an_unknown_endpoint_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    ctx.already_so(
        ctx.driver().delete_endpoint(&nowhere()),
        "delete of an endpoint of an unknown network",
    )?;
    let network = network(ctx)?;
    let at = endpoint_of(&network, 2).at;
    ctx.already_so(
        ctx.driver().delete_endpoint(&at),
        "delete of an endpoint never made",
    )?;
    let at = endpoint(ctx, &network, 2)?.at;
    ctx.changed(ctx.driver().delete_endpoint(&at), "the first delete")?;
    ctx.already_so(ctx.driver().delete_endpoint(&at), "the second delete")
}

fn delete_of_an_endpoint_implies_leave(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let (at, _) = joined(ctx, &network, 2)?;
    ctx.changed(ctx.driver().delete_endpoint(&at), "delete of a joined endpoint")?;
    ctx.already_so(ctx.driver().leave(&at), "leave after the delete")
}

fn a_deleted_endpoint_can_be_made_again(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let spec = endpoint(ctx, &network, 2)?;
    join(ctx, &spec.at)?;
    ctx.driver().delete_endpoint(&spec.at)?;
    ctx.refused(join(ctx, &spec.at), NotFound, "join of a deleted endpoint")?;
    ctx.driver().create_endpoint(&spec)?;
    join(ctx, &spec.at)?;
    Ok(())
}

fn endpoint_info_knows_live_endpoints_only(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let at = endpoint(ctx, &network, 2)?.at;
    ctx.driver().endpoint_info(&at)?;
    ctx.driver().delete_endpoint(&at)?;
    ctx.refused(
        ctx.driver().endpoint_info(&at),
        NotFound,
        "info of a deleted endpoint",
    )
}

fn join_of_an_unknown_endpoint_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let at = endpoint_of(&network(ctx)?, 2).at;
    ctx.refused(join(ctx, &at), NotFound, "join of an endpoint never made")
}

fn join_names_a_link_the_kernel_takes(ctx: &Ctx<'_>) -> Verdict {
    let (_, plan) = joined(ctx, &network(ctx)?, 2)?;
    let Some(link) = plan.link else {
        return Err(Failure::absent("the driver makes no link"));
    };
    let printable = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
    };
    ensure!(
        (1..=15).contains(&link.source.len()),
        "the link's name {:?} has {} bytes",
        link.source,
        link.source.len()
    );
    ensure!(
        printable(&link.source),
        "the kernel refuses the link's name {:?}",
        link.source
    );
    ensure!(
        (1..=12).contains(&link.prefix.len()) && printable(&link.prefix),
        "the prefix {:?} makes no name",
        link.prefix
    );
    Ok(())
}

fn join_tells_the_gateway(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let (_, plan) = joined(ctx, &network, 2)?;
    let granted = network
        .ipv4
        .first()
        .and_then(|subnet| subnet.gateway)
        .map(|gateway| gateway.addr());
    if let Some(told) = plan.gateway {
        ensure!(
            Some(IpAddr::V4(told)) == granted,
            "told {told}, but IPAM granted {granted:?}"
        );
    } else {
        // A driver that reaches all hosts may leave the way out to docker_gwbridge on purpose.
        let on_purpose = ctx.driver().capabilities().connectivity == Scope::Global;
        ensure!(
            plan.disable_gateway_service || on_purpose,
            "no gateway, nor a word that none is wanted"
        );
    }
    Ok(())
}

fn join_twice_gives_the_same_answer(ctx: &Ctx<'_>) -> Verdict {
    let (at, first) = joined(ctx, &network(ctx)?, 2)?;
    let second = join(ctx, &at)?;
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

fn links_of_two_endpoints_differ(ctx: &Ctx<'_>) -> Verdict {
    let (one, two) = (network(ctx)?, network(ctx)?);
    let mut seen = BTreeSet::new();
    for (network, n) in [(&one, 2), (&one, 3), (&two, 2)] {
        let (_, plan) = joined(ctx, network, n)?;
        let Some(name) = link_name(&plan).map(str::to_owned) else {
            return Err(Failure::absent("the driver makes no link"));
        };
        ensure!(seen.insert(name.clone()), "two endpoints have the link {name}");
    }
    Ok(())
}

fn leave_of_an_unknown_endpoint_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    ctx.already_so(ctx.driver().leave(&nowhere()), "leave in an unknown network")?;
    let at = endpoint_of(&network(ctx)?, 2).at;
    ctx.already_so(ctx.driver().leave(&at), "leave of an endpoint never made")
}

fn leave_twice_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let (at, _) = joined(ctx, &network(ctx)?, 2)?;
    ctx.changed(ctx.driver().leave(&at), "the first leave")?;
    ctx.already_so(ctx.driver().leave(&at), "the second leave")
}

fn leave_then_join_works(ctx: &Ctx<'_>) -> Verdict {
    let (at, _) = joined(ctx, &network(ctx)?, 2)?;
    ctx.driver().leave(&at)?;
    join(ctx, &at)?;
    ctx.changed(ctx.driver().leave(&at), "leave after the second join")
}

fn leave_of_one_endpoint_leaves_the_others(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let (one, _) = joined(ctx, &network, 2)?;
    let (two, before) = joined(ctx, &network, 3)?;
    ctx.driver().leave(&one)?;
    let after = join(ctx, &two)?;
    ensure!(
        before == after,
        "before {before:?}, after the neighbour left {after:?}"
    );
    ctx.changed(ctx.driver().leave(&two), "leave of the other endpoint")
}

fn concurrent_endpoints_do_not_meet(ctx: &Ctx<'_>) -> Verdict {
    let network = network(ctx)?;
    let mut ends = Vec::new();
    for end in super::at_once(8, |n| joined(ctx, &network, u32::try_from(n).unwrap_or(0) + 2)) {
        ends.push(end?);
    }
    let names: BTreeSet<_> = ends.iter().filter_map(|(_, plan)| link_name(plan)).collect();
    let linked = ends.iter().filter(|(_, plan)| plan.link.is_some()).count();
    ensure!(
        names.len() == linked,
        "{linked} links have only {} names",
        names.len()
    );
    let left = super::at_once(8, |n| {
        (
            ctx.driver().leave(&ends[n].0),
            ctx.driver().delete_endpoint(&ends[n].0),
        )
    });
    for (leave, delete) in left {
        ctx.changed(leave, "a concurrent leave")?;
        ctx.changed(delete, "a concurrent delete of an endpoint")?;
    }
    Ok(())
}

fn allocation_echoes_the_options(ctx: &Ctx<'_>) -> Verdict {
    let NetworkSpec {
        id, options, ipv4, ..
    } = definition(ctx);
    if options.is_empty() {
        return Err(Failure::absent("no option of this driver was given"));
    }
    let allocation = NetworkAllocation {
        id: id.clone(),
        options: options.clone(),
        ipv4,
        ipv6: Vec::new(),
    };
    ctx.at_end(move |driver| {
        let _ = driver.free_network(&id);
    });
    let answer = ctx.driver().allocate_network(&allocation)?;
    for (key, value) in &options {
        ensure!(
            answer.get(key) == Some(value),
            "the option {key}={value} does not reach the nodes: {answer:?}"
        );
    }
    Ok(())
}

fn free_of_an_unknown_network_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    ctx.already_so(
        ctx.driver().free_network(&nowhere().network),
        "free of an unknown network",
    )
}

fn the_gateway_check_stays_the_same(ctx: &Ctx<'_>) -> Verdict {
    if !ctx.driver().capabilities().checks_gateway {
        return Err(Failure::absent("the driver announces no gateway check"));
    }
    let first = ctx.driver().gateway_check(&ctx.options())?;
    network(ctx)?;
    let second = ctx.driver().gateway_check(&ctx.options())?;
    ensure!(first == second, "first {first:?}, then {second:?}");
    Ok(())
}

// === published ports ===

fn publishing(ctx: &Ctx<'_>) -> Verdict {
    if ctx.publishes_ports() && ctx.driver().external_connectivity().is_some() {
        return Ok(());
    }
    Err(Failure::absent("the driver publishes no ports"))
}

fn program(ctx: &Ctx<'_>, at: &EndpointRef, host_port: u16) -> Result<crate::Done, Fault> {
    let port = PortBinding {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_ip: Some(Ipv4Addr::LOCALHOST.into()),
        host_port,
        host_port_end: host_port,
    };
    let spec = ConnectivitySpec {
        at: at.clone(),
        ports: vec![port],
        exposed: Vec::new(),
    };
    let driver = ctx.driver();
    let done = driver
        .external_connectivity()
        .expect("publishing was asked first")
        .program(&spec)?;
    let at = at.clone();
    ctx.at_end(move |driver| {
        if let Some(ports) = driver.external_connectivity() {
            let _ = ports.revoke(&at);
        }
    });
    Ok(done)
}

fn revoke(ctx: &Ctx<'_>, at: &EndpointRef) -> Result<crate::Done, Fault> {
    ctx.driver()
        .external_connectivity()
        .expect("publishing was asked first")
        .revoke(at)
}

/// Two joined endpoints, the first with a port of this host.
fn published(ctx: &Ctx<'_>) -> Result<(EndpointRef, EndpointRef, u16), Failure> {
    publishing(ctx)?;
    let network = network(ctx)?;
    let ((one, _), (two, _)) = (joined(ctx, &network, 2)?, joined(ctx, &network, 3)?);
    let mut last = None;
    for _ in 0..8 {
        let [.., a, b] = unique().to_be_bytes();
        let port = 20_000 + u16::from_be_bytes([a, b]) % 12_000;
        match program(ctx, &one, port) {
            Ok(done) => {
                ctx.changed(Ok(done), "the first program")?;
                return Ok((one, two, port));
            }
            Err(fault) => last = Some(fault),
        }
    }
    let text = last.map(|fault| fault.sentence()).unwrap_or_default();
    Err(Failure::new(format!(
        "8 ports at random were refused, the last: {text}"
    )))
}

fn program_twice_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    let (one, _, port) = published(ctx)?;
    ctx.already_so(program(ctx, &one, port), "the second program")
}

fn a_taken_port_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let (_, two, port) = published(ctx)?;
    ctx.refused(program(ctx, &two, port), InUse, "a port of another endpoint")
}

fn revoke_frees_the_port(ctx: &Ctx<'_>) -> Verdict {
    let (one, two, port) = published(ctx)?;
    ctx.changed(revoke(ctx, &one), "revoke")?;
    ctx.changed(program(ctx, &two, port), "program of a port that was revoked")
}

fn revoke_of_an_unknown_endpoint_is_already_so(ctx: &Ctx<'_>) -> Verdict {
    publishing(ctx)?;
    ctx.already_so(revoke(ctx, &nowhere()), "revoke of an unknown endpoint")?;
    let (one, _, _) = published(ctx)?;
    ctx.changed(revoke(ctx, &one), "the first revoke")?;
    ctx.already_so(revoke(ctx, &one), "the second revoke")
}

fn leave_implies_revoke(ctx: &Ctx<'_>) -> Verdict {
    let (one, two, port) = published(ctx)?;
    ctx.changed(ctx.driver().leave(&one), "leave of an endpoint with a port")?;
    ctx.changed(program(ctx, &two, port), "program of a port whose endpoint left")
}

fn delete_of_an_endpoint_implies_revoke(ctx: &Ctx<'_>) -> Verdict {
    let (one, two, port) = published(ctx)?;
    ctx.changed(
        ctx.driver().delete_endpoint(&one),
        "delete of an endpoint with a port",
    )?;
    ctx.changed(
        program(ctx, &two, port),
        "program of a port whose endpoint was deleted",
    )
}

// === nodes, restarts ===

fn nodes_may_come_and_go_twice(ctx: &Ctx<'_>) -> Verdict {
    let driver = ctx.driver();
    let Some(discovery) = driver.discovery() else {
        return Err(Failure::absent("the driver asks for no nodes"));
    };
    let address = "192.0.2.77".to_owned();
    let node = Node {
        bind_address: address.clone(),
        address,
        is_self: false,
    };
    discovery.node_arrived(&node)?;
    discovery.node_arrived(&node)?;
    discovery.node_left(&node)?;
    discovery.node_left(&node)?;
    Ok(())
}

fn networks_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let spec = network(ctx)?;
    ctx.restart()?;
    ctx.already_so(ctx.driver().create_network(&spec), "create after the restart")?;
    joined(ctx, &spec, 2)?;
    Ok(())
}

fn joins_survive_a_restart_of_the_driver(ctx: &Ctx<'_>) -> Verdict {
    let (at, before) = joined(ctx, &network(ctx)?, 2)?;
    ctx.restart()?;
    let after = join(ctx, &at)?;
    ensure!(before == after, "before {before:?}, after the restart {after:?}");
    ctx.changed(ctx.driver().leave(&at), "leave after the restart")
}
