//! A real Consul keeps the contract.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "this crate knows nothing of the cellar, and helpers of tests are tests as well"
)]

mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::consul::{Consul, Secret};
use cluster::contract::{Subject, check};
use cluster::{Error, Event, Expect, Revision, Store};
use server::{Agent, ports, program};

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
