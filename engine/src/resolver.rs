//! Names of containers, answered on 127.0.0.11 inside each container's network namespace.
//!
//! A name is known to a container if its bearer shares a network with it. Everything else is passed on
//! to the servers of the host's `/etc/resolv.conf`.
//!
//! **Invariant:** the sockets are born in the container's namespace, all else happens in the host's.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use crate::links::shared_address;
use crate::state::Store;
use crate::state::container::Container;

/// Where containers ask.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Seconds that an answer may be kept.
const TTL: u32 = 10;
/// How long one server of the host may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions of one container being passed on at a time.
const AT_ONCE: usize = 64;
/// Largest answer over UDP without EDNS.
const UDP_BYTES: usize = 512;

// === who is called what ===

/// The names one container knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    forward: BTreeMap<String, Vec<IpAddr>>,
    reverse: BTreeMap<IpAddr, String>,
}

impl Directory {
    /// What `asker` knows of `all`.
    pub(crate) fn of(asker: &str, all: &[Container]) -> Self {
        let mut directory = Self::default();
        let Some(own) = all.iter().find(|one| one.id == asker) else {
            return directory;
        };
        for leg in &own.legs {
            for other in all {
                let theirs = other.legs.iter().filter(|theirs| theirs.network == leg.network);
                for theirs in theirs {
                    let names = other
                        .names()
                        .into_iter()
                        .chain(theirs.aliases.iter().map(String::as_str));
                    directory.add(names, &theirs.addresses(), &other.name);
                }
            }
        }
        for link in &own.recipe.links {
            let target = all.iter().find(|one| one.id == link.container);
            if let Some(address) = target.and_then(|target| shared_address(own, target)) {
                // One's own word for a container wins over its bearer's names.
                directory.forward.insert(link.alias.to_lowercase(), vec![address]);
            }
        }
        directory
    }

    fn add<'a>(&mut self, names: impl Iterator<Item = &'a str>, addresses: &[IpAddr], shown: &str) {
        if addresses.is_empty() {
            return;
        }
        for name in names {
            let known = self.forward.entry(name.to_lowercase()).or_default();
            for address in addresses {
                if !known.contains(address) {
                    known.push(*address);
                }
            }
        }
        for address in addresses {
            self.reverse.entry(*address).or_insert_with(|| shown.to_owned());
        }
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let bytes: Vec<u8> = labels
            .split('.')
            .rev()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<&str> = labels.split('.').rev().collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let bits = u128::from_str_radix(&digits.concat(), 16).ok()?;
    Some(Ipv6Addr::from(bits).into())
}

// === one question ===

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Send these bytes.
    Reply(Vec<u8>),
    /// Ask the host's servers.
    Forward,
    /// It is no question: silence.
    Ignore,
}

fn answer(question: &[u8], directory: &Directory) -> Verdict {
    let Ok(packet) = Packet::parse(question) else {
        return Verdict::Ignore;
    };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Verdict::Ignore;
    }
    let [asked] = packet.questions.as_slice() else {
        return reply(question, RCODE::FormatError, Vec::new());
    };
    let name = asked.qname.to_string().to_lowercase();
    if let Some(addresses) = directory.forward.get(&name) {
        let records = addresses
            .iter()
            .filter_map(|address| record(*address, asked.qtype));
        return reply(question, RCODE::NoError, records.collect());
    }
    let pointed = reversed(&name).and_then(|address| directory.reverse.get(&address));
    match (pointed.map(|name| Name::new(name)), asked.qtype) {
        (Some(Ok(name)), QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY) => {
            reply(question, RCODE::NoError, vec![RData::PTR(PTR(name))])
        }
        (Some(_), _) => reply(question, RCODE::NoError, Vec::new()),
        (None, _) => Verdict::Forward,
    }
}

fn record(address: IpAddr, wanted: QTYPE) -> Option<RData<'static>> {
    match (address, wanted) {
        (IpAddr::V4(ip), QTYPE::TYPE(TYPE::A) | QTYPE::ANY) => Some(RData::A(A::from(ip))),
        (IpAddr::V6(ip), QTYPE::TYPE(TYPE::AAAA) | QTYPE::ANY) => Some(RData::AAAA(AAAA::from(ip))),
        _ => None,
    }
}

fn reply(question: &[u8], code: RCODE, data: Vec<RData<'_>>) -> Verdict {
    let Ok(asked) = Packet::parse(question) else {
        return Verdict::Ignore;
    };
    let mut packet = Packet::new_reply(asked.id());
    if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE);
    *packet.rcode_mut() = code;
    if let Some(first) = asked.questions.first() {
        let name = &first.qname;
        let records = data
            .into_iter()
            .map(|data| ResourceRecord::new(name.clone(), CLASS::IN, TTL, data));
        packet.answers.extend(records);
    }
    packet.questions.clone_from(&asked.questions);
    packet
        .build_bytes_vec_compressed()
        .map_or(Verdict::Ignore, Verdict::Reply)
}

/// The same answer, cut down to its question and marked, so that the asker comes back over TCP.
fn fit_udp(bytes: Vec<u8>, question: &[u8]) -> Vec<u8> {
    if bytes.len() <= UDP_BYTES {
        return bytes;
    }
    match reply(question, RCODE::NoError, Vec::new()) {
        Verdict::Reply(mut short) => {
            short[2] |= 0x02;
            short
        }
        _ => bytes,
    }
}

// === the servers of the host ===

/// The servers that a `resolv.conf` names, without this resolver itself.
fn servers(text: &str) -> Vec<IpAddr> {
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    rows.filter_map(|word| word.parse().ok())
        .filter(|ip| *ip != IpAddr::V4(ADDRESS))
        .take(3)
        .collect()
}

fn host_servers() -> Vec<IpAddr> {
    servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn ask_udp(server: IpAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, 53))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    if buffer.get(..2) != question.get(..2) {
        return Err(std::io::Error::other("the answer is to another question"));
    }
    Ok(buffer)
}

fn ask_tcp(server: IpAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 53), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    send_framed(&mut stream, question)?;
    receive_framed(&mut stream)
}

fn send_framed(stream: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed)
}

fn receive_framed(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Asks each server in turn. Nobody reachable means that the name is unknown; a server that stays
/// silent means that nobody can tell.
fn forward(question: &[u8], ask: fn(IpAddr, &[u8]) -> std::io::Result<Vec<u8>>) -> Option<Vec<u8>> {
    let mut silent = false;
    for server in host_servers() {
        match ask(server, question) {
            Ok(bytes) => return Some(bytes),
            Err(error) => {
                silent |= matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    }
    let code = if silent {
        RCODE::ServerFailure
    } else {
        RCODE::NameError
    };
    match reply(question, code, Vec::new()) {
        Verdict::Reply(bytes) => Some(bytes),
        _ => None,
    }
}

// === serving ===

/// The sockets of one container's resolver.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds in the namespace of the calling thread.
    pub(crate) fn bind() -> std::io::Result<Self> {
        Ok(Self {
            udp: UdpSocket::bind((ADDRESS, 53))?,
            tcp: TcpListener::bind((ADDRESS, 53))?,
        })
    }
}

struct Shared {
    store: Store,
    asker: String,
    cache: Mutex<Option<(SystemTime, Arc<Directory>)>>,
    busy: AtomicUsize,
}

impl Shared {
    /// What the container knows now; read again whenever a container's record changed.
    fn directory(&self) -> Result<Arc<Directory>> {
        let folder = self.store.root().join("containers");
        let changed = folder.metadata()?.modified().context("read change time")?;
        let mut cache = self.cache.lock().expect("no thread panics with the cache");
        if let Some((at, directory)) = cache.as_ref()
            && *at == changed
        {
            return Ok(directory.clone());
        }
        let directory = Arc::new(Directory::of(&self.asker, &self.store.containers()?));
        // File times are coarse: a change in the same tick as this reading would go unseen.
        let settled = changed
            .elapsed()
            .is_ok_and(|age| age > Duration::from_millis(100));
        *cache = settled.then(|| (changed, directory.clone()));
        Ok(directory)
    }

    fn verdict(&self, question: &[u8]) -> Verdict {
        match self.directory() {
            Ok(directory) => answer(question, &directory),
            Err(_) => reply(question, RCODE::ServerFailure, Vec::new()),
        }
    }

    /// Runs `work` on a thread of its own unless too many run already.
    fn spawn(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> bool {
        if self.busy.fetch_add(1, Ordering::SeqCst) >= AT_ONCE {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            work();
            shared.busy.fetch_sub(1, Ordering::SeqCst);
        });
        true
    }
}

/// Serves until the process ends.
pub(crate) fn serve(sockets: Sockets, store: Store, asker: &str) {
    let shared = Arc::new(Shared {
        store,
        asker: asker.to_owned(),
        cache: Mutex::new(None),
        busy: AtomicUsize::new(0),
    });
    let Sockets { udp, tcp } = sockets;
    let for_tcp = Arc::clone(&shared);
    std::thread::spawn(move || serve_udp(&Arc::new(udp), &shared));
    std::thread::spawn(move || serve_tcp(&tcp, &for_tcp));
}

fn serve_udp(socket: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let question = buffer[..length].to_vec();
        match shared.verdict(&question) {
            Verdict::Ignore => {}
            Verdict::Reply(bytes) => drop(socket.send_to(&fit_udp(bytes, &question), peer)),
            Verdict::Forward => {
                let socket = Arc::clone(socket);
                shared.spawn(move || {
                    if let Some(bytes) = forward(&question, ask_udp) {
                        let _ = socket.send_to(&bytes, peer);
                    }
                });
            }
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let inner = Arc::clone(shared);
        shared.spawn(move || drop(converse(stream, &inner)));
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        let question = receive_framed(&mut stream)?;
        let bytes = match shared.verdict(&question) {
            Verdict::Ignore => return Ok(()),
            Verdict::Reply(bytes) => Some(bytes),
            Verdict::Forward => forward(&question, ask_tcp),
        };
        let Some(bytes) = bytes else { return Ok(()) };
        send_framed(&mut stream, &bytes)?;
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::{QCLASS, Question};

    use super::*;
    use crate::state::container::Link;
    use crate::state::container::tests::sample;

    fn world() -> Vec<Container> {
        let mut web = sample("web", "n1", "10.0.0.3/24");
        let database = sample("database", "n1", "10.0.0.2/24");
        web.recipe.links = vec![Link {
            container: database.id.clone(),
            alias: "sql".into(),
        }];
        vec![web, database, sample("stranger", "n2", "10.9.0.2/24")]
    }

    fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked(name);
        packet
            .questions
            .push(Question::new(name, kind.into(), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    }

    /// The data of all answers, or the verdict that is none.
    fn ask(name: &str, kind: TYPE) -> Result<Vec<String>, Verdict> {
        let all = world();
        match answer(&question(name, kind), &Directory::of(&all[0].id, &all)) {
            Verdict::Reply(bytes) => {
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.id(), 77);
                assert!(packet.has_flags(PacketFlag::RESPONSE));
                Ok(packet
                    .answers
                    .iter()
                    .map(|record| match &record.rdata {
                        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
                        RData::PTR(name) => name.0.to_string(),
                        other => format!("{other:?}"),
                    })
                    .collect())
            }
            other => Err(other),
        }
    }

    #[test]
    fn names_in_shared_networks_are_answered() {
        for name in [
            "database",
            "DataBase",
            "database-alias",
            "database-host",
            "646174616261",
            "sql",
        ] {
            assert_eq!(ask(name, TYPE::A), Ok(vec!["10.0.0.2".into()]), "{name}");
        }
        assert_eq!(ask("web", TYPE::A), Ok(vec!["10.0.0.3".into()]));
    }

    #[test]
    fn a_known_name_without_such_a_record_is_an_empty_answer() {
        assert_eq!(ask("database", TYPE::AAAA), Ok(vec![]));
        assert_eq!(ask("database", TYPE::MX), Ok(vec![]));
    }

    #[test]
    fn strangers_and_foreign_names_are_passed_on() {
        assert_eq!(ask("stranger", TYPE::A), Err(Verdict::Forward));
        assert_eq!(ask("example.org", TYPE::A), Err(Verdict::Forward));
        assert_eq!(ask("2.0.9.10.in-addr.arpa", TYPE::PTR), Err(Verdict::Forward));
    }

    #[test]
    fn addresses_are_answered_with_names() {
        assert_eq!(
            ask("2.0.0.10.in-addr.arpa", TYPE::PTR),
            Ok(vec!["database".into()])
        );
        let nibbles = "1.0.".to_owned() + &"0.".repeat(26) + "0.0.d.f.ip6.arpa";
        assert_eq!(reversed(&nibbles), Some("fd00::1".parse().unwrap()));
        assert_eq!(reversed("1.2.3.in-addr.arpa"), None);
        assert_eq!(reversed("a.b.ip6.arpa"), None);
    }

    #[test]
    fn noise_is_met_with_silence() {
        let directory = Directory::default();
        assert_eq!(answer(b"", &directory), Verdict::Ignore);
        assert_eq!(answer(&[0xff; 40], &directory), Verdict::Ignore);
        let mut response = question("web", TYPE::A);
        response[2] |= 0x80;
        assert_eq!(answer(&response, &directory), Verdict::Ignore);
    }

    #[test]
    fn large_answers_are_cut_for_udp_and_say_so() {
        let mut directory = Directory::default();
        let many: Vec<IpAddr> = (0..100).map(|n| Ipv4Addr::new(10, 0, 1, n).into()).collect();
        directory.add(["many"].into_iter(), &many, "many");
        let asked = question("many", TYPE::A);
        let Verdict::Reply(bytes) = answer(&asked, &directory) else {
            panic!("no answer");
        };
        let cut = fit_udp(bytes, &asked);
        assert!(cut.len() <= UDP_BYTES);
        assert!(Packet::parse(&cut).unwrap().has_flags(PacketFlag::TRUNCATION));
    }

    #[test]
    fn servers_of_a_resolv_conf() {
        let text = "# nameserver 9.9.9.9\nsearch a\nnameserver 127.0.0.11\nnameserver 10.0.0.53\nnameserver ::1\nnameserver x\n";
        assert_eq!(
            servers(text),
            ["10.0.0.53".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
    }
}
