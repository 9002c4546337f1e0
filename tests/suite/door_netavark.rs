//! The netavark door, driven with what Podman and netavark say.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::requires;
use crate::world::{Longshore, Podman, Suite, World, eventually};

/// One call of the plugin: its answer, or its error.
fn call(world: &World, words: &[&str], input: &Value) -> Result<Value, String> {
    let file = world.text(&format!("{}.json", words[0]));
    fs::write(&file, input.to_string()).unwrap();
    let plugin = world.text("longshore-netavark");
    let mut all = vec![
        "sh",
        "-c",
        "f=$1; shift; exec \"$0\" \"$@\" < \"$f\"",
        &plugin,
        &file,
    ];
    all.extend(words);
    let out = world.run(&all);
    let answer: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    if out.succeeded() {
        return Ok(answer);
    }
    let told = answer["error"].as_str();
    Err(told
        .unwrap_or_else(|| panic!("an error without its object: {out}"))
        .to_owned())
}

fn network(keys: &Value) -> Value {
    let mut network = json!({
        "name": "lnet", "id": "5f".repeat(32), "driver": "longshore-netavark",
        "created": "2024-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false, "dns_enabled": true,
        "labels": {"a": "b"}, "options": null,
    });
    for (key, value) in keys.as_object().unwrap() {
        network[key] = value.clone();
    }
    network
}

fn setup(network: &Value, container: &str, keys: &Value) -> Value {
    let mut setup = json!({
        "container_id": container, "container_name": container, "port_mappings": null, "network": network,
        "network_options": {"aliases": ["al"], "interface_name": "eth0", "static_ips": null, "static_mac": null},
    });
    for (key, value) in keys.as_object().unwrap() {
        setup[key] = value.clone();
    }
    setup
}

#[test]
fn a_container_of_podman_is_set_up_and_torn_down() {
    requires!("busybox");
    let world = World::new("netavark");
    let mut longshore = Longshore::start(&world, &["network", "ipam"]);
    symlink(env!("CARGO_BIN_EXE_longshore"), world.path("longshore-netavark")).unwrap();
    for name in ["one", "two"] {
        world.run(&["ip", "netns", "add", name]).ok();
    }
    world.run(&["mkdir", "-p", "/run/longshore/doors"]).ok();
    world.remember();
    let info = call(&world, &["info"], &json!({})).unwrap();
    assert_eq!(info["api_version"], "1.0.0");
    let range = json!({"start_ip": "10.66.0.128", "end_ip": "10.66.0.255"});
    let asked = network(&json!({"subnets": [{"subnet": "10.66.0.0/24", "lease_range": range}]}));
    let net = call(&world, &["create"], &asked).unwrap();
    assert_eq!(
        (&net["name"], &net["id"], &net["labels"]),
        (&asked["name"], &asked["id"], &asked["labels"])
    );
    assert_eq!(net["ipam_options"]["driver"], "longshore");

    let ports =
        json!([{"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 1}]);
    let one = setup(&net, "c1", &json!({"port_mappings": ports}));
    let block = call(&world, &["setup", "/run/netns/one"], &one).unwrap();
    let eth0 = &block["interfaces"]["eth0"];
    assert_eq!(eth0["subnets"][0]["ipnet"], "10.66.0.128/24", "{block}");
    let gateway = eth0["subnets"][0]["gateway"].as_str().unwrap();
    let options =
        json!({"interface_name": "eth0", "static_ips": ["10.66.0.5"], "static_mac": "aa:bb:cc:dd:ee:02"});
    let two = setup(&net, "c2", &json!({"network_options": options}));
    let block = call(&world, &["setup", "/run/netns/two"], &two).unwrap();
    assert_eq!(block["interfaces"]["eth0"]["subnets"][0]["ipnet"], "10.66.0.5/24");
    assert_eq!(block["interfaces"]["eth0"]["mac_address"], "aa:bb:cc:dd:ee:02");
    for to in ["10.66.0.128", gateway] {
        world
            .run(&["ip", "netns", "exec", "two", "busybox", "ping", "-c1", "-W5", to])
            .ok();
    }

    // `podman network reload`: the same link goes and comes.
    call(&world, &["teardown", "/run/netns/two"], &two).unwrap();
    call(&world, &["setup", "/run/netns/two"], &two).unwrap();
    // A namespace that is gone is no error, and the last one takes the network along.
    world.run(&["ip", "netns", "del", "one"]).ok();
    for _ in 0..2 {
        call(&world, &["teardown", "/run/netns/one"], &one).unwrap();
        call(&world, &["teardown", "/run/netns/two"], &two).unwrap();
    }
    world.run(&["ip", "netns", "add", "one"]).ok();
    eventually("everything is gone", || {
        world.leftovers().is_empty().then_some(())
    });
    let config = world.text("longshore.toml");
    let shown = world
        .run(&[env!("CARGO_BIN_EXE_longshore"), "status", "--config", &config])
        .ok();
    assert!(!shown.contains("subnet "), "{shown}");
    longshore.stop();
}

#[test]
fn wrong_networks_reach_the_user_as_a_sentence() {
    requires!("busybox");
    let world = World::new("netavark-bad");
    let mut longshore = Longshore::start(&world, &["network", "ipam"]);
    symlink(env!("CARGO_BIN_EXE_longshore"), world.path("longshore-netavark")).unwrap();
    world.run(&["ip", "netns", "add", "one"]).ok();
    world.run(&["mkdir", "-p", "/run/longshore/doors"]).ok();
    world.remember();
    let two = json!({"subnets": [{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]});
    let told = call(&world, &["create"], &network(&two)).unwrap_err();
    assert!(told.contains("2 subnets of one family"), "{told}");
    let told = call(&world, &["fly"], &json!({})).unwrap_err();
    assert!(told.contains("teardown NETNS"), "{told}");
    world
        .run(&["ip", "-n", "one", "link", "add", "eth0", "type", "veth"])
        .ok();
    let taken = call(
        &world,
        &["setup", "/run/netns/one"],
        &setup(&network(&json!({})), "c3", &json!({})),
    );
    assert!(taken.unwrap_err().contains("link eth0 is there already"));
    world.run(&["ip", "-n", "one", "link", "del", "eth0"]).ok();
    let red = setup(&network(&json!({"options": {"colour": "red"}})), "c1", &json!({}));
    let told = call(&world, &["setup", "/run/netns/one"], &red).unwrap_err();
    assert!(told.contains("colour"), "{told}");
    eventually("everything is gone", || {
        world.leftovers().is_empty().then_some(())
    });
    longshore.stop();
}

/// Podman whose plugin folder holds our door, and whose networks are kept in this world.
fn podman(world: &World) -> Podman<'_> {
    let podman = Podman::new(world);
    for folder in ["netavark-plugins", "networks"] {
        fs::create_dir_all(world.path(folder)).unwrap();
    }
    symlink(
        env!("CARGO_BIN_EXE_longshore"),
        world.path("netavark-plugins/longshore-netavark"),
    )
    .unwrap();
    let more = format!(
        "[network]\nnetwork_backend = \"netavark\"\nnetavark_plugin_dirs = [{:?}]\nnetwork_config_dir = {:?}\n",
        world.text("netavark-plugins"),
        world.text("networks")
    );
    let file = world.path("containers.conf");
    let before = fs::read_to_string(&file).unwrap();
    let before = before.replace("[engine]\n", "[engine]\nenable_port_reservation = false\n");
    fs::write(&file, before + &more).unwrap();
    podman
}

/// `podman run -d` in networks.
fn run(world: &World, podman: &Podman<'_>, words: &[&str]) {
    let cgroup = format!("--cgroup-parent={}", world.cgroup());
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let all = [&["run", "-d", &cgroup][..], &limits, words].concat();
    podman.ok(&all);
}

/// The daemon dies, a container leaves a network and comes back, and everything is removed.
fn goes_on_after_a_death(world: &World, podman: &Podman<'_>, longshore: &mut Longshore<'_>) {
    longshore.kill();
    longshore.again();
    eventually("the port answers again", || world.fetch_outside(8080, "motd"));
    podman.ok(&["network", "disconnect", "lnet", "two"]);
    podman.ok(&["network", "connect", "--ip", "10.66.0.77", "lnet", "two"]);
    let shown = podman.ok(&["exec", "two", "ip", "-o", "-4", "address"]);
    assert!(shown.contains("10.66.0.77/24"), "{shown}");
    podman.ok(&["rm", "-f", "-t", "0", "web", "two"]);
    podman.ok(&["network", "rm", "lnet", "anywhere"]);
    let config = world.text("longshore.toml");
    let shown = world
        .run(&[env!("CARGO_BIN_EXE_longshore"), "status", "--config", &config])
        .ok();
    assert!(
        !shown.contains("subnet ") && !shown.contains("network "),
        "{shown}"
    );
}

fn podman_has_our_networks(suite: Suite) {
    requires!(of suite; "podman", "busybox", "runc");
    let world = World::of(suite, "podman-net");
    let mut longshore = Longshore::start(&world, &["network", "ipam"]);
    world.run(&["mkdir", "-p", "/run/longshore/doors"]).ok();
    let podman = podman(&world);
    podman.import();
    world.remember();
    let driver = "longshore-netavark";
    podman.ok(&[
        "network",
        "create",
        "--driver",
        driver,
        "--subnet",
        "10.66.0.0/24",
        "lnet",
    ]);
    podman.ok(&["network", "create", "--driver", driver, "anywhere"]);
    let httpd = ["box:1", "httpd", "-f", "-p", "80", "-h", "/etc"];
    run(
        &world,
        &podman,
        &[
            &["--name", "web", "--network", "lnet", "-p", "8080:80"][..],
            &httpd,
        ]
        .concat(),
    );
    eventually("the port answers from outside", || {
        world.fetch_outside(8080, "motd")
    });
    assert_eq!(world.fetch(8080, "motd").as_deref(), Some("from the image"));
    let shown = podman.ok(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.Networks.lnet.IPAddress}}",
        "web",
    ]);
    assert_eq!(shown, "10.66.0.2");
    run(
        &world,
        &podman,
        &[
            "--name",
            "two",
            "--network",
            "lnet,anywhere",
            "box:1",
            "sleep",
            "100000",
        ],
    );
    let fetched = podman.ok(&["exec", "two", "wget", "-qO-", "http://10.66.0.2/motd"]);
    assert_eq!(fetched, "from the image");
    let links = podman.ok(&["exec", "two", "ip", "-o", "link"]);
    assert!(links.contains("eth0") && links.contains("eth1"), "{links}");
    goes_on_after_a_death(&world, &podman, &mut longshore);
    longshore.stop();
}

#[test]
fn podman_5_4_has_our_networks() {
    podman_has_our_networks(Suite::Trixie);
}

#[test]
fn podman_5_8_has_our_networks() {
    podman_has_our_networks(Suite::Forky);
}
