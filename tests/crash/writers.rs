//! Many writers over one address driver that is killed again and again: no address is ever given to two of
//! them, and none is lost.
//!
//! Each writer says verbs at random and keeps a book, which all share. What a writer asked for when the driver
//! died may have happened or not: it asks again under the same name, as a door does. At the end the driver's
//! own report must say what the book says, also after one more death.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use plugin_api::client::Client;
use plugin_api::id::{AddressSpace, HolderId, PoolId};
use plugin_api::ipam::{AddressPurpose, AddressRequest, HOLDER, IpamDriver, PoolRequest};
use plugin_api::{Fault, FaultKind};

use crate::ground::{Ground, Start};

const DRIVERS: &str = "[ipam.crash]\ndriver = \"local\"\n";
const WRITERS: u32 = 16;
/// Where writers let the driver choose; small, so that they meet and it fills up.
const SHARED: &str = "10.88.0.0/26";
/// Where each writer names addresses of its own slice.
const SLICED: &str = "10.89.0.0/24";

/// Who has what, by their own account.
type Book = Mutex<BTreeMap<IpAddr, String>>;

struct Writer<'a> {
    number: u32,
    dice: u64,
    turn: u32,
    socket: PathBuf,
    pools: [PoolId; 2],
    book: &'a Book,
    mine: Vec<(usize, IpAddr)>,
    verbs: &'a AtomicU64,
}

fn pool(client: &Client, net: &str, holder: &str) -> Result<PoolId, Fault> {
    let request = PoolRequest {
        space: AddressSpace::new("LongshoreLocal")?,
        pool: Some(net.parse().unwrap()),
        sub_pool: None,
        options: BTreeMap::from([(HOLDER.to_owned(), holder.to_owned())]),
        v6: false,
    };
    Ok(client.ipam().request_pool(&request)?.id)
}

/// Says a verb until it is answered, whatever becomes of the driver meanwhile.
#[track_caller]
fn persist<T>(socket: &Path, mut verb: impl FnMut(&Client) -> Result<T, Fault>) -> Result<T, Fault> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match Client::connect(socket).and_then(|client| verb(&client)) {
            Err(fault) if fault.kind == FaultKind::Unavailable => {
                assert!(Instant::now() < until, "nobody answers: {}", fault.sentence());
                std::thread::sleep(Duration::from_millis(3));
            }
            answered => return answered,
        }
    }
}

impl Writer<'_> {
    fn roll(&mut self, below: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % below
    }

    /// Asks, and writes down what was given; nobody else may have it in the book.
    fn take(&mut self, pool: usize, address: Option<IpAddr>) {
        self.turn += 1;
        let holder = format!("writer-{}-{}", self.number, self.turn);
        let request = AddressRequest {
            pool: self.pools[pool].clone(),
            address,
            purpose: AddressPurpose::Endpoint,
            mac: None,
            serial: false,
            holder: Some(HolderId::new(holder.as_str()).unwrap()),
        };
        match persist(&self.socket, |client| client.ipam().request_address(&request)) {
            Ok(lease) => {
                let ip = lease.address.addr();
                let before = lock(self.book).insert(ip, holder.clone());
                assert_eq!(before, None, "{ip} was given to {holder} and is another's");
                self.mine.push((pool, ip));
            }
            // The wire tells no kind.
            Err(fault) => assert!(fault.message.contains("no free address"), "{}", fault.sentence()),
        }
    }

    fn give_back(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let at = usize::try_from(self.roll(self.mine.len() as u64)).unwrap();
        let (pool, ip) = self.mine.swap_remove(at);
        // From the moment of asking on it may be another's.
        lock(self.book).remove(&ip);
        let id = &self.pools[pool];
        // Once, with its answer lost, or twice: the second would hit the next owner, so it is not sent.
        let outcome = Client::connect(&self.socket).and_then(|client| client.ipam().release_address(id, ip));
        if let Err(fault) = outcome {
            assert_eq!(fault.kind, FaultKind::Unavailable, "{}", fault.sentence());
            self.settle(pool, ip);
        }
    }

    /// Learns whether a release that was not answered has happened, from the holder the driver reports.
    fn settle(&mut self, pool: usize, ip: IpAddr) {
        let report = persist(&self.socket, |client| client.report(None)).unwrap();
        let mut held = report.subnets.iter().flat_map(|subnet| &subnet.addresses);
        let own = format!("writer-{}-", self.number);
        let is_mine = |holder: &Option<String>| holder.as_ref().is_some_and(|name| name.starts_with(&own));
        if let Some(there) = held.find(|there| there.address == ip && is_mine(&there.holder)) {
            let name = there.holder.clone().unwrap();
            assert_eq!(lock(self.book).insert(ip, name), None);
            self.mine.push((pool, ip));
        }
    }

    fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.step();
        }
    }

    fn step(&mut self) {
        self.verbs.fetch_add(1, Ordering::Relaxed);
        match self.roll(10) {
            0..=3 => self.take(0, None),
            4 | 5 => {
                let last = u8::try_from(u64::from(self.number) * 14 + 1 + self.roll(14)).unwrap();
                let ip = IpAddr::from(Ipv4Addr::new(10, 89, 0, last));
                if !self.mine.contains(&(1, ip)) {
                    self.take(1, Some(ip));
                }
            }
            6 => {
                let (net, holder) = (SHARED, format!("pool-{}", self.number));
                let id = persist(&self.socket, |client| pool(client, net, &holder)).unwrap();
                persist(&self.socket, |client| client.ipam().release_pool(&id)).unwrap();
            }
            _ => self.give_back(),
        }
    }
}

fn lock(book: &Book) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, String>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What the driver says is held, by address.
fn reported(ground: &Ground) -> BTreeMap<IpAddr, String> {
    let report = ground.client().unwrap().report(None).unwrap();
    let held = report.subnets.into_iter().flat_map(|subnet| subnet.addresses);
    held.map(|one| (one.address, one.holder.unwrap_or_default()))
        .collect()
}

#[test]
fn sixteen_writers_and_a_killer_never_double_or_lose_an_address() {
    let seconds = from_env("LONGSHORE_WRITERS_SECONDS", 6);
    let seed = from_env("LONGSHORE_FUZZ_SEED", 0x6c6f_6e67);
    println!("LONGSHORE_FUZZ_SEED={seed} LONGSHORE_WRITERS_SECONDS={seconds}");
    let mut ground = Ground::new(DRIVERS);
    assert_eq!(ground.start("off"), Start::Up);
    let client = ground.client().unwrap();
    let pools = [SHARED, SLICED].map(|net| pool(&client, net, "everybody").unwrap());
    drop(client);
    let (book, stop, verbs) = (Book::default(), AtomicBool::new(false), AtomicU64::new(0));
    let mut deaths = 0;
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let mut writer = Writer {
                number,
                dice: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(number) + 1) << 32,
                turn: 0,
                socket: ground.path("sockets/crash.sock"),
                pools: pools.clone(),
                book: &book,
                mine: Vec::new(),
                verbs: &verbs,
            };
            let stop = &stop;
            scope.spawn(move || writer.work(stop));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100 + (deaths * 37) % 400));
            // Kills first.
            assert_eq!(ground.start("off"), Start::Up);
            deaths += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let book = book.into_inner().unwrap();
    println!(
        "{} verbs, {deaths} deaths, {} addresses held",
        verbs.into_inner(),
        book.len()
    );
    assert_eq!(reported(&ground), book, "the driver and its writers disagree");
    assert_eq!(ground.start("off"), Start::Up);
    assert_eq!(reported(&ground), book, "a death more, and they disagree");
    assert!(
        deaths > 3 && !book.is_empty(),
        "{deaths} deaths, {} held",
        book.len()
    );
    for pool in &pools {
        ground.client().unwrap().ipam().release_pool(pool).unwrap();
    }
    assert_eq!(reported(&ground), BTreeMap::new());
    ground.stop();
    let left: Vec<String> = ground
        .records()
        .into_iter()
        .filter(|row| !row.contains(" host "))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
