//! Where records are kept: networks for good, endpoints and intents for as long as the machine runs.
//!
//! After a boot there is no link and no rule, and engines give their containers new endpoints. So what is
//! known of endpoints stands in a folder of memory, where a commit takes microseconds, and so do the
//! intents to make or remove a network: after a boot a network that was to be removed is there still, and
//! its engine asks again. The name of the boot stands beside them; those of another boot are forgotten.

use std::path::Path;

use kernel::record::{Batch, Records};
use plugin_api::id::NetworkId;
use plugin_api::network::EndpointRef;
use plugin_api::{Fault, FaultKind};

use super::driver::failed;
use super::records::{Endpoint, Network, NetworkPhase, endpoint_key};

/// Table of networks that are there, by id, in the lasting store.
const NETWORKS: &str = "networks";
/// Table of networks that are being made or removed, by id.
const INTENTS: &str = "intents";
/// Table of endpoints, by network and endpoint.
const ENDPOINTS: &str = "endpoints";
/// Table of one row: the boot that the passing store belongs to.
const BOOT: &str = "boot";

/// Both stores.
#[derive(Debug)]
pub(super) struct Store {
    lasting: Records,
    passing: Records,
}

fn corrupt(error: kernel::record::Damaged) -> Fault {
    Fault::from_error(FaultKind::Corrupt, error)
}

impl Store {
    /// Opens the stores in two folders, the latter of memory, and forgets what is of another boot.
    pub(super) fn open(state: &Path, runtime: &Path) -> Result<Self, Fault> {
        let boot = kernel::process::boot_id().map_err(failed)?;
        Self::open_in(state, runtime, &boot)
    }

    fn open_in(state: &Path, runtime: &Path, boot: &str) -> Result<Self, Fault> {
        let store = Self {
            lasting: Records::open_with_reserve(&state.join("state.redb")).map_err(failed)?,
            passing: Records::open_with_reserve(&runtime.join("endpoints.redb")).map_err(failed)?,
        };
        store.enter(boot).map_err(failed)?;
        Ok(store)
    }

    fn enter(&self, boot: &str) -> kernel::Result<()> {
        if self.passing.get(BOOT, "id")?.as_deref() == Some(boot.as_bytes()) {
            return Ok(());
        }
        let mut batch = Batch::new();
        for table in [ENDPOINTS, INTENTS] {
            for (key, _) in self.passing.list(table)? {
                batch = batch.delete(table, &key);
            }
        }
        self.passing
            .commit(&batch.put(BOOT, "id", boot.as_bytes().to_vec()))
    }

    /// Every network, those half made or half removed among them.
    pub(super) fn networks(&self) -> Result<Vec<Network>, Fault> {
        let read = |records: &Records, table| {
            let rows = records.list(table).map_err(failed)?;
            let networks = rows
                .iter()
                .map(|(_, bytes)| Network::decode(bytes).map_err(corrupt));
            networks.collect::<Result<Vec<_>, _>>()
        };
        let mut networks = read(&self.lasting, NETWORKS)?;
        for intent in read(&self.passing, INTENTS)? {
            match networks.iter_mut().find(|there| there.spec.id == intent.spec.id) {
                Some(there) if intent.phase == NetworkPhase::Removing => *there = intent,
                // It was made, and only the intent not forgotten.
                Some(_) => {}
                None => networks.push(intent),
            }
        }
        Ok(networks)
    }

    /// Every endpoint of this boot.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, Fault> {
        let rows = self.passing.list(ENDPOINTS).map_err(failed)?;
        let endpoints = rows
            .iter()
            .map(|(_, bytes)| Endpoint::decode(bytes).map_err(corrupt));
        endpoints.collect()
    }

    /// Keeps a network: for good once it is made, else as an intent.
    pub(super) fn put_network(&self, network: &Network) -> kernel::Result<()> {
        let id = network.spec.id.as_str();
        let intent = Batch::new().put(INTENTS, id, network.encode());
        match network.phase {
            NetworkPhase::Making => return self.passing.commit(&intent),
            NetworkPhase::Removing => return self.passing.commit(&intent.giving_back()),
            NetworkPhase::Made => {}
        }
        let made = Batch::new().put(NETWORKS, id, network.encode());
        self.lasting.commit(&made)?;
        self.passing
            .commit(&Batch::new().delete(INTENTS, id).giving_back())
    }

    /// Forgets a network, whether it was made or only to be made.
    pub(super) fn forget_network(&self, id: &NetworkId) -> kernel::Result<()> {
        let id = id.as_str();
        if self.lasting.get(NETWORKS, id)?.is_some() {
            let gone = Batch::new().delete(NETWORKS, id);
            self.lasting.commit(&gone.giving_back())?;
        }
        self.passing
            .commit(&Batch::new().delete(INTENTS, id).giving_back())
    }

    /// Keeps an endpoint.
    pub(super) fn put_endpoint(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let key = endpoint_key(&endpoint.at);
        self.passing
            .commit(&Batch::new().put(ENDPOINTS, &key, endpoint.encode()))
    }

    /// Keeps an endpoint that gives something back: its link or its ports.
    pub(super) fn release_endpoint(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let key = endpoint_key(&endpoint.at);
        let batch = Batch::new().put(ENDPOINTS, &key, endpoint.encode());
        self.passing.commit(&batch.giving_back())
    }

    /// Forgets an endpoint.
    pub(super) fn forget_endpoint(&self, at: &EndpointRef) -> kernel::Result<()> {
        self.passing
            .commit(&Batch::new().delete(ENDPOINTS, &endpoint_key(at)).giving_back())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::{endpoint_record, network_record};

    #[test]
    fn a_boot_keeps_networks_and_forgets_endpoints_and_intents() {
        let (state, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |boot| Store::open_in(state.path(), runtime.path(), boot).unwrap();
        let with = |id, phase| Network {
            phase,
            ..network_record(id, "10.9.0.0/24")
        };
        let store = open("one");
        for (id, phase) in [
            ("made", NetworkPhase::Made),
            ("half", NetworkPhase::Making),
            ("gone", NetworkPhase::Made),
            ("gone", NetworkPhase::Removing),
        ] {
            store.put_network(&with(id, phase)).unwrap();
        }
        let endpoint = endpoint_record("made", "a", "10.9.0.2/24");
        store.put_endpoint(&endpoint).unwrap();
        let phases = |store: &Store| {
            let mut all: Vec<_> = store.networks().unwrap();
            all.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
            all.into_iter().map(|n| n.phase).collect::<Vec<_>>()
        };
        let before = [NetworkPhase::Removing, NetworkPhase::Making, NetworkPhase::Made];
        assert_eq!(phases(&store), before);
        drop(store);
        let store = open("one");
        assert_eq!(phases(&store), before, "a restart is no boot");
        assert_eq!(store.endpoints().unwrap(), [endpoint]);
        drop(store);
        let store = open("two");
        assert_eq!(phases(&store), [NetworkPhase::Made; 2]);
        assert_eq!(store.endpoints().unwrap(), []);
        for network in store.networks().unwrap() {
            store.forget_network(&network.spec.id).unwrap();
        }
        assert_eq!(store.networks().unwrap(), []);
    }

    #[test]
    fn a_network_whose_intent_was_not_forgotten_is_made() {
        let (state, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open_in(state.path(), runtime.path(), "one").unwrap();
        let network = network_record("one", "10.9.0.0/24");
        store.put_network(&network).unwrap();
        let late = Network {
            phase: NetworkPhase::Making,
            ..network.clone()
        };
        store.put_network(&late).unwrap();
        assert_eq!(store.networks().unwrap(), [network]);
    }
}
