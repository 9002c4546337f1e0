//! One endpoint at a time, and a thousand.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ours::Ours;
use super::peers::{Cni, Netavark, with_namespace};
use crate::ground::{milliseconds, program, run};
use crate::row::{Goal, Row};
use crate::wishes::Wishes;

const ROUNDS: usize = 21;
const CROWD: usize = 1_000;
const IP: &str = "ip link del, all in one ip -batch";

/// Create and join, leave and delete, beside those who do the same for others.
pub(super) fn one(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut ours = Ours::with_network(&wishes.longshore)?;
    let (cni, netavark) = (Cni::find()?, Netavark::find());
    let (mut made, mut gone) = (vec![], vec![]);
    let (mut cni_made, mut cni_gone) = (vec![], vec![]);
    let (mut netavark_made, mut netavark_gone) = (vec![], vec![]);
    for nth in 0..wishes.rounds(ROUNDS) {
        let id = format!("endpoint{nth}");
        made.push(milliseconds(|| ours.join(&id, nth).map(drop))?);
        gone.push(milliseconds(|| ours.leave(&id))?);
        if let Some(cni) = &cni {
            with_namespace(&id, || {
                cni_made.push(milliseconds(|| cni.call("ADD", &id))?);
                cni_gone.push(milliseconds(|| cni.call("DEL", &id))?);
                Ok(())
            })?;
        }
        if netavark.is_some() {
            with_namespace(&id, || {
                netavark_made.push(milliseconds(|| Netavark::call("setup", &id, nth))?);
                netavark_gone.push(milliseconds(|| Netavark::call("teardown", &id, nth))?);
                Ok(())
            })?;
        }
    }
    let create = ("bridge", "endpoint create and join p50", "ms");
    let delete = ("bridge", "endpoint leave and delete, return p50", "ms");
    for (title, mine, name, theirs, share) in [
        (create, &made, Cni::NAME, cni_made, 0.1),
        (create, &made, Netavark::NAME, netavark_made, 1.0 / 30.0),
        (delete, &gone, Cni::NAME, cni_gone, 0.02),
        (delete, &gone, Netavark::NAME, netavark_gone, 0.02),
    ] {
        tell(&Row::medians(
            title,
            mine.clone(),
            (name, theirs),
            Goal::OfPeer(share),
        ));
    }
    Ok(())
}

/// Links of this network namespace.
fn links() -> Result<usize> {
    let entries = fs::read_dir("/sys/class/net").context("list links")?;
    Ok(entries.count())
}

/// A thousand endpoints: what they cost in memory, and how fast all are gone.
pub(super) fn crowd(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut ours = Ours::with_network(&wishes.longshore)?;
    let before = links()?;
    for nth in 0..CROWD {
        ours.join(&format!("crowd{nth}"), nth)?;
    }
    ensure!(links()? >= before + CROWD, "the links of a crowd are there");
    let title = ("bridge", "memory with 1 000 endpoints", "MB");
    let resident = vec![ours.server.resident_mb()?];
    tell(&Row::medians(title, resident, ("", vec![]), Goal::AtMost(25.0)));
    let mut returned = 0.0;
    let gone = milliseconds(|| {
        returned = milliseconds(|| (0..CROWD).try_for_each(|nth| ours.leave(&format!("crowd{nth}"))))?;
        let start = Instant::now();
        while links()? > before {
            ensure!(start.elapsed() < Duration::from_secs(120), "links stay");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })?;
    let peer = vec![by_ip(before)?];
    let title = ("bridge", "1 000 endpoints, all links gone", "ms");
    tell(&Row::medians(title, vec![gone], (IP, peer), Goal::OfPeer(0.05)));
    let title = ("bridge", "1 000 endpoints, all answered", "ms");
    tell(&Row::medians(title, vec![returned], ("", vec![]), Goal::Known));
    Ok(())
}

/// Milliseconds that `ip` takes to delete as many links as we had, upon a bridge as ours were.
fn by_ip(before: usize) -> Result<f64> {
    let batch = |text: &str| run(program("ip").args(["-batch", "-"]), text).map(drop);
    let mut make = String::from("link add peer0 type bridge\nlink set peer0 up\n");
    let mut delete = String::new();
    for nth in 0..CROWD {
        writeln!(
            make,
            "link add pe{nth} master peer0 up type veth peer name pi{nth}"
        )?;
        writeln!(delete, "link del pe{nth}")?;
    }
    batch(&make)?;
    let time = milliseconds(|| batch(&delete))?;
    batch("link del peer0\n")?;
    ensure!(links()? <= before, "the peer's links are gone");
    Ok(time)
}
