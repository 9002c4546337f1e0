//! From container to container over one bridge: ours, and one made by hand with iproute2.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernel::netns::Namespace;
use serde_json::Value;

use super::ours::Ours;
use crate::ground::{Daemon, has, program, run, run_words};
use crate::row::{Goal, Row, percentile};
use crate::wishes::Wishes;

const ROUNDS: usize = 5;
const SECONDS: &str = "2";
const PINGS: usize = 4_000;
const HAND: &str = "bridge and veth by iproute2";

/// Two namespaces that reach each other.
struct Pair {
    names: [String; 2],
    addresses: [Ipv4Addr; 2],
}

/// Moves a link into a namespace as an engine does.
fn settle(link: &str, name: &str, address: &str) -> Result<()> {
    run_words(&["ip", "netns", "add", name])?;
    run_words(&["ip", "link", "set", link, "netns", name, "name", "eth0"])?;
    run_words(&["ip", "-n", name, "address", "add", address, "dev", "eth0"])?;
    run_words(&["ip", "-n", name, "link", "set", "lo", "up"])?;
    run_words(&["ip", "-n", name, "link", "set", "eth0", "up"])?;
    Ok(())
}

fn plain(address: &str) -> Result<Ipv4Addr> {
    let address = address.split('/').next().unwrap_or_default();
    address
        .parse()
        .with_context(|| format!("read the address {address}"))
}

impl Pair {
    fn ours(ours: &mut Ours) -> Result<Self> {
        let names = ["ours-a", "ours-b"].map(str::to_owned);
        let mut addresses = [Ipv4Addr::UNSPECIFIED; 2];
        for (nth, name) in names.iter().enumerate() {
            let (address, link) = ours.join(name, nth)?;
            settle(&link, name, &address)?;
            addresses[nth] = plain(&address)?;
        }
        Ok(Self { names, addresses })
    }

    fn by_hand() -> Result<Self> {
        run_words(&["ip", "link", "add", "hand0", "type", "bridge"])?;
        run_words(&["ip", "address", "add", "10.207.0.1/16", "dev", "hand0"])?;
        run_words(&["ip", "link", "set", "hand0", "up"])?;
        let names = ["hand-a", "hand-b"].map(str::to_owned);
        let mut addresses = [Ipv4Addr::UNSPECIFIED; 2];
        for (nth, name) in names.iter().enumerate() {
            let (outer, inner) = (format!("ho{nth}"), format!("hi{nth}"));
            run_words(&[
                "ip", "link", "add", &outer, "type", "veth", "peer", "name", &inner,
            ])?;
            run_words(&["ip", "link", "set", &outer, "master", "hand0", "up"])?;
            let address = format!("10.207.0.{}/16", nth + 2);
            settle(&inner, name, &address)?;
            addresses[nth] = plain(&address)?;
        }
        Ok(Self { names, addresses })
    }

    /// Gigabits a second of one TCP stream.
    fn throughput(&self) -> Result<f64> {
        let [server, client] = &self.names;
        let log = tempfile::NamedTempFile::new().context("make a log")?;
        let mut command = program("ip");
        command.args(["netns", "exec", server, "iperf3", "--server", "--one-off"]);
        command.arg("--forceflush");
        let listens = || {
            let asked = run_words(&["ip", "netns", "exec", server, "ss", "-Hltn", "sport = :5201"]);
            asked.is_ok_and(|said| !said.is_empty())
        };
        let _server = Daemon::start(&mut command, log.path(), listens)?;
        let address = self.addresses[0].to_string();
        let mut command = program("ip");
        command.args(["netns", "exec", client, "iperf3", "--json", "--time", SECONDS]);
        let said = run(command.args(["--omit", "1", "--client", &address]), "")?;
        let json: Value = serde_json::from_str(&said).context("read iperf3's report")?;
        let bits = json["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("a rate in iperf3's report")? / 1e9)
    }

    /// Microseconds of round trips of 64 bytes by UDP.
    fn round_trips(&self) -> Result<Vec<f64>> {
        let socket = |nth: usize| -> Result<UdpSocket> {
            let path = PathBuf::from("/run/netns").join(&self.names[nth]);
            let socket = Namespace::open(&path)?.run(|| UdpSocket::bind((self.addresses[nth], 0)))?;
            let socket = socket.context("open a socket in a namespace")?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(socket)
        };
        let (near, far) = (socket(0)?, socket(1)?);
        near.connect(far.local_addr()?)?;
        far.connect(near.local_addr()?)?;
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| -> std::io::Result<()> {
                let mut bytes = [0; 64];
                for _ in 0..PINGS {
                    far.recv(&mut bytes)?;
                    far.send(&bytes)?;
                }
                Ok(())
            });
            let mut bytes = [0; 64];
            let mut times = Vec::with_capacity(PINGS);
            for _ in 0..PINGS {
                let start = Instant::now();
                near.send(&bytes).context("send a ping")?;
                near.recv(&mut bytes).context("receive its echo")?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            let echoed = echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?;
            echoed.context("echo")?;
            Ok(times)
        })
    }
}

/// Throughput and round trips, in rounds that alternate.
pub(super) fn between_two(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    ensure!(has("iperf3"), "iperf3 is missing");
    let mut ours = Ours::with_network(&wishes.longshore)?;
    let pairs = [Pair::ours(&mut ours)?, Pair::by_hand()?];
    let (mut rates, mut trips) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..wishes.rounds(ROUNDS) {
        for (nth, pair) in pairs.iter().enumerate() {
            rates[nth].push(pair.throughput()?);
            trips[nth].push(percentile(&mut pair.round_trips()?, 0.5));
        }
    }
    for pair in pairs {
        for name in &pair.names {
            run_words(&["ip", "netns", "delete", name])?;
        }
    }
    for name in ["ours-a", "ours-b"] {
        ours.leave(name)?;
    }
    run_words(&["ip", "link", "delete", "hand0"])?;
    let [mine, hand] = rates;
    let title = ("bridge", "TCP from container to container, 1 stream p50", "Gb/s");
    tell(&Row::medians(title, mine, (HAND, hand), Goal::ShareOfPeer(0.98)));
    let [mine, hand] = trips;
    let title = ("bridge", "UDP round trip from container to container p50", "us");
    tell(&Row::medians(title, mine, (HAND, hand), Goal::OfPeer(1.0 / 0.98)));
    Ok(())
}
