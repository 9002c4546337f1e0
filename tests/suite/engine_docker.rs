//! Voyages on a real dockerd with longshore as its storage, network, address and volume driver.

use serde_json::json;

use crate::requires;
use crate::world::{ALL, Dockerd, Longshore, World, eventually};

/// What every container of these tests is started with: gone at once when told to stop.
const RUN: [&str; 4] = ["run", "-d", "--stop-signal", "KILL"];

/// The length of a container's life, if nobody ends it.
const LONG: [&str; 3] = ["box:1", "sleep", "100000"];

/// The kinds of drivers that a network needs.
const NET: [&str; 2] = ["network", "ipam"];

/// An engine and longshore beside it.
struct Ship<'w> {
    world: &'w World,
    longshore: Longshore<'w>,
    docker: Dockerd<'w>,
}

impl<'w> Ship<'w> {
    /// Starts both; what is there when neither has been asked for anything may stay.
    fn launch(world: &'w World, kinds: &[&str], storage: &'static str) -> Self {
        let longshore = Longshore::start(world, kinds);
        let docker = Dockerd::start(world, storage);
        world.remember();
        docker.import();
        Self {
            world,
            longshore,
            docker,
        }
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.docker.ok(words)
    }

    /// Runs a container in the background.
    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        self.ok(&[&RUN[..], words].concat())
    }

    /// Runs a command in a running container.
    #[track_caller]
    fn exec(&self, container: &str, words: &[&str]) -> String {
        self.ok(&[&["exec", container], words].concat())
    }

    #[track_caller]
    fn make_network(&self, name: &str, subnet: &str) {
        let mut words = vec!["network", "create", "-d", "longshore", "--subnet", subnet];
        words.extend(["--ipam-driver", "longshore", name]);
        self.ok(&words);
    }

    #[track_caller]
    fn make_volume(&self, name: &str) {
        self.ok(&["volume", "create", "-d", "longshore", name]);
    }

    /// One ping by name, through the engine's DNS.
    #[track_caller]
    fn ping(&self, from: &str, to: &str) {
        self.exec(from, &["ping", "-c", "1", "-w", "5", to]);
    }

    /// What the published port gives the neighbour and the host itself.
    #[track_caller]
    fn fetch(&self, port: u16, file: &str) -> String {
        let from_outside = eventually("the neighbour reaches the published port", || {
            self.world.fetch_outside(port, file)
        });
        let from_inside = self.world.fetch(port, file);
        assert_eq!(from_inside.as_ref(), Some(&from_outside), "on the host itself");
        from_outside
    }

    fn is_running(&self, container: &str) -> bool {
        let words = ["inspect", "-f", "{{.State.Running}}", container];
        self.docker.docker(&words).ok() == "true"
    }

    /// How many holds the volume driver counts, by trying to remove behind the engine's back.
    fn removal_refused(&self, volume: &str) -> String {
        let name = json!({ "Name": volume });
        self.longshore.call("VolumeDriver.Remove", &name).refusal()
    }

    /// Nothing is left but what was there at the start, and both end cleanly.
    #[track_caller]
    fn arrive(mut self) {
        self.ok(&["rmi", "-f", "box:1"]);
        self.world.assert_nothing_left();
        self.docker.stop();
        self.longshore.stop();
        self.world.assert_nothing_left();
    }
}

#[test]
fn the_whole_voyage_leaves_nothing_behind() {
    requires!("dockerd", "busybox");
    let world = World::new("voyage");
    let mut ship = Ship::launch(&world, &ALL, "longshore");
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
    requires!("dockerd", "busybox");
    let world = World::new("volume");
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
    ship.ok(&["rm", "-f", "keeper"]);
    ship.ok(&["volume", "rm", "hold"]);
    assert_eq!(ship.ok(&["volume", "ls", "-q"]), "");
    ship.arrive();
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
    requires!("dockerd", "busybox");
    let world = World::new("live");
    let longshore = Longshore::start(&world, &ALL);
    let docker = Dockerd::start_with(&world, "longshore", &["--live-restore"]);
    world.remember();
    docker.import();
    let mut ship = Ship {
        world: &world,
        longshore,
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
