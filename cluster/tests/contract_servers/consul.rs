//! A real Consul keeps the contract.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::consul::Consul;
use cluster::contract::{Subject, check};
use cluster::{Error, Event, Expect, Revision, Secret, Store};

use crate::server::{Running, ports, program, wait_ready};

/// A server of one node that keeps nothing.
struct Agent {
    _server: Running,
    _folder: tempfile::TempDir,
    address: String,
}

impl Agent {
    /// Starts one whose HTTP port is `port`, with more configuration, and waits until it can write.
    fn start(program: &Path, port: u16, more: &str, token: Option<&Secret>) -> Self {
        let [server, lan, wan] = ports();
        let folder = tempfile::tempdir().unwrap();
        let configuration = format!(
            "ports {{ http = {port} server = {server} serf_lan = {lan} serf_wan = {wan} dns = -1 grpc = -1 }} {more}"
        );
        let mut command = Command::new(program);
        command
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"])
            .args(["-hcl", &configuration]);
        let server = Running::start(&mut command, folder.path());
        let address = format!("127.0.0.1:{port}");
        wait_ready(&Consul::new(&address, token.cloned()), folder.path());
        Self {
            _server: server,
            _folder: folder,
            address,
        }
    }
}

#[test]
fn consul_keeps_every_rule() {
    let Some(consul) = program("consul") else { return };
    let [port] = ports();
    let agent = Agent::start(&consul, port, "", None);
    let subject = Subject::new(|| Ok(Arc::new(Consul::new(&agent.address, None)) as _));
    assert!(check(&subject) > 30);
}

#[test]
fn a_watch_outlives_a_server_that_comes_back_empty() {
    let Some(consul) = program("consul") else { return };
    let [port] = ports();
    let agent = Agent::start(&consul, port, "", None);
    let store = Consul::new(&agent.address, None);
    for n in 0..20u8 {
        store.put_if("nets/a", &[n], Expect::Any, None).unwrap();
    }
    let mut watch = store.watch("nets/", Revision(0)).unwrap();
    let first = watch.next(Duration::from_secs(5)).unwrap();
    assert!(
        matches!(&first, Some(Event::Resync(snapshot)) if snapshot.rows.len() == 1),
        "{first:?}"
    );
    drop(agent);
    let refused = watch.next(Duration::from_secs(1));
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let refused = store.put_if("nets/b", b"", Expect::Any, None);
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let _agent = Agent::start(&consul, port, "", None);
    store.put_if("nets/b", b"", Expect::Absent, None).unwrap();
    let (mut gone, mut made) = (false, false);
    let begin = Instant::now();
    while !(gone && made) {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "gone: {gone}, made: {made}"
        );
        if let Some(Event::Change(change)) = watch.next(Duration::from_secs(1)).unwrap() {
            gone |= change.key == "nets/a" && change.row.is_none();
            made |= change.key == "nets/b" && change.row.is_some();
        }
    }
}

#[test]
fn without_its_token_we_are_refused() {
    let Some(consul) = program("consul") else { return };
    let word = "5c8bd2cf-96ae-4b4f-9a3b-50a1c0f5c1f0";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{word}\n")).unwrap();
    let token = Secret::from_file(&file).unwrap();
    let acl = format!("acl {{ enabled = true default_policy = \"deny\" tokens {{ master = \"{word}\" }} }}");
    let [port] = ports();
    let agent = Agent::start(&consul, port, &acl, Some(&token));
    let stranger = Consul::new(&agent.address, None);
    let refused = stranger.put_if("a", b"", Expect::Any, None);
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let friend = Consul::new(&agent.address, Some(token));
    friend.put_if("a", b"x", Expect::Any, None).unwrap();
    assert_eq!(friend.get("a").unwrap().unwrap().value, b"x");
    assert!(!format!("{friend:?}").contains(word));
}
