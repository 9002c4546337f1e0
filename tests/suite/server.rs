//! The server as a program: its socket, its end, and what it makes of hostile requests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::requires;
use crate::world::{ALL, Longshore, World, call, configure, eventually, raw, run, words};

#[test]
fn a_socket_file_of_a_killed_longshore_is_replaced() {
    requires!("ps");
    let world = World::new("stale");
    let mut longshore = Longshore::start(&world, &["volume"]);
    longshore.kill();
    assert!(longshore.socket().exists(), "a kill leaves the file");
    call(&longshore.socket(), "Plugin.Activate", "").unwrap_err();
    longshore.again();
    longshore.stop();
    assert!(!longshore.socket().exists(), "a stop removes the file");
}

#[test]
fn a_socket_on_which_somebody_answers_is_not_taken() {
    requires!("ps");
    let world = World::new("taken");
    configure(&world, &["volume"]);
    let path = world.plugins().join("longshore.sock");
    let other = UnixListener::bind(&path).unwrap();
    let sentence = run(&world).refused();
    assert!(sentence.contains("longshore.sock"), "{sentence}");
    assert!(path.exists(), "the other's file is still there");
    drop(other);
}

#[test]
fn a_second_longshore_is_refused_and_the_first_goes_on() {
    requires!("ps");
    let world = World::new("second");
    let mut longshore = Longshore::start(&world, &["volume"]);
    let sentence = run(&world).refused();
    let state = world.text("state");
    let named = sentence.contains(&state) || sentence.contains("longshore.sock");
    assert!(named, "says what is taken: {sentence}");
    assert!(!sentence.contains("panicked"), "{sentence}");
    longshore.call("VolumeDriver.List", &json!({})).ok();
    longshore.stop();
}

#[test]
fn sockets_are_for_their_owner_only() {
    requires!("ps");
    let world = World::new("mode");
    let mut longshore = Longshore::start(&world, &["volume"]);
    let mode = fs::metadata(longshore.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "mode {mode:o}");
    longshore.stop();
}

#[test]
fn one_socket_announces_all_subsystems() {
    requires!("ps");
    let world = World::new("announce");
    let mut longshore = Longshore::start(&world, &ALL);
    let reply = longshore.call("Plugin.Activate", &json!({})).ok();
    let mut names: Vec<&str> = reply["Implements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["GraphDriver", "IpamDriver", "NetworkDriver", "VolumeDriver"]
    );
    longshore.stop();
}

#[test]
fn an_unknown_verb_is_not_found() {
    requires!("ps");
    let world = World::new("verb");
    let mut longshore = Longshore::start(&world, &["volume"]);
    for verb in ["VolumeDriver.Sink", "Nonsense", "LogDriver.StartLogging", ""] {
        let reply = longshore.call(verb, &json!({}));
        assert_eq!(reply.status, 404, "{verb:?}: {reply:?}");
    }
    let get = raw(
        &longshore.socket(),
        b"GET /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(get.unwrap().status >= 400, "only POST is spoken");
    longshore.stop();
}

/// Bodies that no engine sends, by verb.
fn hostile() -> Vec<(&'static str, String)> {
    let mut bodies = Vec::new();
    let long = "x".repeat(10_000);
    let bad = [
        "",
        "../../etc",
        "a/b",
        "/",
        ".",
        "..",
        "a\0b",
        "-o",
        "é",
        "a b",
        &long,
    ];
    for name in bad {
        let volume = json!({ "Name": name, "ID": "aa" }).to_string();
        for verb in VOLUME_VERBS {
            bodies.push((verb, volume.clone()));
        }
        let layer = json!({ "ID": name, "Parent": "" }).to_string();
        for verb in LAYER_VERBS {
            bodies.push((verb, layer.clone()));
        }
        let network = json!({ "NetworkID": name, "Options": {}, "IPv4Data": [], "IPv6Data": [] });
        bodies.push(("NetworkDriver.CreateNetwork", network.to_string()));
    }
    for verb in [
        VOLUME_VERBS[0],
        LAYER_VERBS[0],
        "NetworkDriver.CreateNetwork",
        "IpamDriver.RequestPool",
    ] {
        for body in [
            "",
            "{",
            "[]",
            "null",
            "7",
            "\"text\"",
            "{\"Name\":7}",
            "\u{1}\u{2}",
            "{}{}",
        ] {
            bodies.push((verb, body.to_owned()));
        }
        bodies.push((verb, "[".repeat(100_000)));
    }
    for pool in [
        "no",
        "10.77.0.0",
        "10.77.0.0/33",
        "../..",
        "10.77.0.1/24; rm",
        "::/129",
    ] {
        let pool = json!({ "AddressSpace": "LocalDefault", "Pool": pool, "SubPool": "", "V6": false });
        bodies.push(("IpamDriver.RequestPool", pool.to_string()));
    }
    bodies
}

const VOLUME_VERBS: [&str; 4] = [
    "VolumeDriver.Create",
    "VolumeDriver.Mount",
    "VolumeDriver.Get",
    "VolumeDriver.Path",
];

const LAYER_VERBS: [&str; 3] = [
    "GraphDriver.Create",
    "GraphDriver.CreateReadWrite",
    "GraphDriver.Get",
];

#[test]
fn hostile_requests_are_answered_with_a_sentence_and_change_nothing() {
    requires!("ps");
    let world = World::new("hostile");
    let mut longshore = Longshore::start(&world, &ALL);
    world.remember();
    for (verb, body) in hostile() {
        let reply = call(&longshore.socket(), verb, &body).unwrap();
        let shown: String = body.chars().take(60).collect();
        assert!(reply.status >= 400, "{verb} {shown}: {reply:?}");
        let sentence = reply.refusal();
        assert!(
            !sentence.is_empty() && sentence.len() < 1000,
            "{verb} {shown}: {sentence}"
        );
        assert!(
            !sentence.contains(char::is_control),
            "{verb} {shown}: {sentence:?}"
        );
    }
    longshore.call("VolumeDriver.List", &json!({})).ok();
    world.assert_nothing_left();
    longshore.stop();
}

#[test]
fn requests_too_large_or_unfinished_are_cut_off_and_others_served() {
    requires!("ps");
    let world = World::new("large");
    let mut longshore = Longshore::start(&world, &["volume"]);
    let huge = json!({ "Name": "hold", "Opts": { "o": "x".repeat(64 << 20) } }).to_string();
    match call(&longshore.socket(), "VolumeDriver.Create", &huge) {
        Ok(reply) => assert!(reply.status >= 400, "{}", reply.status),
        Err(error) => eprintln!("cut off: {error}"),
    }
    let header = format!(
        "POST /VolumeDriver.List HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(8 << 20)
    );
    if let Ok(reply) = raw(&longshore.socket(), header.as_bytes()) {
        assert!(reply.status >= 400, "{}", reply.status);
    }
    // A request that never ends holds nobody else up.
    let mut unfinished = Vec::new();
    for _ in 0..64 {
        let mut stream = std::os::unix::net::UnixStream::connect(longshore.socket()).unwrap();
        let part = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nContent-Length: 100\r\n\r\n{";
        std::io::Write::write_all(&mut stream, part).unwrap();
        unfinished.push(stream);
    }
    let listed = longshore.call("VolumeDriver.List", &json!({})).ok();
    assert_eq!(listed["Volumes"].as_array().map_or(0, Vec::len), 0, "{listed}");
    drop(unfinished);
    longshore.stop();
}

/// Starts longshore with the test's own listening socket as systemd would hand it over.
fn activated(world: &World, listener: &UnixListener) -> crate::world::Process {
    // The number of the process must be in its environment, and the socket must be descriptor 3.
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$@\"";
    let config = world.text("longshore.toml");
    let mut all = vec!["bash", "-c", script, "activated"];
    all.extend(words(&config));
    let envs = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "longshore.sock")];
    let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
    world.start_with(&all, &envs, stdin, "longshore.log")
}

/// Says a verb on new connections until told to stop; any failure ends the test.
fn load(socket: &Path, stop: &AtomicBool, served: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let reply = call(socket, "VolumeDriver.List", "{}").expect("no request is refused");
        assert_eq!(reply.status, 200, "{reply:?}");
        served.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_restart_under_load_refuses_nobody_with_an_activated_socket() {
    requires!("ps");
    let world = World::new("activated");
    configure(&world, &["volume"]);
    let socket = world.plugins().join("longshore.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let mut process = activated(&world, &listener);
        let callers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| load(&socket, &stop, &served)))
            .collect();
        for _ in 0..5 {
            let before = served.load(Ordering::Relaxed);
            eventually("requests are served", || {
                let dead = callers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                (dead || served.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            let status = process.stop();
            assert!(status.success(), "longshore ended with {status}");
            assert!(socket.exists(), "an activated socket is its owner's");
            process = activated(&world, &listener);
        }
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().expect("every request was served");
        }
        assert!(process.stop().success());
    });
    assert!(served.load(Ordering::Relaxed) > 250);
}

#[test]
fn a_mistake_in_the_configuration_is_named() {
    requires!("ps");
    let world = World::new("config");
    let file = world.path("longshore.toml");
    for (text, words) in [
        ("state = 7\n", &["longshore.toml"][..]),
        ("stat = \"/x\"\n", &["stat"]),
        ("[volume.x]\ndriver = \"nonsense\"\n", &["nonsense"]),
        ("[volume.\"../x\"]\ndriver = \"local\"\n", &["../x"]),
    ] {
        fs::write(&file, text).unwrap();
        let sentence = run(&world).refused();
        for word in words {
            assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
        }
        assert!(!sentence.contains("panicked"), "{sentence}");
    }
    fs::remove_file(&file).unwrap();
    let sentence = run(&world).refused();
    assert!(sentence.contains("longshore.toml"), "{sentence}");
}

#[test]
fn a_stop_leaves_what_containers_hold() {
    requires!("ps");
    let world = World::new("hold");
    let mut longshore = Longshore::start(&world, &["volume"]);
    world.remember();
    let hold = json!({ "Name": "hold", "ID": "aa" });
    longshore.call("VolumeDriver.Create", &hold).ok();
    let mounted = longshore.call("VolumeDriver.Mount", &hold).ok();
    let path = mounted["Mountpoint"].as_str().unwrap().to_owned();
    world.run(&["touch", &format!("{path}/file")]).ok();
    longshore.stop();
    world.run(&["test", "-e", &format!("{path}/file")]).ok();
    longshore.again();
    longshore.call("VolumeDriver.Remove", &hold).refusal();
    longshore.call("VolumeDriver.Unmount", &hold).ok();
    longshore.call("VolumeDriver.Remove", &hold).ok();
    world.assert_nothing_left();
    longshore.stop();
}
