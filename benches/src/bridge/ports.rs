//! Published ports.

use anyhow::{Context, Result};

use super::ours::Ours;
use super::peers::Iptables;
use crate::ground::milliseconds;
use crate::row::{Goal, Row, percentile};
use crate::wishes::Wishes;

const ROUNDS: usize = 21;
/// Ports of one endpoint.
const PORTS: u16 = 200;
/// Where the ones that are measured begin; nothing else is published from here on.
const FIRST: u16 = 60_000;

/// Two hundred ports, beside none, ten thousand and fifty thousand.
pub(super) fn published(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut ours = Ours::with_network(&wishes.longshore)?;
    ours.join("publisher", 10_000)?;
    let rounds = wishes.rounds(ROUNDS).max(5);
    let mut empty = publish(&mut ours, rounds)?;
    crowd(&mut ours, 0, 50)?;
    let mut ten = publish(&mut ours, rounds)?;
    let most = if files()? > 52_000 { 250 } else { 90 };
    crowd(&mut ours, 50, most)?;
    let mut full = publish(&mut ours, rounds)?;
    let slope = percentile(&mut full, 0.5) / percentile(&mut empty, 0.5);
    let resident = vec![ours.server.resident_mb()?];
    drop(ours);

    let title = ("bridge", "publish 200 ports beside 10 000 p50", "ms");
    tell(&Row::medians(title, ten.clone(), ("", vec![]), Goal::AtMost(5.0)));
    // The goal is for fifty thousand: fewer show a figure, and nothing of the goal.
    let (name, memory, goal) = match most {
        250 => (
            "publish 200 ports, beside 50 000 over beside 0 p50",
            "memory with 50 000 ports",
            Goal::AtMost(1.2),
        ),
        _ => (
            "publish 200 ports, beside 18 000 (limit of files) over 0",
            "memory with 18 000 ports",
            Goal::Known,
        ),
    };
    let title = ("bridge", name, "times");
    tell(&Row::medians(title, vec![slope], ("", vec![]), goal));
    let title = ("bridge", memory, "MB");
    tell(&Row::medians(title, resident, ("", vec![]), Goal::Known));
    // The peer's time for all would be minutes; a port costs it what the one before did.
    let count = if wishes.quick { 5 } else { PORTS };
    let mut peer = vec![];
    if let Some(iptables) = Iptables::with_published(10_000)? {
        for port in FIRST..FIRST + count {
            peer.push(milliseconds(|| iptables.publish(port))?);
        }
        iptables.clear()?;
    }
    let one: Vec<f64> = {
        let share = percentile(&mut ten, 0.5) / f64::from(PORTS);
        vec![share]
    };
    let title = ("bridge", "one port of 200 beside 10 000 p50", "ms");
    tell(&Row::medians(
        title,
        one,
        (Iptables::NAME, peer),
        Goal::OfPeer(0.001),
    ));
    Ok(())
}

/// How many files a process may have open here; ours holds one for each published port.
fn files() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").context("read our limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().next());
    hard.context("no limit of open files")?
        .parse()
        .context("read a limit")
}

/// Milliseconds of each publishing of 200 ports; none stays published.
fn publish(ours: &mut Ours, rounds: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(ours.publish("publisher", FIRST, PORTS)?);
        ours.revoke("publisher")?;
    }
    Ok(times)
}

/// Endpoints of 200 ports each, from the `first` to before the `last`.
fn crowd(ours: &mut Ours, first: u16, last: u16) -> Result<()> {
    for nth in first..last {
        let id = format!("crowd{nth}");
        ours.join(&id, 1_000 + usize::from(nth))?;
        ours.publish(&id, 2_000 + nth * PORTS, PORTS)?;
    }
    Ok(())
}
