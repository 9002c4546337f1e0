//! Networks of real dockerds of several ages: options, both families, and many containers at once.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::requires;
use crate::ship::{LONG, NET, RUN, Ship};
use crate::world::{Dockerd, Longshore, Suite, World, eventually};

#[test]
fn both_families_and_options_work_on_docker_20() {
    both_families_and_options(Suite::Own);
}

#[test]
fn both_families_and_options_work_on_docker_26() {
    both_families_and_options(Suite::Trixie);
}

#[test]
fn both_families_and_options_work_on_docker_28() {
    both_families_and_options(Suite::Forky);
}

fn both_families_and_options(suite: Suite) {
    requires!(of suite; "dockerd", "busybox");
    let world = World::of(suite, "families");
    let mut ship = Ship::launch(&world, &NET, "overlay2");
    let mut words = vec![
        "network",
        "create",
        "-d",
        "longshore",
        "--ipam-driver",
        "longshore",
    ];
    words.extend(["--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"]);
    words.extend(["-o", "com.docker.network.bridge.name=quay"]);
    words.extend(["-o", "com.docker.network.driver.mtu=1400"]);
    words.extend(["-o", "com.docker.network.container_iface_prefix=sea"]);
    ship.ok(&[&words[..], &["sea"]].concat());
    let web = ["--name", "web", "--network", "sea", "-p", "8080:80"];
    ship.run(&[&web[..], &["box:1", "httpd", "-f", "-p", "80", "-h", "/etc"]].concat());
    let sailor = ["--name", "sailor", "--network", "sea", "--ip6", "fd77::77"];
    ship.run(&[&sailor[..], &["--restart", "always"], &LONG].concat());

    both_families_reach(&ship);
    let shown = world.run(&["ip", "-oneline", "link", "show", "quay"]).ok();
    assert!(shown.contains("mtu 1400"), "{shown}");

    ship.docker.kill();
    ship.longshore.kill();
    ship.longshore.again();
    ship.docker.again();
    ship.ok(&["start", "web"]);
    eventually("the container is back", || {
        ship.is_running("sailor").then_some(())
    });
    both_families_reach(&ship);

    ship.ok(&["rm", "-f", "web", "sailor"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

/// Neighbours, the host, the world outside and the published port.
fn both_families_reach(ship: &Ship<'_>) {
    let shown = ship.exec("sailor", &["ip", "address", "show", "sea0"]);
    for part in ["mtu 1400", "inet 10.77.0.", "inet6 fd77::77/64"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let six = "{{.NetworkSettings.Networks.sea.GlobalIPv6Address}}";
    let web = ship.ok(&["inspect", "-f", six, "web"]);
    ship.ping("sailor", "web");
    let ping = |to: &str| ship.exec("sailor", &["ping", "-6", "-c", "1", "-w", "5", to]);
    ping(&web);
    ping("fd77::1");
    ship.exec("sailor", &["ping", "-c", "1", "-w", "5", "192.0.2.2"]);
    // The host itself reaches containers by either address.
    for address in [web.as_str(), "fd77::77"] {
        let words = ["busybox", "ping", "-6", "-c", "1", "-w", "5", address];
        ship.world.run(&words).ok();
    }
    assert_eq!(ship.fetch(8080, "motd"), "from the image");
}

#[test]
fn containers_pass_the_firewall_of_docker_20() {
    containers_pass_the_engines_firewall(Suite::Own);
}

#[test]
fn containers_pass_the_firewall_of_docker_26() {
    containers_pass_the_engines_firewall(Suite::Trixie);
}

#[test]
fn containers_pass_the_firewall_of_docker_28() {
    containers_pass_the_engines_firewall(Suite::Forky);
}

/// Dockerd as its users start it: it writes rules for networks of its own, and drops what else is forwarded.
fn containers_pass_the_engines_firewall(suite: Suite) {
    requires!(of suite; "dockerd", "iptables", "busybox");
    let world = World::of(suite, "firewall");
    let longshore = Longshore::start(&world, &NET);
    let docker = Dockerd::start_with(&world, "overlay2", &["--iptables=true"]);
    world.remember();
    docker.import();
    let mut ship = Ship {
        world: &world,
        longshore,
        containerd: None,
        docker,
    };
    // Docker sets its policy with the first network of its own.
    ship.ok(&["network", "create", "--subnet", "10.99.0.0/24", "theirs"]);
    let stranger = ["--name", "stranger", "--network", "theirs", "-p", "9090:80"];
    let serve = ["box:1", "httpd", "-f", "-p", "80", "-h", "/etc"];
    ship.run(&[&stranger[..], &serve].concat());
    drops_by_default(&ship);

    ship.make_network("sea", "10.77.0.0/24");
    let web = ["--name", "web", "--network", "sea", "-p", "8080:80"];
    ship.run(&[&web[..], &["--restart", "always"], &serve].concat());
    let sailor = ["--name", "sailor", "--network", "sea", "--restart", "always"];
    ship.run(&[&sailor[..], &LONG].concat());
    both_kinds_of_networks_work(&ship);

    ship.docker.kill();
    ship.docker.again();
    ship.ok(&["start", "stranger"]);
    eventually("the containers are back", || {
        (ship.is_running("sailor") && ship.is_running("web")).then_some(())
    });
    both_kinds_of_networks_work(&ship);
    ship.longshore.kill();
    ship.longshore.again();
    both_kinds_of_networks_work(&ship);

    ship.ok(&["rm", "-f", "web", "sailor"]);
    ship.ok(&["network", "rm", "sea"]);
    let rules = world.run(&["iptables", "-S", "DOCKER-USER"]).ok();
    assert!(!rules.contains("mark"), "{rules}");
    ship.ok(&["rm", "-f", "stranger"]);
    ship.ok(&["network", "rm", "theirs"]);
    ship.arrive();
}

/// What makes the test worth its name.
fn drops_by_default(ship: &Ship<'_>) {
    let rules = ship.world.run(&["iptables", "-S", "FORWARD"]).ok();
    assert!(rules.contains("-P FORWARD DROP"), "{rules}");
    assert!(rules.contains("DOCKER-USER"), "{rules}");
}

fn both_kinds_of_networks_work(ship: &Ship<'_>) {
    drops_by_default(ship);
    for container in ["sailor", "web", "stranger"] {
        ship.exec(container, &["ping", "-c", "1", "-w", "5", "192.0.2.2"]);
    }
    ship.ping("sailor", "web");
    assert_eq!(ship.fetch(8080, "motd"), "from the image");
    let theirs = eventually("the engine's own port is open", || {
        ship.world.fetch_outside(9090, "motd")
    });
    assert_eq!(theirs, "from the image");
    // Networks stay apart, whoever made them.
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    for (from, to) in [("sailor", "stranger"), ("stranger", "sailor")] {
        let to = ship.ok(&["inspect", "-f", address, to]);
        let words = ["exec", from, "ping", "-c", "1", "-W", "1", &to];
        ship.docker.docker(&words).refused();
    }
}

#[test]
fn a_hundred_containers_start_at_once_on_docker_20() {
    a_hundred_at_once(Suite::Own);
}

#[test]
fn a_hundred_containers_start_at_once_on_docker_26() {
    a_hundred_at_once(Suite::Trixie);
}

#[test]
fn a_hundred_containers_start_at_once_on_docker_28() {
    a_hundred_at_once(Suite::Forky);
}

/// How many clients speak to the engine at the same time.
const CLIENTS: usize = 10;

fn a_hundred_at_once(suite: Suite) {
    requires!(of suite; "dockerd", "busybox");
    let world = World::of(suite, "hundred");
    let ship = Ship::launch(&world, &NET, "overlay2");
    ship.make_network("sea", "10.77.0.0/24");
    let names: Vec<String> = (0..100).map(|number| format!("c{number:02}")).collect();
    let start = Instant::now();
    by_many(&names, |name| {
        let port = format!("{}:80", 20_000 + name[1..].parse::<u16>().unwrap());
        let own = ["--name", name, "--network", "sea", "-p", &port];
        ship.ok(&[&RUN[..], &own, &LONG].concat());
    });
    let up = start.elapsed();

    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let address = "{{.NetworkSettings.Networks.sea.IPAddress}}";
    let shown = ship.ok(&[&["inspect", "-f", address], &all[..]].concat());
    let different: BTreeSet<&str> = shown.lines().collect();
    assert_eq!(different.len(), 100, "{shown}");
    assert!(different.iter().all(|one| one.starts_with("10.77.0.")), "{shown}");
    let links = world
        .run(&["ip", "-oneline", "link", "show", "type", "veth"])
        .ok();
    assert_eq!(links.lines().count(), 101, "one each, and the uplink:\n{links}");
    for (from, to) in [("c00", "c99"), ("c99", "c00"), ("c42", "c41")] {
        ship.ping(from, to);
    }

    let start = Instant::now();
    by_many(&names, |name| {
        ship.ok(&["rm", "-f", name]);
    });
    let down = start.elapsed();
    println!("a hundred containers: {up:.1?} to start, {down:.1?} to remove");
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

/// Does something for each name, several at a time.
fn by_many(names: &[String], work: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for share in names.chunks(names.len().div_ceil(CLIENTS)) {
            scope.spawn(|| share.iter().for_each(|name| work(name)));
        }
    });
}
