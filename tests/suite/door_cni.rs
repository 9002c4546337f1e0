//! The CNI door, driven as runtimes drive it, alone and in a list with Debian's plugins.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::requires;
use crate::world::cni::{Cni, Container, list};
use crate::world::{Containerd, Longshore, World, eventually, saved_busybox};

const ONE: Container<'_> = Container {
    id: "one",
    link: "eth0",
};
const TWO: Container<'_> = Container {
    id: "two",
    link: "eth0",
};

fn namespaces(world: &World, names: &[&str]) {
    for name in names {
        world.run(&["ip", "netns", "add", name]).ok();
        world.run(&["ip", "-n", name, "link", "set", "lo", "up"]).ok();
    }
}

fn no_namespaces(world: &World, names: &[&str]) {
    for name in names {
        world.run(&["ip", "netns", "del", name]).ok();
    }
}

fn address(result: &Value) -> String {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().to_owned()
}

/// Serves the file `hello` from a namespace.
fn serve(world: &World, name: &str, port: &str) -> crate::world::Process {
    let folder = world.text("www");
    fs::create_dir_all(&folder).unwrap();
    fs::write(world.path("www/hello"), "ahoy\n").unwrap();
    let netns = format!("--net=/run/netns/{name}");
    let words = [
        "nsenter", &netns, "busybox", "httpd", "-f", "-p", port, "-h", &folder,
    ];
    world.start(&words, &[], "httpd.log")
}

fn status(world: &World, words: &[&str]) -> String {
    let config = world.text("longshore.toml");
    let all = [env!("CARGO_BIN_EXE_longshore"), "status", "--config", &config];
    world.run(&[&all, words].concat()).ok()
}

fn start(world: &World) -> Longshore<'_> {
    let longshore = Longshore::start(world, &["network", "ipam"]);
    // The folder of locks stays.
    world.run(&["mkdir", "-p", "/run/longshore/doors"]).ok();
    longshore
}

/// Two containers of a network, from nothing to nothing.
fn lives(world: &World, cni: &Cni<'_>, version: &str) {
    let keys = json!({"subnets": ["10.71.0.0/24", "fd71::/64"], "options": {"mtu": "1400"}});
    let lan = list(version, "lan", &keys);
    let result = cni.add(&lan, &ONE).unwrap();
    assert_eq!(result["cniVersion"], version);
    assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
    let inner = usize::try_from(result["ips"][0]["interface"].as_u64().unwrap()).unwrap();
    assert_eq!(result["interfaces"][inner]["sandbox"], "/run/netns/one");
    let link = world.run(&["ip", "-n", "one", "-o", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 1400") && link.contains(result["interfaces"][inner]["mac"].as_str().unwrap()));
    let other = cni.add(&lan, &TWO).unwrap();
    assert_ne!(address(&result), address(&other));
    let to = address(&other);
    world
        .run(&["ip", "netns", "exec", "one", "busybox", "ping", "-c1", "-W5", &to])
        .ok();
    if version >= "0.4.0" {
        cni.check(&lan, &ONE, &result).unwrap();
        world
            .run(&["ip", "-n", "one", "link", "set", "eth0", "down"])
            .ok();
        assert_eq!(cni.check(&lan, &ONE, &result).unwrap_err()["code"], 100);
    }
    let again = cni.call("ADD", &TWO, "/run/netns/two", &first(&lan)).unwrap_err();
    assert!(
        again["msg"]
            .as_str()
            .unwrap()
            .contains("link eth0 is there already"),
        "{again}"
    );
    world
        .run(&[
            "ip",
            "netns",
            "exec",
            "two",
            "busybox",
            "ping",
            "-c1",
            "-W5",
            "10.71.0.1",
        ])
        .ok();
    // The same name can be had at once, and a second DEL finds nothing.
    cni.delete(&lan, &ONE, Some(&result));
    cni.add(&lan, &ONE).unwrap();
    cni.delete(&lan, &ONE, None);
    cni.delete(&lan, &ONE, None);
    cni.delete(&lan, &TWO, Some(&other));
    world.assert_nothing_left();
    assert!(!status(world, &[]).contains("10.71."), "pools are left");
}

#[test]
fn a_container_is_added_checked_and_deleted_in_every_version() {
    requires!("busybox");
    let world = World::new("cni");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &[]);
    namespaces(&world, &["one", "two"]);
    world.remember();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        lives(&world, &cni, version);
    }
    longshore.stop();
}

/// The first plugin's definition as the runtime hands it out.
fn first(list: &Value) -> Value {
    let mut definition = list["plugins"][0].clone();
    definition["cniVersion"] = list["cniVersion"].clone();
    definition["name"] = list["name"].clone();
    definition
}

#[test]
fn ports_are_published_by_ourselves_and_shown() {
    requires!("busybox");
    let world = World::new("cni-ports");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &[]);
    namespaces(&world, &["one"]);
    world.remember();
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let keys = json!({"capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports}});
    let lan = list("1.1.0", "lan", &keys);
    let result = cni.add(&lan, &ONE).unwrap();
    let server = serve(&world, "one", "80");
    eventually("the port answers from outside", || {
        world.fetch_outside(8080, "hello")
    });
    assert_eq!(world.fetch(8080, "hello").as_deref(), Some("ahoy"));
    cni.check(&lan, &ONE, &result).unwrap();
    let to = address(&result);
    let shown = status(&world, &["--ports"]);
    assert!(shown.contains(&format!("0.0.0.0:8080/tcp -> {to}:80")), "{shown}");
    let document: Value = serde_json::from_str(&status(&world, &["--json"])).unwrap();
    let endpoint = &document[0]["Status"]["Networks"][0]["Endpoints"][0];
    assert_eq!(endpoint["Ports"][0]["Host"], "0.0.0.0:8080", "{document}");
    assert_eq!(endpoint["Sandbox"], "/run/netns/one");
    // A daemon that died and came back publishes it still, and a DEL after that takes it back.
    longshore.kill();
    longshore.again();
    eventually("the port answers again", || world.fetch_outside(8080, "hello"));
    server.kill();
    cni.delete(&lan, &ONE, None);
    assert_eq!(world.fetch_outside(8080, "hello"), None);
    world.assert_nothing_left();
    longshore.stop();
}

#[test]
fn debians_portmap_and_bandwidth_work_behind_it() {
    requires!("busybox", "iptables", "tc", "portmap", "bandwidth");
    let world = World::new("cni-chain");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &["portmap", "bandwidth"]);
    namespaces(&world, &["one"]);
    world.remember();
    let ports = json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]);
    let chain = json!({"cniVersion": "1.0.0", "name": "lan", "plugins": [
        {"type": "longshore-cni", "subnets": ["10.71.0.0/24", "fd71::/64"]},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true},
         "runtimeConfig": {"portMappings": ports}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true},
         "runtimeConfig": {"bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000}}},
    ]});
    let result = cni.add(&chain, &ONE).unwrap();
    let server = serve(&world, "one", "80");
    eventually("the port answers from outside", || {
        world.fetch_outside(8081, "hello")
    });
    let queues = world.run(&["tc", "qdisc"]).ok();
    assert!(queues.contains("tbf") && queues.contains("80Mbit"), "{queues}");
    // Debian's portmap 1.1 looks for IPv4 rules among those of IPv6 and never finds them.
    let mut checked = chain.clone();
    checked["plugins"].as_array_mut().unwrap().remove(1);
    cni.check(&checked, &ONE, &result).unwrap();
    server.kill();
    cni.delete(&chain, &ONE, Some(&result));
    assert_eq!(world.fetch_outside(8081, "hello"), None);
    world.assert_nothing_left();
    longshore.stop();
}

#[test]
fn what_died_on_the_way_is_collected() {
    requires!("busybox");
    let world = World::new("cni-gc");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &[]);
    namespaces(&world, &["one", "two"]);
    world.remember();
    let lan = list("1.1.0", "lan", &json!({}));
    let definition = first(&lan);
    let nobody = Container { id: "", link: "" };
    cni.call("STATUS", &nobody, "", &definition).unwrap();
    let version = cni.call("VERSION", &nobody, "", &definition).unwrap();
    assert_eq!(version["supportedVersions"].as_array().unwrap().len(), 5);
    cni.add(&lan, &ONE).unwrap();
    let kept = cni.add(&lan, &TWO).unwrap();
    // A container whose namespace went, and of whom no runtime ever says DEL.
    no_namespaces(&world, &["one"]);
    longshore.kill();
    let refused = cni.call("ADD", &ONE, "/run/netns/two", &definition).unwrap_err();
    assert!(
        [11, 100].contains(&refused["code"].as_u64().unwrap()),
        "{refused}"
    );
    assert_eq!(
        cni.call("STATUS", &nobody, "", &definition).unwrap_err()["code"],
        50
    );
    assert_eq!(cni.call("DEL", &ONE, "", &definition).unwrap_err()["code"], 11);
    longshore.again();
    let mut collect = definition.clone();
    collect["cni.dev/valid-attachments"] = json!([{"containerID": "two", "ifname": "eth0"}]);
    cni.call("GC", &nobody, "", &collect).unwrap();
    cni.check(&lan, &TWO, &kept).unwrap();
    let shown = status(&world, &[]);
    assert_eq!(shown.matches("endpoint ").count(), 1, "{shown}");
    assert_eq!(
        shown.matches("    address ").count(),
        2,
        "gateway and one: {shown}"
    );
    collect["cni.dev/valid-attachments"] = json!([]);
    cni.call("GC", &nobody, "", &collect).unwrap();
    namespaces(&world, &["one"]);
    world.assert_nothing_left();
    assert!(!status(&world, &[]).contains("subnet "), "a pool is left");
    longshore.stop();
}

/// Namespace, definition, CNI's code, and a part of the sentence.
fn bad_calls() -> Vec<(&'static str, Value, u32, &'static str)> {
    let with = |keys: Value| first(&list("1.1.0", "lan", &keys));
    vec![
        ("/proc/1/ns/net", with(json!({})), 7, "the host's own namespace"),
        ("/run/netns/none", with(json!({})), 7, "/run/netns/none"),
        ("/etc/passwd", with(json!({})), 7, "no namespace"),
        (
            "/run/netns/one",
            with(json!({"options": {"colour": "red"}})),
            100,
            "colour",
        ),
        (
            "/run/netns/one",
            with(json!({"runtimeConfig": {"ips": ["192.0.2.77"]}})),
            7,
            "192.0.2.77",
        ),
        (
            "/run/netns/one",
            with(json!({"subnets": ["10.71.0.0/24"], "runtimeConfig": {"ips": ["10.71.0.1"]}})),
            100,
            "held already",
        ),
        (
            "/run/netns/one",
            with(json!({"subnets": [{"subnet": "10.71.0.0/24", "gateway": "10.72.0.1"}]})),
            100,
            "outside pool",
        ),
        (
            "/run/netns/one",
            with(json!({"routes": [{"dst": "10.99.0.0/16", "gw": "192.0.2.9"}]})),
            11,
            "add route",
        ),
        (
            "/run/netns/one",
            with(json!({"socket": "/run/none.sock"})),
            11,
            "/run/none.sock",
        ),
    ]
}

#[test]
fn bad_calls_change_nothing() {
    requires!("busybox");
    let world = World::new("cni-bad");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &[]);
    namespaces(&world, &["one"]);
    world.remember();
    for (netns, definition, code, part) in bad_calls() {
        let refusal = cni.call("ADD", &ONE, netns, &definition).unwrap_err();
        assert_eq!(refusal["code"], code, "{refusal}");
        assert!(refusal["msg"].as_str().unwrap().contains(part), "{refusal}");
        world.assert_nothing_left();
        let shown = status(&world, &[]);
        assert!(
            !shown.contains("subnet ") && !shown.contains("network "),
            "{part}: {shown}"
        );
        eventually("the namespace is as before", || {
            let now = world.run(&["ip", "-n", "one", "-o", "link"]).ok();
            (now.lines().count() == 1).then_some(())
        });
    }
    longshore.stop();
}

/// Doors that die on the way, one for each container; then the call is said again, as runtimes do.
fn die_on_the_way(world: &World, cni: &Cni<'_>, lan: &Value, all: &[&str]) {
    let file = world.text("definition.json");
    fs::write(&file, first(lan).to_string()).unwrap();
    let plugin = world.text("cni-bin/longshore-cni");
    std::thread::scope(|scope| {
        for (nth, id) in all.iter().enumerate() {
            let (file, plugin) = (&file, &plugin);
            scope.spawn(move || {
                let container = Container { id, link: "eth0" };
                let seconds = format!("0.{:03}", 5 + nth * 3);
                let netns = format!("/run/netns/{id}");
                for command in ["DEL", "ADD"] {
                    let envs = [
                        ("CNI_COMMAND", command),
                        ("CNI_CONTAINERID", id),
                        ("CNI_NETNS", netns.as_str()),
                        ("CNI_IFNAME", "eth0"),
                        ("CNI_PATH", "/none"),
                    ];
                    let script = "exec \"$0\" < \"$1\"";
                    let words = [
                        "timeout", "-s", "KILL", &seconds, "sh", "-c", script, plugin, file,
                    ];
                    world.run_with(&words, &envs);
                }
                cni.delete(lan, &container, None);
            });
        }
    });
}

#[test]
fn a_storm_of_containers_with_killed_doors_leaves_nothing() {
    requires!("busybox");
    let world = World::new("cni-storm");
    let mut longshore = start(&world);
    let cni = Cni::new(&world, &[]);
    let names: Vec<String> = (0..16).map(|n| format!("box{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    namespaces(&world, &all);
    world.remember();
    let lan = list("1.1.0", "lan", &json!({"subnets": ["10.71.0.0/26"]}));
    for round in 0..2 {
        let results: Vec<_> = std::thread::scope(|scope| {
            let add = |id: &str| cni.add(&lan, &Container { id, link: "eth0" });
            let threads: Vec<_> = all.iter().map(|id| scope.spawn(move || add(id))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut seen = BTreeSet::new();
        for result in results {
            let result = result.unwrap();
            assert!(seen.insert(address(&result)), "given twice: {result}");
        }
        assert_eq!(seen.len(), all.len(), "round {round}");
        die_on_the_way(&world, &cni, &lan, &all);
        world.assert_nothing_left();
        assert!(!status(&world, &[]).contains("subnet "), "a pool is left");
    }
    longshore.stop();
}

#[test]
fn containerds_runtime_gives_a_container_our_network() {
    requires!("containerd", "ctr", "runc", "busybox", "sha256sum");
    let world = World::new("cni-ctr");
    let mut longshore = Longshore::start(&world, &["network", "ipam", "snapshot"]);
    let _cni = Cni::new(&world, &[]);
    // `ctr` knows these two folders and no other; in this world they are the test's own.
    let bin = world.text("cni-bin");
    let folder = world.text("net.d");
    fs::create_dir_all(&folder).unwrap();
    let keys = json!({"subnets": ["10.71.0.0/24"]});
    fs::write(
        world.path("net.d/10-lan.conflist"),
        list("1.0.0", "lan", &keys).to_string(),
    )
    .unwrap();
    let script = "mount --bind \"$1\" /etc/cni/net.d && mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin \
                  && mount --bind \"$2\" /opt/cni/bin && mkdir -p /run/longshore/doors";
    world.run(&["sh", "-c", script, "sh", &folder, &bin]).ok();
    let socket = world.path("snapshots/longshore.sock");
    let mut containerd = Containerd::start(&world, &socket);
    let file = saved_busybox(&world);
    containerd.ok(&["images", "import", "--snapshotter", "longshore", &file]);
    world.remember();
    let cgroup = format!("{}/run", world.cgroup());
    let words = [
        "run",
        "--rm",
        "--cni",
        "--snapshotter",
        "longshore",
        "--cgroup",
        &cgroup,
        "--env",
        "PATH=/bin",
        "example.org/box:1",
        "r1",
        "/bin/busybox",
        "ip",
        "-o",
        "address",
        "show",
        "eth0",
    ];
    let shown = containerd.ok(&words);
    assert!(shown.contains("10.71.0.2/24"), "{shown}");
    eventually("nothing of it is left", || {
        let shown = status(&world, &[]);
        (!shown.contains("network ") && !shown.contains("subnet ")).then_some(())
    });
    containerd.ok(&["images", "rm", "--sync", "example.org/box:1"]);
    containerd.stop();
    longshore.stop();
}
