//! Repairs what others break while the driver runs.
//!
//! One thread hears of every change of links, addresses and nf_tables. What it does itself, and what a
//! verb does under its network's gate, needs no repair and gets none: changes of the table carry the
//! number of the socket that made them, and links are compared with the records first. Since events
//! can be lost, everything is compared once in a while as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernel::error::Context;
use kernel::netlink::link::Link;
use kernel::netlink::watch::{Event, Wake, Watch};
use plugin_api::Fault;
use plugin_api::id::NetworkId;

use super::driver::{Core, failed, lock};
use super::records::{EndpointPhase, Network, NetworkPhase};
use super::{firewall, guard, passage, plan};

/// Everything is compared so often.
const EVERY: Duration = Duration::from_secs(30);
/// A repair that failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// Events of one change come within this time.
const GATHER: Duration = Duration::from_millis(5);

/// The thread.
#[derive(Debug)]
pub(super) struct Keeper {
    wake: Wake,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    parts: BTreeSet<Part>,
    /// Networks whose bridge or ports are not as they should be.
    networks: BTreeSet<NetworkId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Somebody changed our tables.
    Firewall,
    /// Somebody changed the tables of iptables.
    Passage,
    /// An address of some link is gone.
    Addresses,
    /// Compare everything.
    Anything,
}

impl Damage {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn add(&mut self, part: Part) {
        self.parts.insert(part);
    }
}

impl Keeper {
    /// Starts the thread, in the calling thread's network namespace.
    pub(super) fn start(core: Arc<Core>, watch: Watch) -> Result<Self, kernel::Error> {
        let wake = watch.waker()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("keep network".to_owned());
        let thread = thread
            .spawn(move || work(&core, &watch, &over))
            .context("start", "keeper of networks")?;
        Ok(Self {
            wake,
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // A thread that cannot be woken is not waited for.
        if self.wake.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn work(core: &Core, watch: &Watch, is_over: &AtomicBool) {
    let mut full = Instant::now() + EVERY;
    loop {
        let mut damage = Damage::default();
        let patience = full.saturating_duration_since(Instant::now());
        let mut outcome = watch.wait(patience, |event| core.judge(event, &mut damage));
        if outcome.is_ok() && damage != Damage::default() {
            std::thread::sleep(GATHER);
            outcome = watch.wait(Duration::ZERO, |event| core.judge(event, &mut damage));
        }
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "changes by others are seen late");
            std::thread::sleep(AGAIN);
            damage.add(Part::Anything);
        }
        if Instant::now() >= full {
            damage.add(Part::Anything);
            full = Instant::now() + EVERY;
        }
        let outcome = if damage.has(Part::Anything) {
            core.compare_all()
        } else {
            core.repair(damage)
        };
        if let Err(fault) = outcome {
            tracing::warn!(error = %fault, "what somebody broke is not repaired yet");
            full = Instant::now() + AGAIN;
        }
    }
}

impl Core {
    fn judge(&self, event: Event, damage: &mut Damage) {
        match event {
            Event::Table(name, port) => {
                let is_ours = self.nft.port().is_ok_and(|own| own == port);
                let is_of_us = name == firewall::TABLE.0 || name == guard::TABLE.0;
                if is_of_us && !is_ours {
                    damage.add(Part::Firewall);
                }
                if name == passage::TABLE.0 && !is_ours {
                    damage.add(Part::Passage);
                }
            }
            Event::LinkGone(link) => damage.networks.extend(self.bridged_by(&link)),
            Event::Link(link) if !link.is_up() => {
                damage.networks.extend(self.bridged_by(&link));
                damage.networks.extend(self.ported_by(&link));
            }
            Event::Link(link) if link.master.is_none() => damage.networks.extend(self.ported_by(&link)),
            Event::AddressGone(_) => damage.add(Part::Addresses),
            Event::Lost => damage.add(Part::Anything),
            Event::Link(_) | Event::Woken => {}
        }
    }

    /// The network whose bridge this link is.
    fn bridged_by(&self, link: &Link) -> Option<NetworkId> {
        let state = self.state();
        let mut made = state
            .networks
            .values()
            .filter(|network| network.phase == NetworkPhase::Made);
        let network = made.find(|network| network.bridge == link.name);
        network.map(|network| network.spec.id.clone())
    }

    /// The network one of whose ports this link should be.
    fn ported_by(&self, link: &Link) -> Option<NetworkId> {
        if !link.alias.starts_with(plan::MARK) {
            return None;
        }
        let state = self.state();
        let mut joined = state
            .endpoints
            .values()
            .filter(|e| e.phase == EndpointPhase::Joined);
        let endpoint = joined.find(|e| e.outer == link.name);
        endpoint.map(|e| e.at.network.clone())
    }

    /// Compares everything with the records, and repairs.
    pub(super) fn compare_all(&self) -> Result<(), Fault> {
        let mut damage = Damage::default();
        damage.add(Part::Anything);
        self.repair(damage)
    }

    fn repair(&self, mut damage: Damage) -> Result<(), Fault> {
        if damage.has(Part::Anything) {
            if !self.are_tables_whole().map_err(failed)? {
                damage.add(Part::Firewall);
            }
            damage.networks.extend(self.state().networks.keys().cloned());
        } else if damage.has(Part::Addresses) {
            damage.networks.extend(self.without_address()?);
        }
        if damage.has(Part::Firewall) && !self.state().networks.is_empty() {
            tracing::warn!("somebody changed our tables of nf_tables: they are made anew");
            self.replace_tables()?;
        }
        if damage.has(Part::Anything) || damage.has(Part::Passage) {
            self.settle_passage().map_err(failed)?;
        }
        for id in &damage.networks {
            let gate = self.gate(id);
            let _gate = lock(&gate);
            if let Ok(network) = self.network(id)
                && !self.is_raised(&network)?
            {
                self.raise_again(&network)?;
            }
        }
        Ok(())
    }

    /// Whether a network's bridge is up and has its addresses and the links of its endpoints.
    fn is_raised(&self, network: &Network) -> Result<bool, Fault> {
        let bridge = self.route.link(&network.bridge).map_err(failed)?;
        let Some(bridge) = bridge.filter(Link::is_up) else {
            return Ok(false);
        };
        let present = self.route.addresses().map_err(failed)?;
        let has = |net| {
            let mut here = present.iter().filter(|has| has.link == bridge.index);
            here.any(|has| has.address == net)
        };
        if !plan::gateways(&network.spec).into_iter().all(has) {
            return Ok(false);
        }
        let ports: Vec<_> = {
            let state = self.state();
            let joined = state
                .endpoints
                .values()
                .filter(|e| e.at.network == network.spec.id && e.phase == EndpointPhase::Joined);
            joined.map(|e| e.outer.clone()).collect()
        };
        for port in ports {
            let link = self.route.link(&port).map_err(failed)?;
            if link.is_some_and(|link| link.master != Some(bridge.index) || !link.is_up()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Networks whose bridge lacks one of its addresses.
    fn without_address(&self) -> Result<Vec<NetworkId>, Fault> {
        let networks: Vec<_> = self.state().networks.values().cloned().collect();
        let present = self.route.addresses().map_err(failed)?;
        let mut found = Vec::new();
        for network in networks {
            let Some(link) = self.route.link(&network.bridge).map_err(failed)? else {
                continue;
            };
            let has = |net| {
                let mut here = present.iter().filter(|has| has.link == link.index);
                here.any(|has| has.address == net)
            };
            if !plan::gateways(&network.spec).into_iter().all(has) {
                found.push(network.spec.id);
            }
        }
        Ok(found)
    }
}
