//! Several hosts over one store, which may not be reached, may lose answers, and outlives all of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use cluster::embedded::Embedded;
use cluster::{Capabilities, Expect, Guard, Lease, LeaseId, Op, Renewal, Revision, Row, Snapshot, Watch};
use plugin_api::contract::{IpamSubject, ipam};

use super::*;

const LEASE: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(9);

/// The way of one host to the store.
struct Way {
    store: Embedded,
    is_cut: Arc<AtomicBool>,
    /// Counts down to an answer that is lost behind a change that was made.
    loses: AtomicUsize,
}

impl Way {
    fn through<T>(&self, ask: impl FnOnce() -> cluster::Result<T>) -> cluster::Result<T> {
        let gone = || cluster::Error::unavailable("ask", "", std::io::Error::other("the way is cut"));
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(gone());
        }
        let answer = ask()?;
        let left = self.loses.fetch_sub(1, Ordering::SeqCst);
        if left == 1 {
            self.loses.store(40, Ordering::SeqCst);
            return Err(gone());
        }
        Ok(answer)
    }
}

impl Store for Way {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
    fn get(&self, key: &str) -> cluster::Result<Option<Row>> {
        self.through(|| self.store.get(key))
    }
    fn list(&self, prefix: &str) -> cluster::Result<Snapshot> {
        self.through(|| self.store.list(prefix))
    }
    fn put_if(
        &self,
        key: &str,
        value: &[u8],
        expect: Expect,
        lease: Option<&LeaseId>,
    ) -> cluster::Result<Revision> {
        self.through(|| self.store.put_if(key, value, expect, lease))
    }
    fn delete_if(&self, key: &str, expect: Expect) -> cluster::Result<bool> {
        self.through(|| self.store.delete_if(key, expect))
    }
    fn txn(&self, guards: &[Guard], ops: &[Op]) -> cluster::Result<Revision> {
        self.through(|| self.store.txn(guards, ops))
    }
    fn lease(&self, ttl: Duration) -> cluster::Result<Lease> {
        let lease = self.through(|| self.store.lease(ttl))?;
        let (id, ttl, is_cut) = (lease.id().clone(), lease.ttl(), Arc::clone(&self.is_cut));
        let mut lease = Some(lease);
        Lease::renewed_by(id, ttl, Instant::now(), move || {
            if is_cut.load(Ordering::SeqCst) {
                lease = None;
                return Renewal::Failed;
            }
            match &lease {
                Some(lease) if !lease.is_lost() => Renewal::Renewed,
                _ => Renewal::Lost,
            }
        })
    }
    fn revoke(&self, lease: &LeaseId) -> cluster::Result<()> {
        self.through(|| self.store.revoke(lease))
    }
    fn watch(&self, prefix: &str, from: Revision) -> cluster::Result<Watch> {
        self.store.watch(prefix, from)
    }
}

/// A host: its folder, and its way to the store.
struct Host {
    name: String,
    folder: PathBuf,
    store: Embedded,
    is_cut: Arc<AtomicBool>,
    grace: Duration,
    /// After how many answers one is lost.
    loses: usize,
}

impl Host {
    fn new(home: &Path, name: &str) -> Self {
        let folder = home.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir_all(home.join("store")).unwrap();
        Self {
            name: name.to_owned(),
            folder,
            store: Embedded::open(home.join("store")).unwrap(),
            is_cut: Arc::default(),
            grace: GRACE,
            loses: usize::MAX,
        }
    }

    fn open(&self) -> Cluster {
        let way = Way {
            store: self.store.clone(),
            is_cut: Arc::clone(&self.is_cut),
            loses: AtomicUsize::new(self.loses),
        };
        let settings = Settings {
            host: self.name.clone(),
            lease: LEASE,
            grace: self.grace,
        };
        Cluster::open(&self.folder, Arc::new(way), &settings).unwrap()
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

fn pool(driver: &Cluster, net: &str) -> Result<PoolId, Fault> {
    let request = PoolRequest {
        space: AddressSpace::new(GLOBAL).unwrap(),
        pool: Some(net.parse().unwrap()),
        sub_pool: None,
        options: BTreeMap::new(),
        v6: false,
    };
    Ok(driver.request_pool(&request)?.id)
}

fn request(pool: &PoolId, ip: Option<&str>, purpose: AddressPurpose) -> AddressRequest {
    AddressRequest {
        pool: pool.clone(),
        address: ip.map(|ip| ip.parse().unwrap()),
        purpose,
        mac: None,
        serial: false,
        holder: None,
    }
}

fn any(driver: &Cluster, pool: &PoolId) -> Result<IpAddr, Fault> {
    let asked = request(pool, None, AddressPurpose::Endpoint);
    Ok(driver.request_address(&asked)?.address.addr())
}

fn given(driver: &Cluster, pool: &PoolId, ip: &str) -> Result<IpAddr, Fault> {
    let asked = request(pool, Some(ip), AddressPurpose::Endpoint);
    Ok(driver.request_address(&asked)?.address.addr())
}

fn gateway(driver: &Cluster, pool: &PoolId, ip: Option<&str>) -> Result<IpAddr, Fault> {
    let asked = request(pool, ip, AddressPurpose::Gateway);
    Ok(driver.request_address(&asked)?.address.addr())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_contract_holds() {
    let home = tempfile::tempdir().unwrap();
    kernel::netns::run_in_new(|| {
        let count = AtomicUsize::new(0);
        let last = Mutex::new(None);
        let open = || {
            let name = format!("h{}", count.fetch_add(1, Ordering::SeqCst));
            // Each case is a cluster of its own, of one host.
            let home = home.path().join(format!("home-{name}"));
            std::fs::create_dir(&home).unwrap();
            let host = Host::new(&home, &name);
            let settings = Settings {
                host: name,
                lease: LEASE,
                grace: GRACE,
            };
            let driver = Cluster::open(&host.folder, Arc::new(host.store.clone()), &settings)?;
            *last.lock().unwrap() = Some((host, settings));
            Ok(Arc::new(driver) as Arc<dyn IpamDriver>)
        };
        let again = |old| {
            drop(old);
            let last = last.lock().unwrap();
            let (host, settings) = last.as_ref().unwrap();
            let driver = Cluster::open(&host.folder, Arc::new(host.store.clone()), settings)?;
            Ok(Arc::new(driver) as Arc<dyn IpamDriver>)
        };
        ipam::check(&IpamSubject::new(open).on_restart(again));
    })
    .unwrap();
}

#[test]
fn hosts_share_a_subnet_and_its_gateway_but_no_address() {
    let home = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| Host::new(home.path(), name).open());
    let [here, there] = [&one, &two].map(|driver| pool(driver, "10.7.0.0/24").unwrap());
    assert_eq!(here, there);
    assert_eq!(gateway(&one, &here, Some("10.7.0.1")).unwrap(), ip("10.7.0.1"));
    assert_eq!(gateway(&two, &here, None).unwrap(), ip("10.7.0.1"));
    let other = gateway(&two, &here, Some("10.7.0.9")).unwrap_err();
    assert!(other.message.contains("the cluster's is 10.7.0.1"), "{other}");
    let mut all: Vec<IpAddr> = (0..100)
        .flat_map(|_| [any(&one, &here).unwrap(), any(&two, &here).unwrap()])
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 200);
    assert!(!all.contains(&ip("10.7.0.1")));
    let foreign = all
        .iter()
        .find(|ip| given(&one, &here, &ip.to_string()).is_err_and(|e| e.message.contains("host two")));
    assert!(foreign.is_some(), "no address is told to be the other host's");
    let overlapping = pool(&two, "10.7.0.0/25").unwrap_err();
    assert_eq!(overlapping.kind, FaultKind::Conflict);
    // 256 less the network, the broadcast and the gateway.
    let rest = std::iter::from_fn(|| any(&one, &here).or_else(|_| any(&two, &here)).ok()).count();
    assert_eq!(rest, 53);
    let full = any(&one, &here).unwrap_err();
    assert_eq!(full.kind, FaultKind::Exhausted);
    assert!(full.message.contains("blocks are owned by others, "), "{full}");
    one.release_pool(&here).unwrap();
    two.release_pool(&here).unwrap();
    assert_eq!(
        Embedded::open(home.path().join("store"))
            .unwrap()
            .list("ipam/blocks/")
            .unwrap()
            .rows,
        []
    );
    pool(&two, "10.7.0.0/25").unwrap();
}

#[test]
fn without_the_store_a_host_gives_what_it_owns_and_deletes_what_it_likes() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::new(home.path(), "one");
    let driver = host.open();
    let net = pool(&driver, "10.7.0.0/24").unwrap();
    let first = any(&driver, &net).unwrap();
    host.cut(true);
    let begin = Instant::now();
    let more: Vec<IpAddr> = std::iter::from_fn(|| any(&driver, &net).ok()).collect();
    assert_eq!(
        more.len(),
        13,
        "the first block has 16, less the network, the gateway and the first: {more:?}"
    );
    let full = any(&driver, &net).unwrap_err();
    assert_eq!(full.kind, FaultKind::Unavailable, "{full}");
    assert!(begin.elapsed() < Duration::from_secs(3));
    driver.release_address(&net, first).unwrap();
    assert_eq!(any(&driver, &net).unwrap(), first);
    assert_eq!(driver.release_pool(&net).unwrap(), Done::Changed);
    let rows = || host.store.list("ipam/blocks/").unwrap().rows.len();
    assert_eq!(rows(), 1);
    host.cut(false);
    driver.keep().unwrap();
    assert_eq!(rows(), 0, "the store has not heard of the release");
}

#[test]
fn the_blocks_of_a_dead_host_come_back_after_the_grace_and_not_before() {
    let home = tempfile::tempdir().unwrap();
    let dead = Host::new(home.path(), "dead").open();
    let alive = Host::new(home.path(), "alive").open();
    let net = pool(&dead, "10.7.0.0/28").unwrap();
    pool(&alive, "10.7.0.0/28").unwrap();
    // Blocks of one address.
    let taken: Vec<IpAddr> = (0..10).map(|_| any(&dead, &net).unwrap()).collect();
    drop(dead);
    let begin = Instant::now();
    let mut had = Vec::new();
    while had.len() < 13 {
        alive.keep().unwrap();
        if let Ok(ip) = any(&alive, &net) {
            assert!(
                !taken.contains(&ip) || begin.elapsed() >= GRACE,
                "{ip} after {:?}",
                begin.elapsed()
            );
            had.push(ip);
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(
            begin.elapsed() < LEASE + GRACE + Duration::from_secs(10),
            "{had:?}"
        );
    }
    assert!(taken.iter().all(|ip| had.contains(ip)));
}

/// What a run of hosts saw.
#[derive(Default)]
struct Ledger {
    /// Who holds an address.
    holders: HashMap<IpAddr, usize>,
    /// Since when a host has not been heard of.
    silent: HashMap<usize, Instant>,
    wrong: Vec<String>,
    given: usize,
    lapsed: usize,
}

impl Ledger {
    fn is_lapsed(&self, host: usize) -> bool {
        self.silent
            .get(&host)
            .is_some_and(|since| since.elapsed() >= GRACE)
    }

    fn gave(&mut self, host: usize, ip: IpAddr, is_cut: bool) {
        self.given += 1;
        // One that is back has registered anew before it gave.
        if is_cut && self.is_lapsed(host) {
            self.wrong.push(format!("host {host} gave {ip} after its time"));
        }
        match self.holders.insert(ip, host) {
            Some(other) if self.is_lapsed(other) => self.lapsed += 1,
            Some(other) => self
                .wrong
                .push(format!("{ip} is given by {host} and held by {other}")),
            None => {}
        }
    }
}

/// Numbers that look random, the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A host is back among the others: what may be theirs by now is given up.
fn come_back(here: &Cluster, (number, net): (usize, &PoolId), mine: &mut Vec<IpAddr>, ledger: &mut Ledger) {
    for ip in here.lost() {
        mine.retain(|one| *one != ip);
        here.release_address(net, ip).unwrap();
        if ledger.holders.get(&ip) == Some(&number) {
            ledger.holders.remove(&ip);
        }
    }
    ledger.silent.remove(&number);
}

/// One host's life: it gives, takes back, loses its way to the store, dies and comes back. The last host
/// is out of reach for longer than any grace.
fn live(host: &Host, number: usize, ledger: &Mutex<Ledger>, is_last: bool) {
    let [from, until, end] = [2, 22, 26].map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut dice = Dice(0x9e37_79b9 + number as u64);
    let mut driver = Some(host.open());
    let net = PoolId::new("LongshoreCluster/10.7.0.0_27").unwrap();
    let mut mine: Vec<IpAddr> = Vec::new();
    let mut back = Instant::now();
    let mut kept = Instant::now();
    while driver
        .as_ref()
        .is_some_and(|here| pool(here, "10.7.0.0/27").is_err())
    {
        assert!(Instant::now() < end, "host {number} never got the pool");
    }
    while Instant::now() < end {
        let now = Instant::now();
        let is_cut = if is_last {
            now >= from && now < until
        } else {
            now < back
        };
        let here = driver.get_or_insert_with(|| host.open());
        if is_cut != host.is_cut.load(Ordering::SeqCst) {
            if is_cut {
                ledger.lock().unwrap().silent.insert(number, now);
            }
            host.cut(is_cut);
        }
        if kept.elapsed() > Duration::from_millis(300) {
            kept = now;
            if here.keep().is_ok() && !is_cut {
                come_back(here, (number, &net), &mut mine, &mut ledger.lock().unwrap());
            }
        }
        match dice.roll(100) {
            0..60 => {
                if let Ok(ip) = any(here, &net) {
                    ledger.lock().unwrap().gave(number, ip, is_cut);
                    mine.push(ip);
                }
            }
            // Who is away keeps a part of what it has.
            60..97 if mine.len() > if is_cut && is_last { 2 } else { 0 } => {
                let ip = mine.swap_remove(usize::try_from(dice.roll(mine.len() as u64)).unwrap());
                let mut ledger = ledger.lock().unwrap();
                if ledger.holders.get(&ip) == Some(&number) {
                    ledger.holders.remove(&ip);
                }
                here.release_address(&net, ip).unwrap();
            }
            // Who dies this often never sees a grace pass, so the others live on.
            97 if number == 0 => {
                ledger.lock().unwrap().silent.insert(number, now);
                driver = None;
            }
            98 if !is_last => back = now + Duration::from_millis(500 + dice.roll(4000)),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn run(grace_of_last: Duration) -> Ledger {
    let home = tempfile::tempdir().unwrap();
    let ledger = Mutex::new(Ledger::default());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (home, ledger) = (home.path(), &ledger);
            scope.spawn(move || {
                let mut host = Host::new(home, &format!("h{number}"));
                host.loses = 40;
                if number == 3 {
                    host.grace = grace_of_last;
                }
                live(&host, number, ledger, number == 3);
            });
        }
    });
    ledger.into_inner().unwrap()
}

#[test]
fn four_hosts_with_cuts_deaths_and_lost_answers_double_nothing() {
    let ledger = run(GRACE);
    assert_eq!(ledger.wrong, Vec::<String>::new());
    assert!(ledger.given > 200, "{} addresses were given", ledger.given);
    assert!(
        ledger.lapsed > 0,
        "no address of the host that was away was given anew"
    );
}

#[test]
fn a_host_that_does_not_stop_in_time_is_caught_by_the_same_run() {
    let ledger = run(Duration::from_secs(600));
    assert!(!ledger.wrong.is_empty(), "{} were given", ledger.given);
}
