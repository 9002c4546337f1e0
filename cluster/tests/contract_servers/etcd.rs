//! A real etcd keeps the contract, alone and as three.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::contract::{Subject, check};
use cluster::etcd::{Etcd, Settings, Tls};
use cluster::{Error, Event, Expect, Revision, Secret, Store};

use crate::server::{Running, ports, program, told, wait_ready, write};

/// One member: its ports for clients and for its peers, and what it has written.
struct Member {
    server: Option<Running>,
    ports: [u16; 2],
    folder: tempfile::TempDir,
}

/// Members that make one cluster.
struct Cluster {
    program: PathBuf,
    members: Vec<Member>,
    scheme: &'static str,
    more: Vec<String>,
}

impl Cluster {
    fn new(program: &Path, count: usize) -> Self {
        let members = (0..count).map(|_| Member {
            server: None,
            ports: ports(),
            folder: tempfile::tempdir().unwrap(),
        });
        Self {
            program: program.to_owned(),
            members: members.collect(),
            scheme: "http",
            more: Vec::new(),
        }
    }

    /// Starts every member and waits until a row can be written.
    fn started(program: &Path, count: usize) -> Self {
        let mut cluster = Self::new(program, count);
        cluster.start_all();
        wait_ready(&cluster.client(), cluster.members[0].folder.path());
        cluster
    }

    fn start_all(&mut self) {
        (0..self.members.len()).for_each(|at| self.start(at));
    }

    fn start(&mut self, at: usize) {
        let peers: Vec<String> = self.members.iter().enumerate().map(peer).collect();
        let member = &self.members[at];
        let own = format!("{}://127.0.0.1:{}", self.scheme, member.ports[0]);
        let (_, between) = peers[at].split_once('=').unwrap();
        let mut command = Command::new(&self.program);
        command
            .args(["--name", &format!("m{at}"), "--data-dir", "data"])
            .args(["--listen-client-urls", &own, "--advertise-client-urls", &own])
            .args([
                "--listen-peer-urls",
                between,
                "--initial-advertise-peer-urls",
                between,
            ])
            .args(["--initial-cluster", &peers.join(",")])
            // Elections of the default length, and nothing that another test has begun.
            .args(["--initial-cluster-token", &peers.join("-")])
            .args(&self.more);
        self.members[at].server = Some(Running::start(&mut command, self.members[at].folder.path()));
    }

    fn kill(&mut self, at: usize) {
        self.members[at].server = None;
    }

    fn server(&self, at: usize) -> &Running {
        self.members[at].server.as_ref().unwrap()
    }

    /// etcd's own tool.
    fn control(&self, program: &Path, words: &[&str]) {
        let output = Command::new(program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.members[0].ports[0])])
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
    }

    fn settings(&self) -> Settings {
        let endpoints = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.ports[0]));
        Settings::new(endpoints)
    }

    fn client(&self) -> Etcd {
        Etcd::new(self.settings()).unwrap()
    }
}

/// As the cluster's list names it.
fn peer((at, member): (usize, &Member)) -> String {
    format!("m{at}=http://127.0.0.1:{}", member.ports[1])
}

/// Forgets everything before now. What happened at a revision itself etcd keeps, so it gets one more.
fn compact(store: &Etcd) -> cluster::Result<()> {
    store.compact(store.put_if("compacted", b"", Expect::Any, None)?)
}

#[test]
fn etcd_keeps_every_rule() {
    let Some(etcd) = program("etcd") else { return };
    let cluster = Cluster::started(&etcd, 1);
    let subject =
        Subject::new(|| Ok(Arc::new(cluster.client()) as _)).on_compact(|| compact(&cluster.client()));
    assert!(check(&subject) > 30);
}

#[test]
fn three_members_keep_every_rule() {
    let Some(etcd) = program("etcd") else { return };
    let cluster = Cluster::started(&etcd, 3);
    let subject =
        Subject::new(|| Ok(Arc::new(cluster.client()) as _)).on_compact(|| compact(&cluster.client()));
    assert!(check(&subject) > 30);
}

#[test]
fn a_list_of_many_pages_is_whole_and_of_one_moment() {
    let Some(etcd) = program("etcd") else { return };
    let cluster = Cluster::started(&etcd, 1);
    let store = cluster.client();
    let key = |n: usize| format!("many/{n:05}");
    for begin in (0..4500).step_by(60) {
        let ops: Vec<cluster::Op> = (begin..begin + 60)
            .map(|n| cluster::Op::Put {
                key: key(n),
                value: vec![7; 100],
                lease: None,
            })
            .collect();
        store.txn(&[], &ops).unwrap();
    }
    let rows = store.list("many/").unwrap().rows;
    let expected = (0..4500).map(key);
    assert!(
        rows.iter().map(|row| row.key.clone()).eq(expected),
        "{} rows",
        rows.len()
    );
}

#[test]
fn any_member_may_die_and_every_watch_goes_on() {
    let Some(etcd) = program("etcd") else { return };
    let mut cluster = Cluster::started(&etcd, 3);
    let store = cluster.client();
    let begin = store.list("nets/").unwrap();
    let mut watch = store.watch("nets/", begin.revision).unwrap();
    for dead in 0..3 {
        write(&store, &format!("nets/before{dead}"));
        assert_eq!(
            told(&mut watch, &format!("nets/before{dead}"), Duration::from_secs(10)),
            0
        );
        cluster.kill(dead);
        let key = format!("nets/without{dead}");
        let took = write(&store, &key);
        assert!(
            took < Duration::from_secs(15),
            "without member {dead} a write took {took:?}"
        );
        // It had seen everything up to the death: nothing is repeated or left out.
        assert_eq!(told(&mut watch, &key, Duration::from_secs(20)), 0);
        cluster.start(dead);
        let key = format!("nets/after{dead}");
        write(&store, &key);
        told(&mut watch, &key, Duration::from_secs(20));
    }
    assert_eq!(store.list("nets/").unwrap().rows.len(), 9);
}

#[test]
fn a_frozen_member_stops_nobody_for_long() {
    let Some(etcd) = program("etcd") else { return };
    let cluster = Cluster::started(&etcd, 3);
    let store = cluster.client();
    write(&store, "a");
    let mut watch = store.watch("", store.list("").unwrap().revision).unwrap();
    for frozen in 0..3 {
        cluster.server(frozen).freeze();
        let begin = Instant::now();
        let read = store.get("a");
        // A frozen leader stops reads until the others have chosen another one.
        let limit = cluster.settings().patience * 2 + Duration::from_secs(2);
        assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
        assert!(
            matches!(&read, Ok(Some(_)) | Err(Error::Unavailable { .. })),
            "{read:?}"
        );
        let key = format!("frozen{frozen}");
        let took = write(&store, &key);
        assert!(
            took < Duration::from_secs(20),
            "with member {frozen} frozen a write took {took:?}"
        );
        told(&mut watch, &key, Duration::from_secs(60));
        cluster.server(frozen).thaw();
    }
}

#[test]
fn without_a_majority_everything_ends_in_time() {
    let Some(etcd) = program("etcd") else { return };
    let mut cluster = Cluster::started(&etcd, 3);
    let store = cluster.client();
    write(&store, "a");
    let lease = store.lease(Duration::from_secs(4)).unwrap();
    let revision = store.list("").unwrap().revision;
    cluster.kill(0);
    cluster.server(1).freeze();
    let limit = store_patience(&cluster) * 2 + Duration::from_secs(2);
    let bounded = |what: &str, outcome: &dyn Fn() -> cluster::Result<()>| {
        let begin = Instant::now();
        let refused = outcome();
        assert!(
            matches!(refused, Err(Error::Unavailable { .. })),
            "{what}: {refused:?}"
        );
        assert!(begin.elapsed() < limit, "{what} took {:?}", begin.elapsed());
    };
    bounded("put", &|| store.put_if("b", b"", Expect::Any, None).map(drop));
    bounded("get", &|| store.get("a").map(drop));
    bounded("list", &|| store.list("").map(drop));
    bounded("lease", &|| store.lease(Duration::from_secs(4)).map(drop));
    bounded("watch", &|| {
        store.watch("", revision)?.next(Duration::from_secs(1)).map(drop)
    });
    // Nobody could renew it, and its holder knows.
    assert!(lease.wait_lost(Duration::from_secs(6)));
    cluster.server(1).thaw();
    assert!(write(&store, "b") < Duration::from_secs(20));
}

fn store_patience(cluster: &Cluster) -> Duration {
    cluster.settings().patience
}

#[test]
fn compaction_under_a_watcher_that_sleeps_resyncs_once_and_loses_nothing() {
    let Some(etcd) = program("etcd") else { return };
    let mut cluster = Cluster::started(&etcd, 1);
    let store = cluster.client();
    let mut watch = store
        .watch("nets/", store.list("nets/").unwrap().revision)
        .unwrap();
    write(&store, "nets/first");
    assert_eq!(told(&mut watch, "nets/first", Duration::from_secs(10)), 0);
    // Its stream breaks, and while it does not ask, everything that it has missed is forgotten.
    cluster.kill(0);
    assert!(matches!(
        watch.next(Duration::from_secs(1)),
        Err(Error::Unavailable { .. })
    ));
    cluster.start(0);
    wait_ready(&store, cluster.members[0].folder.path());
    let mut model = std::collections::BTreeSet::new();
    for n in 0..50 {
        let key = format!("nets/k{}", n % 20);
        if n % 3 == 0 {
            store.delete_if(&key, Expect::Any).unwrap();
            model.remove(&key);
        } else {
            store.put_if(&key, &[n], Expect::Any, None).unwrap();
            model.insert(key);
        }
    }
    store.delete_if("nets/first", Expect::Any).unwrap();
    compact(&store).unwrap();
    let first = watch.next(Duration::from_secs(10)).unwrap();
    let Some(Event::Resync(snapshot)) = first else {
        panic!("it goes on with {first:?}");
    };
    let keys: std::collections::BTreeSet<String> = snapshot.rows.into_iter().map(|row| row.key).collect();
    assert_eq!(keys, model);
    write(&store, "nets/last");
    assert_eq!(told(&mut watch, "nets/last", Duration::from_secs(10)), 0);
}

#[test]
fn a_cluster_that_comes_back_empty_resyncs() {
    let Some(etcd) = program("etcd") else { return };
    let mut cluster = Cluster::started(&etcd, 1);
    let store = cluster.client();
    for n in 0..20u8 {
        store.put_if("nets/a", &[n], Expect::Any, None).unwrap();
    }
    let mut watch = store
        .watch("nets/", store.list("nets/").unwrap().revision)
        .unwrap();
    write(&store, "nets/b");
    told(&mut watch, "nets/b", Duration::from_secs(10));
    cluster.kill(0);
    std::fs::remove_dir_all(cluster.members[0].folder.path().join("data")).unwrap();
    // Another cluster by its name as well, with more behind it than the watch has seen.
    cluster.more = vec!["--initial-cluster-token".to_owned(), "another".to_owned()];
    cluster.start(0);
    wait_ready(&store, cluster.members[0].folder.path());
    for n in 0..60u8 {
        store.put_if("other", &[n], Expect::Any, None).unwrap();
    }
    write(&store, "nets/c");
    assert_eq!(told(&mut watch, "nets/c", Duration::from_secs(15)), 1);
    assert_eq!(store.get("nets/a").unwrap(), None);
}

#[test]
fn a_password_is_asked_for_and_renewed_when_its_token_ends() {
    let Some(etcd) = program("etcd") else { return };
    let Some(control) = program("etcdctl") else { return };
    let mut cluster = Cluster::new(&etcd, 1);
    // The shortest life of a token: etcd counts in seconds.
    cluster.more = vec!["--auth-token-ttl".to_owned(), "1".to_owned()];
    cluster.start_all();
    let stranger = cluster.client();
    wait_ready(&stranger, cluster.members[0].folder.path());
    let run = |words: &[&str]| cluster.control(&control, words);
    for words in [
        &["user", "add", "root:word"][..],
        &["user", "add", "ship:anchor"],
        &["role", "add", "harbour"],
        &[
            "role",
            "grant-permission",
            "harbour",
            "--prefix=true",
            "readwrite",
            "nets/",
        ],
        &["user", "grant-role", "ship", "harbour"],
        &["auth", "enable"],
    ] {
        run(words);
    }
    let refused = stranger.put_if("nets/a", b"", Expect::Any, None);
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let with = |word: &str| {
        let mut settings = cluster.settings();
        settings.user = Some(("ship".to_owned(), Secret::new(word).unwrap()));
        assert!(!format!("{settings:?}").contains(word));
        Etcd::new(settings).unwrap()
    };
    let refused = with("rudder").put_if("nets/a", b"", Expect::Any, None);
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let ship = with("anchor");
    ship.put_if("nets/a", b"x", Expect::Absent, None).unwrap();
    let refused = ship.put_if("other", b"x", Expect::Absent, None);
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let mut watch = ship.watch("nets/", Revision(1)).unwrap();
    told(&mut watch, "nets/a", Duration::from_secs(10));
    // Longer than the token lives.
    std::thread::sleep(Duration::from_secs(4));
    ship.put_if("nets/b", b"x", Expect::Absent, None).unwrap();
    told(&mut watch, "nets/b", Duration::from_secs(10));
    // The right is taken away under way: refused, not unavailable, and back when it comes back.
    run(&["--user", "root:word", "user", "revoke-role", "ship", "harbour"]);
    let refused = ship.get("nets/a");
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    run(&["--user", "root:word", "user", "grant-role", "ship", "harbour"]);
    assert!(ship.get("nets/a").unwrap().is_some());
}

/// An authority, and certificates of a server and of a client that it vouches for.
fn certificates(folder: &Path, openssl: &Path) {
    let run = |words: &str| {
        let output = Command::new(openssl)
            .args(words.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["authority", "stranger"] {
        run(&format!(
            "req -x509 {key} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ));
    }
    std::fs::write(
        folder.join("names"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    for name in ["server", "client"] {
        run(&format!(
            "req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        run(&format!(
            "x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
             -extfile names -out {name}.pem"
        ));
    }
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let Some(etcd) = program("etcd") else { return };
    let Some(openssl) = program("openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), &openssl);
    let file = |name: &str| folder.path().join(name);
    let mut cluster = Cluster::new(&etcd, 1);
    cluster.scheme = "https";
    cluster.more = [
        ("--cert-file", "server.pem"),
        ("--key-file", "server.key"),
        ("--trusted-ca-file", "authority.pem"),
    ]
    .iter()
    .flat_map(|(flag, name)| [(*flag).to_owned(), file(name).display().to_string()])
    .chain(["--client-cert-auth".to_owned()])
    .collect();
    cluster.start_all();
    let with = |authority: &str, identity: Option<&str>| {
        let mut settings = cluster.settings();
        settings.patience = Duration::from_secs(3);
        settings.tls = Some(Tls {
            authority: file(authority),
            identity: identity.map(|name| (file(&format!("{name}.pem")), file(&format!("{name}.key")))),
        });
        Etcd::new(settings).unwrap()
    };
    wait_ready(
        &with("authority.pem", Some("client")),
        cluster.members[0].folder.path(),
    );
    for (what, store) in [
        (
            "a server that nobody vouches for",
            with("stranger.pem", Some("client")),
        ),
        (
            "a client that nobody vouches for",
            with("authority.pem", Some("stranger")),
        ),
        ("a client without a certificate", with("authority.pem", None)),
        ("a client without encryption", cluster.client()),
    ] {
        let refused = store.put_if("a", b"", Expect::Any, None);
        assert!(
            matches!(refused, Err(Error::Unavailable { .. })),
            "{what}: {refused:?}"
        );
    }
}
