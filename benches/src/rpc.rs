//! The protocol itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::client::{Client, request};
use crate::row::{Goal, Row, percentile};
use crate::server::{PEER, Server};

const ROUNDS: usize = 8;
const CALLS: usize = 2_000;
const CONNECTIONS: usize = 8;
const BURST: Duration = Duration::from_millis(700);
const STARTS: usize = 9;

/// Both servers of one run.
struct Pair {
    ours: Server,
    peer: Option<Server>,
}

/// Measures every row of the room.
pub(crate) fn measure(longshore: &Path, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let pair = Pair {
        ours: Server::ours(longshore)?,
        peer: Server::peer()?,
    };
    memory(&pair, tell)?;
    for server in std::iter::once(&pair.ours).chain(&pair.peer) {
        Client::connect(&server.volumes())?
            .call(&request("VolumeDriver.Create", "{\"Name\":\"bench\"}\n"))?;
    }
    let get = request("VolumeDriver.Get", "{\"Name\":\"bench\"}\n");
    let capabilities = request("VolumeDriver.Capabilities", "{}\n");
    round_trips(&pair, &get, ["Volume Get p50", "Volume Get p99"], tell)?;
    round_trips(
        &pair,
        &capabilities,
        ["Capabilities p50", "Capabilities p99"],
        tell,
    )?;
    rates(&pair, &get, tell)?;
    drop(pair);
    starts(longshore, tell)
}

fn told(name: &'static str, unit: &'static str, ours: f64, peer: Option<f64>, goal: Goal) -> Row {
    Row {
        room: "rpc",
        name,
        unit,
        ours,
        peer: peer.map(|value| (PEER, value)),
        least: None,
        goal,
    }
}

/// Memory after the start, before any work.
fn memory(pair: &Pair, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    let peer = pair.peer.as_ref().map(Server::resident_mb).transpose()?;
    tell(&told(
        "idle memory, all drivers",
        "MB",
        pair.ours.resident_mb()?,
        peer,
        Goal::AtMost(15.0),
    ));
    Ok(())
}

/// Round trips on one connection each, in rounds that alternate.
fn round_trips(
    pair: &Pair,
    request: &[u8],
    names: [&'static str; 2],
    tell: &mut dyn FnMut(&Row),
) -> Result<()> {
    let mut near = Client::connect(&pair.ours.volumes())?;
    let mut far = pair
        .peer
        .as_ref()
        .map(|peer| Client::connect(&peer.volumes()))
        .transpose()?;
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    near.times(request, CALLS)?;
    for _ in 0..ROUNDS {
        ours.extend(near.times(request, CALLS)?);
        if let Some(far) = &mut far {
            peers.extend(far.times(request, CALLS)?);
        }
    }
    for (name, share, goal) in [(names[0], 0.5, Goal::AtMost(40.0)), (names[1], 0.99, Goal::Known)] {
        let peer = far.as_ref().map(|_| percentile(&mut peers, share));
        tell(&told(name, "us", percentile(&mut ours, share), peer, goal));
    }
    Ok(())
}

/// Calls a second on one socket over several connections; the median of alternating bursts.
fn rates(pair: &Pair, request: &[u8], tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        near.push(burst(&pair.ours.volumes(), request)?);
        if let Some(peer) = &pair.peer {
            far.push(burst(&peer.volumes(), request)?);
        }
    }
    let peer = pair.peer.as_ref().map(|_| percentile(&mut far, 0.5));
    let ours = percentile(&mut near, 0.5);
    tell(&told(
        "Volume Get, 8 connections",
        "calls/s",
        ours,
        peer,
        Goal::AtLeast(30_000.0),
    ));
    Ok(())
}

fn burst(socket: &Path, request: &[u8]) -> Result<f64> {
    let start = Instant::now();
    let counts: Result<Vec<u32>> = std::thread::scope(|scope| {
        let work = || -> Result<u32> {
            let mut client = Client::connect(socket)?;
            let mut count = 0;
            while start.elapsed() < BURST {
                client.call(request)?;
                count += 1;
            }
            Ok(count)
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
            .collect()
    });
    let calls: u32 = counts.context("a burst of calls")?.iter().sum();
    Ok(f64::from(calls) / start.elapsed().as_secs_f64())
}

/// From nothing to the first answer on every socket, with an empty state.
fn starts(longshore: &Path, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        near.push(Server::ours(longshore)?.started_in.as_secs_f64() * 1e3);
        if let Some(peer) = Server::peer()? {
            far.push(peer.started_in.as_secs_f64() * 1e3);
        }
    }
    let peer = (!far.is_empty()).then(|| percentile(&mut far, 0.5));
    tell(&told(
        "start to serving",
        "ms",
        percentile(&mut near, 0.5),
        peer,
        Goal::AtMost(50.0),
    ));
    Ok(())
}
