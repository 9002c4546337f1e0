//! Voyages on a real dockerd with longshore as its storage, network, address and volume driver.

use crate::requires;
use crate::ship::{LONG, NET, RUN, Ship};
use crate::world::{ALL, Dockerd, Longshore, Suite, World, eventually};

#[test]
fn the_whole_voyage_leaves_nothing_behind() {
    the_whole_voyage(Suite::Own, "longshore");
}

#[test]
fn the_whole_voyage_leaves_nothing_behind_on_docker_26() {
    the_whole_voyage(Suite::Trixie, "longshore");
}

/// Docker 28 takes no storage plugins.
#[test]
fn the_whole_voyage_leaves_nothing_behind_on_docker_28() {
    the_whole_voyage(Suite::Forky, "overlay2");
}

#[test]
fn the_whole_voyage_leaves_nothing_behind_on_the_image_store_of_docker_28() {
    requires!(of Suite::Forky; "dockerd", "containerd", "busybox");
    let world = World::of(Suite::Forky, "store");
    let kinds = ["snapshot", "network", "ipam", "volume"];
    the_voyage_of(Ship::launch_on_containerd(&world, &kinds));
}

fn the_whole_voyage(suite: Suite, storage: &'static str) {
    requires!(of suite; "dockerd", "busybox");
    let world = World::of(suite, "voyage");
    the_voyage_of(Ship::launch(&world, &ALL, storage));
}

fn the_voyage_of(mut ship: Ship<'_>) {
    ship.make_network("sea", "10.77.0.0/24");
    ship.make_volume("hold");
    let web = [
        "--name",
        "web",
        "--network",
        "sea",
        "-p",
        "8080:80",
        "-v",
        "hold:/data",
    ];
    ship.run(&[&web[..], &["box:1", "httpd", "-f", "-p", "80", "-h", "/data"]].concat());
    let sailor = ["--name", "sailor", "--network", "sea", "-v", "hold:/data"];
    ship.run(&[&sailor[..], &["--restart", "always"], &LONG].concat());

    two_containers_meet(&ship);
    copying_leaves_the_volume_mounted(&ship);
    a_commit_becomes_an_image(&ship);
    an_image_is_saved_and_loaded(&ship);
    an_image_is_built(&ship);
    networks_are_connected_and_left(&ship);
    addresses_are_as_asked_for(&ship);
    the_engine_restarts(&mut ship);
    the_engine_is_killed(&mut ship);
    longshore_is_killed(&mut ship);

    ship.ok(&["rm", "-f", "web", "sailor"]);
    ship.ok(&["volume", "rm", "hold"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

fn two_containers_meet(ship: &Ship<'_>) {
    ship.ping("sailor", "web");
    ship.ping("web", "sailor");
    // The neighbour has no route back, so the address must have been translated.
    ship.exec("sailor", &["ping", "-c", "1", "-w", "5", "192.0.2.2"]);
    ship.exec("sailor", &["sh", "-c", "echo cargo > /data/cargo"]);
    assert_eq!(ship.exec("web", &["cat", "/data/cargo"]), "cargo");
    assert_eq!(ship.fetch(8080, "cargo"), "cargo");
}

fn copying_leaves_the_volume_mounted(ship: &Ship<'_>) {
    let file = ship.world.text("letter");
    std::fs::write(&file, "dear all\n").unwrap();
    ship.ok(&["cp", &file, "web:/data/letter"]);
    ship.ok(&["cp", "web:/data/letter", &ship.world.text("copy")]);
    let copy = std::fs::read_to_string(ship.world.path("copy")).unwrap();
    assert_eq!(copy, "dear all\n");
    let refusal = ship.removal_refused("hold");
    assert!(refusal.contains("hold"), "{refusal}");
    assert_eq!(ship.exec("web", &["cat", "/data/letter"]), "dear all");
    assert_eq!(ship.fetch(8080, "letter"), "dear all");
    // A container of its own sees what the others see: nobody looks into an unmounted folder.
    let words = ["run", "--rm", "-v", "hold:/data", "box:1", "cat", "/data/letter"];
    assert_eq!(ship.ok(&words), "dear all");
}

fn a_commit_becomes_an_image(ship: &Ship<'_>) {
    let change = "echo ashore > /etc/motd; rm /etc/passwd; mkdir /etc/log; touch /etc/log/day";
    ship.exec("sailor", &["sh", "-c", change]);
    let diff = ship.ok(&["diff", "sailor"]);
    let mut lines: Vec<&str> = diff.lines().filter(|line| line.contains("/etc")).collect();
    lines.sort_unstable();
    let expected = [
        "A /etc/log",
        "A /etc/log/day",
        "C /etc",
        "C /etc/motd",
        "D /etc/passwd",
    ];
    assert_eq!(lines, expected, "{diff}");
    ship.ok(&["commit", "-m", "went ashore", "sailor", "box:2"]);
    let history = ship.ok(&["history", "box:2"]);
    assert!(history.contains("went ashore"), "{history}");
    check_second_image(ship);
}

fn check_second_image(ship: &Ship<'_>) {
    let show = "cat /etc/motd; ls /etc/log; test -e /etc/passwd || echo no passwd";
    let words = ["run", "--rm", "--network", "none", "box:2", "sh", "-c", show];
    assert_eq!(ship.ok(&words), "ashore\nday\nno passwd");
}

fn an_image_is_saved_and_loaded(ship: &Ship<'_>) {
    let file = ship.world.text("saved.tar");
    let id = ship.ok(&["inspect", "-f", "{{.Id}}", "box:2"]);
    ship.ok(&["save", "-o", &file, "box:2"]);
    ship.ok(&["rmi", "box:2"]);
    ship.ok(&["load", "-i", &file]);
    assert_eq!(ship.ok(&["inspect", "-f", "{{.Id}}", "box:2"]), id);
    check_second_image(ship);
    ship.ok(&["rmi", "box:2"]);
}

fn an_image_is_built(ship: &Ship<'_>) {
    let folder = ship.world.path("build");
    std::fs::create_dir_all(&folder).unwrap();
    let steps = "FROM box:1\nCOPY letter /mail/letter\nRUN rm /etc/motd && echo signed >> /mail/letter\n\
                 CMD [\"cat\", \"/mail/letter\"]\n";
    std::fs::write(folder.join("Dockerfile"), steps).unwrap();
    std::fs::write(folder.join("letter"), "dear all\n").unwrap();
    let folder = ship.world.text("build");
    ship.ok(&["build", "--network", "none", "-t", "mail:1", &folder]);
    let run = ["run", "--rm", "--network", "none", "mail:1"];
    assert_eq!(ship.ok(&run), "dear all\nsigned");
    let looked = ship.ok(&[&run[..], &["ls", "/etc"]].concat());
    assert!(looked.contains("passwd") && !looked.contains("motd"), "{looked}");
    ship.ok(&["rmi", "mail:1"]);
}

fn networks_are_connected_and_left(ship: &Ship<'_>) {
    ship.make_network("lagoon", "10.78.0.0/24");
    ship.ok(&["network", "connect", "--ip", "10.78.0.9", "lagoon", "sailor"]);
    let addresses = ship.exec("sailor", &["ip", "-4", "address"]);
    assert!(addresses.contains("10.78.0.9/24"), "{addresses}");
    ship.ping("sailor", "web");
    ship.run(&[&["--name", "diver", "--network", "lagoon"], &LONG[..]].concat());
    ship.ping("diver", "sailor");
    ship.ok(&["network", "disconnect", "lagoon", "sailor"]);
    let addresses = ship.exec("sailor", &["ip", "-4", "address"]);
    assert!(!addresses.contains("10.78.0.9/24"), "{addresses}");
    ship.ping("sailor", "web");
    ship.ok(&["rm", "-f", "diver"]);
    ship.ok(&["network", "rm", "lagoon"]);
}

fn addresses_are_as_asked_for(ship: &Ship<'_>) {
    let asked = ["--ip", "10.77.0.50", "--mac-address", "02:42:0a:4d:00:99"];
    let name = ["--name", "purser", "--network", "sea"];
    ship.run(&[&name[..], &asked, &LONG].concat());
    let shown = ship.exec("purser", &["ip", "address"]);
    assert!(shown.contains("10.77.0.50/24"), "{shown}");
    assert!(shown.contains("02:42:0a:4d:00:99"), "{shown}");
    ship.ping("sailor", "purser");
    ship.ok(&["rm", "-f", "purser"]);
}

fn the_engine_restarts(ship: &mut Ship<'_>) {
    ship.docker.stop();
    ship.docker.again();
    ship.ok(&["start", "web"]);
    all_is_well(ship);
}

fn the_engine_is_killed(ship: &mut Ship<'_>) {
    ship.docker.kill();
    ship.docker.again();
    ship.ok(&["start", "web"]);
    all_is_well(ship);
}

fn longshore_is_killed(ship: &mut Ship<'_>) {
    // Docker asks its storage driver for every `exec`, so the ping goes past it.
    let pid = ship.ok(&["inspect", "-f", "{{.State.Pid}}", "sailor"]);
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let web = ship.ok(&["inspect", "-f", address, "web"]);
    ship.longshore.kill();
    assert_eq!(ship.fetch(8080, "cargo"), "cargo", "while longshore is away");
    let ping = ["busybox", "ping", "-c", "1", "-w", "5", &web];
    ship.world
        .run(&[&["nsenter", "-t", &pid, "-n", "--"], &ping[..]].concat())
        .ok();
    ship.longshore.again();
    all_is_well(ship);
    ship.ok(&["restart", "web"]);
    all_is_well(ship);
}

/// Both containers run, meet, share the volume and are reached from outside.
#[track_caller]
fn all_is_well(ship: &Ship<'_>) {
    eventually("both containers run", || {
        (ship.is_running("web") && ship.is_running("sailor")).then_some(())
    });
    ship.ping("sailor", "web");
    ship.ping("web", "sailor");
    assert_eq!(ship.exec("sailor", &["cat", "/data/cargo"]), "cargo");
    assert_eq!(ship.fetch(8080, "letter"), "dear all");
    assert!(ship.removal_refused("hold").contains("hold"));
}

#[test]
fn a_volume_outlives_its_containers_and_a_killed_engine() {
    a_volume_outlives_all(Suite::Own);
}

#[test]
fn a_volume_outlives_its_containers_and_a_killed_docker_26() {
    a_volume_outlives_all(Suite::Trixie);
}

#[test]
fn a_volume_outlives_its_containers_and_a_killed_docker_28() {
    a_volume_outlives_all(Suite::Forky);
}

fn a_volume_outlives_all(suite: Suite) {
    requires!(of suite; "dockerd", "busybox");
    let world = World::of(suite, "volume");
    let mut ship = Ship::launch(&world, &["volume"], "overlay2");
    ship.make_volume("hold");
    let run = ["run", "--rm", "--network", "none", "-v", "hold:/d", "box:1"];
    ship.ok(&[&run[..], &["sh", "-c", "echo one > /d/file"]].concat());
    assert_eq!(ship.ok(&[&run[..], &["cat", "/d/file"]].concat()), "one");
    let keeper = ["--name", "keeper", "--network", "none", "-v", "hold:/d"];
    ship.run(&[&keeper[..], &["--restart", "always"], &LONG].concat());

    ship.docker.kill();
    ship.docker.again();
    eventually("the container is back", || {
        ship.is_running("keeper").then_some(())
    });
    assert_eq!(ship.exec("keeper", &["cat", "/d/file"]), "one");
    ship.ok(&["cp", "keeper:/d/file", &world.text("file")]);
    assert!(ship.removal_refused("hold").contains("hold"));
    let listed = ship.ok(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]);
    assert_eq!(listed, "longshore hold");

    ship.longshore.kill();
    ship.longshore.again();
    assert_eq!(ship.exec("keeper", &["cat", "/d/file"]), "one");
    a_volume_is_shared_by_another_container(&ship);
    ship.ok(&["rm", "-f", "keeper"]);
    volumes_are_inspected_and_pruned(&ship);
    assert_eq!(ship.ok(&["volume", "ls", "-q"]), "");
    ship.arrive();
}

fn a_volume_is_shared_by_another_container(ship: &Ship<'_>) {
    let heir = ["--name", "heir", "--network", "none", "--volumes-from", "keeper"];
    ship.run(&[&heir[..], &LONG].concat());
    ship.exec("heir", &["sh", "-c", "echo two >> /d/file"]);
    assert_eq!(ship.exec("keeper", &["cat", "/d/file"]), "one\ntwo");
    let letter = ship.world.text("letter");
    std::fs::write(&letter, "dear all\n").unwrap();
    ship.ok(&["cp", &letter, "heir:/d/letter"]);
    let show = "{{.Status.holds}} {{.Mountpoint}}";
    let shown = ship.ok(&["volume", "inspect", "-f", show, "hold"]);
    assert!(
        shown.starts_with(&format!("2 {}", ship.world.text("state"))),
        "{shown}"
    );
    ship.ok(&["stop", "heir"]);
    // Copying mounts and unmounts; a stopped container's volume must come along, a running one's must stay.
    ship.ok(&["cp", "heir:/d/letter", &ship.world.text("back")]);
    let back = std::fs::read_to_string(ship.world.path("back")).unwrap();
    assert_eq!(back, "dear all\n");
    assert_eq!(ship.exec("keeper", &["cat", "/d/letter"]), "dear all");
    ship.ok(&["rm", "heir"]);
    assert!(ship.removal_refused("hold").contains("hold"));
}

fn volumes_are_inspected_and_pruned(ship: &Ship<'_>) {
    let show = "{{.Driver}} {{.Scope}} {{.Status.holds}} {{.Mountpoint}}";
    let shown = ship.ok(&["volume", "inspect", "-f", show, "hold"]);
    assert_eq!(
        shown, "longshore local 0",
        "a volume has a path while somebody holds it"
    );
    // Docker prunes volumes of its own driver only: a plugin's may be in use on another host.
    ship.ok(&["volume", "prune", "-f"]);
    ship.ok(&["system", "prune", "-f", "--volumes"]);
    assert_eq!(ship.ok(&["volume", "ls", "-q"]), "hold");
    ship.ok(&["volume", "rm", "hold"]);
}

#[test]
fn containers_of_a_network_meet_on_an_engine_with_its_own_storage() {
    requires!("dockerd", "busybox");
    let world = World::new("network");
    let mut ship = Ship::launch(&world, &NET, "vfs");
    ship.make_network("sea", "10.77.0.0/24");
    let web = ["--name", "web", "--network", "sea", "-p", "8080:80"];
    ship.run(&[&web[..], &["box:1", "httpd", "-f", "-p", "80", "-h", "/etc"]].concat());
    ship.run(&[&["--name", "sailor", "--network", "sea"], &LONG[..]].concat());
    ship.ping("sailor", "web");
    assert_eq!(ship.fetch(8080, "motd"), "from the image");

    ship.longshore.kill();
    ship.ping("sailor", "web");
    assert_eq!(ship.fetch(8080, "motd"), "from the image");
    ship.longshore.again();
    ship.ping("web", "sailor");
    ship.ok(&["stop", "web"]);
    assert_eq!(world.fetch_outside(8080, "motd"), None, "the port is closed");
    ship.ok(&["rm", "-f", "web", "sailor"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

#[test]
fn containers_go_on_while_a_live_restoring_engine_restarts() {
    live_restore(Suite::Own, "longshore");
}

#[test]
fn containers_go_on_while_a_live_restoring_docker_26_restarts() {
    live_restore(Suite::Trixie, "longshore");
}

#[test]
fn containers_go_on_while_a_live_restoring_docker_28_restarts() {
    live_restore(Suite::Forky, "overlay2");
}

fn live_restore(suite: Suite, storage: &'static str) {
    requires!(of suite; "dockerd", "busybox");
    let world = World::of(suite, "live");
    let longshore = Longshore::start(&world, &ALL);
    let docker = Dockerd::start_with(&world, storage, &["--live-restore"]);
    world.remember();
    docker.import();
    let mut ship = Ship {
        world: &world,
        longshore,
        containerd: None,
        docker,
    };
    ship.make_network("sea", "10.77.0.0/24");
    ship.make_volume("hold");
    let web = [
        "--name",
        "web",
        "--network",
        "sea",
        "-p",
        "8080:80",
        "-v",
        "hold:/data",
    ];
    ship.run(&[&web[..], &["box:1", "httpd", "-f", "-p", "80", "-h", "/data"]].concat());
    ship.exec("web", &["sh", "-c", "echo cargo > /data/cargo"]);
    let pid = ship.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]);

    ship.docker.stop();
    assert_eq!(ship.fetch(8080, "cargo"), "cargo", "without an engine");
    ship.docker.again();
    ship.docker.kill();
    assert_eq!(ship.fetch(8080, "cargo"), "cargo", "with a killed engine");
    ship.docker.again();
    assert_eq!(ship.ok(&["inspect", "-f", "{{.State.Pid}}", "web"]), pid);
    assert_eq!(ship.exec("web", &["cat", "/data/cargo"]), "cargo");
    assert_eq!(ship.fetch(8080, "cargo"), "cargo");
    ship.ok(&["rm", "-f", "web"]);
    ship.ok(&["volume", "rm", "hold"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

#[test]
fn layers_are_shared_and_removed_one_by_one() {
    requires!("dockerd", "busybox");
    let world = World::new("layers");
    let ship = Ship::launch(&world, &["graph"], "longshore");
    let mut image = "box:1".to_owned();
    for day in 1..=6 {
        let (name, next) = (format!("day{day}"), format!("log:{day}"));
        let write = format!("cat /log/* 2>/dev/null; mkdir -p /log; echo {day} > /log/{day}");
        let words = [
            "run",
            "--name",
            &name,
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            &write,
        ];
        let seen = ship.ok(&words);
        assert_eq!(seen.lines().count(), day - 1, "{seen}");
        ship.ok(&["commit", &name, &next]);
        ship.ok(&["rm", &name]);
        image = next;
    }
    let run = ["run", "--rm", "--network", "none", "log:6", "ls", "/log"];
    assert_eq!(ship.ok(&run), "1\n2\n3\n4\n5\n6");
    let run = ["run", "--rm", "--network", "none", "log:3", "ls", "/log"];
    assert_eq!(ship.ok(&run), "1\n2\n3");
    for day in (1..=6).rev() {
        ship.ok(&["rmi", &format!("log:{day}")]);
    }
    ship.arrive();
}

/// A sentence of a refusal: whom it names, and that it is one of ours.
#[track_caller]
fn says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

#[test]
fn refusals_say_what_was_tried_on_what_and_why() {
    requires!("dockerd", "busybox");
    let world = World::new("refusals");
    let ship = Ship::launch(&world, &ALL, "overlay2");
    let refused = |words: &[&str]| ship.docker.docker(words).refused();

    let create = ["volume", "create", "-d", "longshore"];
    let sentence = refused(&[&create[..], &["-o", "colour=red", "hold"]].concat());
    says(&sentence, &["hold", "colour", "known"]);
    assert_eq!(ship.ok(&["volume", "ls", "-q"]), "");

    ship.make_volume("hold");
    ship.run(
        &[
            &["--name", "keeper", "--network", "none", "-v", "hold:/d"],
            &LONG[..],
        ]
        .concat(),
    );
    says(&refused(&["volume", "rm", "hold"]), &["hold", "in use"]);
    says(&ship.removal_refused("hold"), &["remove volume hold", "held by"]);
    ship.ok(&["rm", "-f", "keeper"]);
    ship.ok(&["volume", "rm", "hold"]);

    ship.make_network("sea", "10.77.0.0/24");
    let create = [
        "network",
        "create",
        "-d",
        "longshore",
        "--ipam-driver",
        "longshore",
    ];
    let overlapping = [&create[..], &["--subnet", "10.77.0.128/25", "bay"]].concat();
    says(&refused(&overlapping), &["10.77.0.128/25", "10.77.0.0/24"]);
    let option = [
        &create[..],
        &["-o", "colour=red", "--subnet", "10.79.0.0/24", "bay"],
    ]
    .concat();
    says(&refused(&option), &["colour"]);
    let outside = ["--name", "lost", "--network", "sea", "--ip", "10.99.0.1"];
    says(&refused(&[&RUN[..], &outside, &LONG].concat()), &["10.99.0.1"]);
    let first = ["--name", "first", "--network", "sea", "--ip", "10.77.0.5"];
    ship.run(&[&first[..], &LONG].concat());
    let second = ["--name", "second", "--network", "sea", "--ip", "10.77.0.5"];
    says(&refused(&[&RUN[..], &second, &LONG].concat()), &["10.77.0.5"]);
    ship.ok(&["rm", "-f", "first", "second", "lost"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}

#[test]
fn a_port_that_is_taken_is_refused_by_its_number() {
    requires!("dockerd", "busybox");
    let world = World::new("port");
    let ship = Ship::launch(&world, &NET, "overlay2");
    ship.make_network("sea", "10.77.0.0/24");
    let first = ["--name", "first", "--network", "sea", "-p", "8080:80"];
    ship.run(&[&first[..], &LONG].concat());
    let second = ["--name", "second", "--network", "sea", "-p", "8080:80"];
    let sentence = ship.docker.docker(&[&RUN[..], &second, &LONG].concat());
    says(&sentence.refused(), &["8080"]);
    ship.ok(&["rm", "-f", "second"]);
    ship.ok(&["rm", "-f", "first"]);
    ship.run(
        &[
            &["--name", "third", "--network", "sea", "-p", "8080:80"],
            &LONG[..],
        ]
        .concat(),
    );
    ship.ok(&["rm", "-f", "third"]);
    ship.ok(&["network", "rm", "sea"]);
    ship.arrive();
}
