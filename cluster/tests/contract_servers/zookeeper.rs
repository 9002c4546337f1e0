//! A real ZooKeeper keeps the contract.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::contract::{Subject, check};
use cluster::zookeeper::{Settings, ZooKeeper};
use cluster::{Error, Event, Expect, Revision, Secret, Store};

use crate::server::{Running, ports, program, skip, told, wait_ready, write};

/// Where Debian's package puts it.
const ARCHIVE: &str = "/usr/share/java/zookeeper.jar";

/// Java, if there is a ZooKeeper for it.
fn java() -> Option<PathBuf> {
    let java = program("java")?;
    if !Path::new(ARCHIVE).is_file() {
        skip(&format!("needs {ARCHIVE}"));
        return None;
    }
    Some(java)
}

/// One server.
struct Server {
    running: Option<Running>,
    java: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(java: &Path) -> Self {
        let [port] = ports();
        let mut server = Self {
            running: None,
            java: java.to_owned(),
            port,
            folder: tempfile::tempdir().unwrap(),
        };
        let configuration = format!(
            "tickTime=500\ndataDir={0}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\nmaxClientCnxns=0\n",
            server.folder.path().display()
        );
        std::fs::write(server.folder.path().join("zoo.cfg"), configuration).unwrap();
        server.run();
        wait_ready(&server.client(), server.folder.path());
        server
    }

    fn run(&mut self) {
        let mut command = Command::new(&self.java);
        command
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-cp", ARCHIVE])
            .args(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]);
        self.running = Some(Running::start(&mut command, self.folder.path()));
    }

    fn settings(&self) -> Settings {
        Settings::new([format!("127.0.0.1:{}", self.port)])
    }

    fn client(&self) -> ZooKeeper {
        ZooKeeper::new(self.settings()).unwrap()
    }
}

#[test]
fn zookeeper_keeps_every_rule() {
    let Some(java) = java() else { return };
    let server = Server::start(&java);
    let subject = Subject::new(|| Ok(Arc::new(server.client()) as _));
    assert!(check(&subject) > 30);
}

#[test]
fn a_watch_outlives_a_restart_and_a_server_that_comes_back_empty() {
    let Some(java) = java() else { return };
    let mut server = Server::start(&java);
    let store = server.client();
    write(&store, "nets/a");
    let mut watch = store.watch("nets/", Revision(0)).unwrap();
    let first = watch.next(Duration::from_secs(5)).unwrap();
    assert!(
        matches!(&first, Some(Event::Resync(all)) if all.rows.len() == 1),
        "{first:?}"
    );
    server.running = None;
    let begin = Instant::now();
    let refused = store.put_if("nets/b", b"", Expect::Any, None);
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert!(begin.elapsed() < server.settings().patience + Duration::from_secs(2));
    server.run();
    write(&store, "nets/b");
    assert!(told(&mut watch, "nets/b", Duration::from_secs(30)) > 0);
    server.running = None;
    std::fs::remove_dir_all(server.folder.path().join("data")).unwrap();
    server.run();
    write(&store, "nets/c");
    assert!(told(&mut watch, "nets/c", Duration::from_secs(30)) > 0);
    let keys: Vec<String> = store
        .list("")
        .unwrap()
        .rows
        .into_iter()
        .map(|row| row.key)
        .collect();
    assert_eq!(keys, ["nets/c"]);
}

#[test]
fn a_session_that_expired_while_the_server_was_frozen_resyncs_and_its_lease_is_lost() {
    let Some(java) = java() else { return };
    let server = Server::start(&java);
    let store = server.client();
    let mut watch = store.watch("nets/", Revision(0)).unwrap();
    watch.next(Duration::from_secs(5)).unwrap();
    let lease = store.lease(Duration::from_secs(4)).unwrap();
    store
        .put_if("nets/host", b"", Expect::Absent, Some(lease.id()))
        .unwrap();
    assert_eq!(told(&mut watch, "nets/host", Duration::from_secs(5)), 0);
    server.running.as_ref().unwrap().freeze();
    let begin = Instant::now();
    let limit = server.settings().patience + Duration::from_secs(2);
    let refused = store.get("nets/host");
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
    // Its holder knows it by the clock alone.
    assert!(lease.wait_lost(Duration::from_secs(6)));
    drop(lease);
    // Longer than any session of ours.
    std::thread::sleep(Duration::from_secs(12).saturating_sub(begin.elapsed()));
    server.running.as_ref().unwrap().thaw();
    write(&store, "nets/after");
    assert!(told(&mut watch, "nets/after", Duration::from_secs(30)) > 0);
    let begin = Instant::now();
    while store.get("nets/host").unwrap().is_some() {
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "the row of a dead host stays"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_we_made_with_a_password_nobody_else_touches() {
    let Some(java) = java() else { return };
    let server = Server::start(&java);
    let with = |word: &str| {
        let mut settings = server.settings();
        settings.root = "guarded".to_owned();
        settings.user = Some(("ship".to_owned(), Secret::new(word).unwrap()));
        assert!(!format!("{settings:?}").contains(word));
        ZooKeeper::new(settings).unwrap()
    };
    let friend = with("anchor");
    friend.put_if("nets/a", b"x", Expect::Absent, None).unwrap();
    assert_eq!(friend.get("nets/a").unwrap().unwrap().value, b"x");
    for (what, stranger) in [
        ("another password", with("rudder")),
        ("none", {
            let mut settings = server.settings();
            settings.root = "guarded".to_owned();
            ZooKeeper::new(settings).unwrap()
        }),
    ] {
        let refused = stranger.put_if("nets/a", b"", Expect::Any, None);
        assert!(
            matches!(refused, Err(Error::Denied { .. })),
            "{what}: {refused:?}"
        );
        let refused = stranger.get("nets/a");
        assert!(
            matches!(refused, Err(Error::Denied { .. })),
            "{what}: {refused:?}"
        );
    }
}

#[test]
fn rows_whose_lease_has_ended_are_swept_by_lists() {
    let Some(java) = java() else { return };
    let server = Server::start(&java);
    let store = server.client();
    let lease = store.lease(Duration::from_secs(4)).unwrap();
    for n in 0..20 {
        let key = format!("hosts/h{n:02}");
        store.put_if(&key, b"", Expect::Absent, Some(lease.id())).unwrap();
    }
    let living = store.list("hosts/").unwrap();
    assert_eq!(living.rows.len(), 20);
    store.revoke(lease.id()).unwrap();
    for _ in 0..4 {
        assert!(store.list("hosts/").unwrap().rows.is_empty());
    }
    // Each sweep is a change.
    let swept = store.list("hosts/").unwrap().revision;
    assert!(
        swept.0 >= living.revision.0 + 20,
        "{swept} after {}",
        living.revision
    );
    assert_eq!(
        store.list("hosts/").unwrap().revision,
        swept,
        "something is left to sweep"
    );
}
