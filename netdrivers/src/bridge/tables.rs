//! Our tables of nf_tables: what they should hold, and how they come to hold it.
//!
//! They are there while there is a network. One change at a time, so that a replacement does not miss one.

use kernel::netlink::Socket;
use kernel::netlink::nft::Batch;
use plugin_api::Fault;

use super::driver::{Core, failed, lock};
use super::records::{Endpoint, Network, NetworkPhase};
use super::{firewall, guard};

/// Endpoints whose link is fenced and whose guard is still in the table.
#[derive(Debug, Default)]
pub(super) struct Fenced(Vec<Endpoint>);

impl Fenced {
    /// Adds an endpoint.
    pub(super) fn push(&mut self, endpoint: Endpoint) {
        self.0.push(endpoint);
    }

    /// Forgets the guards of all of them.
    pub(super) fn dismiss(&mut self, nft: &Socket) -> kernel::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        match nft.commit(guard::dismiss(self.0.iter())) {
            // Somebody flushed the table, or one was never admitted.
            Err(error) if error.is_missing() => {
                for endpoint in &self.0 {
                    missing_is_fine(nft.commit(guard::dismiss(std::iter::once(endpoint))))?;
                }
            }
            other => other?,
        }
        self.0.clear();
        Ok(())
    }
}

impl Core {
    fn wanted(&self) -> (Vec<Network>, Vec<Endpoint>) {
        let state = self.state();
        let there = |network: &&Network| network.phase != NetworkPhase::Removing;
        let networks = state.networks.values().filter(there).cloned().collect();
        (networks, state.endpoints.values().cloned().collect())
    }

    /// Makes the tables what the records say.
    pub(super) fn replace_tables(&self) -> Result<(), Fault> {
        self.replace_tables_of(&mut lock(&self.fenced)).map_err(failed)
    }

    /// The same for who holds the lock of the tables.
    pub(super) fn replace_tables_of(&self, fenced: &mut Fenced) -> kernel::Result<()> {
        let (networks, endpoints) = self.wanted();
        let batch = if networks.is_empty() {
            firewall::remove().and(guard::remove())
        } else {
            let rules = firewall::replace(&networks, endpoints.iter());
            rules.and(guard::replace(endpoints.iter()))
        };
        self.nft.commit(batch)?;
        fenced.0.clear();
        Ok(())
    }

    /// Makes a change, or the whole tables where it meets others than were left.
    fn change_tables(&self, batch: Batch) -> kernel::Result<()> {
        let mut fenced = lock(&self.fenced);
        match self.nft.commit(batch) {
            Err(error) if error.is_missing() || error.is_exists() => self.replace_tables_of(&mut fenced),
            other => other,
        }
    }

    /// Lets a network into the tables; the first one brings them.
    pub(super) fn admit_network(&self, network: &Network) -> Result<(), Fault> {
        if self.wanted().0.len() == 1 {
            self.replace_tables()?;
            return self.settle_passage().map_err(failed);
        }
        self.change_tables(firewall::admit(network)).map_err(failed)
    }

    /// Takes a network out of the tables, whose record says that it is being removed or is gone; the last
    /// one takes them along.
    pub(super) fn dismiss_network(&self, network: &Network) -> Result<(), Fault> {
        if self.wanted().0.is_empty() {
            self.replace_tables()?;
            return self.settle_passage().map_err(failed);
        }
        self.change_tables(firewall::dismiss(network)).map_err(failed)
    }

    /// Guards an endpoint's link, before there is one.
    pub(super) fn admit(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let is_old = |old: &Endpoint| old.outer == endpoint.outer;
        let mut fenced = lock(&self.fenced);
        if fenced.0.iter().any(is_old) {
            // It left a moment ago, perhaps with another address.
            fenced.dismiss(&self.nft)?;
        }
        match self.nft.commit(guard::admit(endpoint)) {
            Err(error) if error.is_missing() => self.replace_tables_of(&mut fenced),
            other => other,
        }
    }

    /// Whether the tables are what the records say; they may be absent where there is no network.
    pub(super) fn are_tables_whole(&self) -> kernel::Result<bool> {
        let fenced = lock(&self.fenced);
        let (networks, mut endpoints) = self.wanted();
        if networks.is_empty() {
            return Ok(true);
        }
        let wanted = firewall::elements(&networks, endpoints.iter());
        if !firewall::is_whole(&self.nft, &wanted)? {
            return Ok(false);
        }
        endpoints.retain(|endpoint| fenced.0.iter().all(|old| old.outer != endpoint.outer));
        let wanted = guard::elements(endpoints.iter().chain(&fenced.0));
        guard::is_whole(&self.nft, &wanted)
    }

    pub(super) fn has_firewall_table(&self) -> kernel::Result<bool> {
        Ok(self.nft.tables()?.iter().any(|table| table == firewall::TABLE.0))
    }
}

pub(super) fn missing_is_fine(outcome: kernel::Result<()>) -> kernel::Result<()> {
    match outcome {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}
