//! The driver: read, plan, apply, record.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::netlink::Socket;
use kernel::netlink::watch::Watch;
use kernel::record::{Batch, Records};
use plugin_api::id::{MacAddr, NetworkId};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinPlan, JoinSpec,
    NetworkCapabilities, NetworkDriver, NetworkSpec,
};
use plugin_api::volume::Scope;
use plugin_api::{Done, Fault, FaultKind};

use super::keeper::Keeper;
use super::proxy::Relays;
use super::reaper::Reaper;
use super::records::{ENDPOINTS, Endpoint, NETWORKS, Network, NetworkPhase, endpoint_key};
use super::{firewall, guard, plan, ports};

/// What the records say, and the sockets that hold ports.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: BTreeMap<NetworkId, Network>,
    pub(super) endpoints: BTreeMap<EndpointRef, Endpoint>,
    pub(super) held: BTreeMap<EndpointRef, Vec<ports::Held>>,
}

/// The driver; one per network namespace.
#[derive(Debug)]
pub struct Driver {
    // Ends first: its thread uses the core.
    _keeper: Keeper,
    pub(super) core: Arc<Core>,
}

/// What the verbs and the keeper share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) records: Records,
    pub(super) route: Arc<Socket>,
    pub(super) nft: Socket,
    pub(super) state: Mutex<State>,
    /// One change of the set of networks at a time, since they may not overlap.
    pub(super) layout: Mutex<()>,
    /// One verb per network at a time.
    gates: Mutex<BTreeMap<NetworkId, Arc<Mutex<()>>>>,
    /// One change of the firewall at a time, so that a replacement does not miss one.
    pub(super) firewall: Mutex<()>,
    pub(super) reaper: Reaper,
    pub(super) relays: Relays,
}

pub(super) fn failed(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn random_mac() -> Result<MacAddr, Fault> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Fault::internal("read random bytes").because(error))?;
    Ok(plan::local_mac(bytes))
}

fn unknown_network(id: &NetworkId) -> Fault {
    Fault::not_found(format!("network {} does not exist", id.short()))
}

pub(super) fn unknown_endpoint(at: &EndpointRef) -> Fault {
    Fault::not_found(format!(
        "endpoint {} of network {} does not exist",
        at.endpoint.short(),
        at.network.short()
    ))
}

impl Driver {
    /// Opens the state in a folder that exists, repairs the kernel from it, and keeps it so.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        // Listens first: what breaks during the repair is seen.
        let watch = Watch::open().map_err(failed)?;
        let core = Arc::new(Core::open(folder)?);
        let keeper = Keeper::start(Arc::clone(&core), watch).map_err(failed)?;
        Ok(Self {
            _keeper: keeper,
            core,
        })
    }
}

impl Core {
    /// Opens the state and repairs the kernel from it, without a keeper.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let records = Records::open(&folder.join("state.redb")).map_err(failed)?;
        let route = Arc::new(Socket::route().map_err(failed)?);
        let reaper = Reaper::start(Arc::clone(&route))
            .map_err(|error| Fault::internal("start reaper").because(error))?;
        let driver = Self {
            records,
            route,
            nft: Socket::netfilter().map_err(failed)?,
            state: Mutex::default(),
            layout: Mutex::default(),
            gates: Mutex::default(),
            firewall: Mutex::default(),
            reaper,
            relays: Relays::start().map_err(failed)?,
        };
        driver.recover()?;
        Ok(driver)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn gate(&self, id: &NetworkId) -> Arc<Mutex<()>> {
        let mut gates = lock(&self.gates);
        // Nobody holds or awaits the others.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(gates.entry(id.clone()).or_default())
    }

    pub(super) fn network(&self, id: &NetworkId) -> Result<Network, Fault> {
        let network = self.state().networks.get(id).cloned();
        network
            .filter(|network| network.phase == NetworkPhase::Made)
            .ok_or_else(|| unknown_network(id))
    }

    pub(super) fn endpoint(&self, at: &EndpointRef) -> Result<Endpoint, Fault> {
        self.state()
            .endpoints
            .get(at)
            .cloned()
            .ok_or_else(|| unknown_endpoint(at))
    }

    // === records ===

    pub(super) fn put_network(&self, network: &Network) -> Result<(), Fault> {
        let id = network.spec.id.clone();
        let batch = Batch::new().put(NETWORKS, id.as_str(), network.encode());
        self.records.commit(&batch).map_err(failed)?;
        self.state().networks.insert(id, network.clone());
        Ok(())
    }

    pub(super) fn forget_network(&self, id: &NetworkId) -> Result<(), Fault> {
        let batch = Batch::new().delete(NETWORKS, id.as_str());
        self.records.commit(&batch).map_err(failed)?;
        self.state().networks.remove(id);
        Ok(())
    }

    pub(super) fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let batch = Batch::new().put(ENDPOINTS, &endpoint_key(&endpoint.at), endpoint.encode());
        self.records.commit(&batch).map_err(failed)?;
        self.state()
            .endpoints
            .insert(endpoint.at.clone(), endpoint.clone());
        Ok(())
    }

    pub(super) fn forget_endpoint(&self, at: &EndpointRef) -> Result<(), Fault> {
        let batch = Batch::new().delete(ENDPOINTS, &endpoint_key(at));
        self.records.commit(&batch).map_err(failed)?;
        let mut state = self.state();
        state.endpoints.remove(at);
        state.held.remove(at);
        Ok(())
    }

    // === kernel ===

    /// Makes the table what the records say.
    pub(super) fn replace_firewall(&self) -> Result<(), Fault> {
        let _one = lock(&self.firewall);
        self.replace_firewall_locked()
    }

    /// The same for who holds the lock of the firewall.
    pub(super) fn replace_firewall_locked(&self) -> Result<(), Fault> {
        let is_empty;
        let batch = {
            let state = self.state();
            let networks = state
                .networks
                .values()
                .filter(|network| network.phase != NetworkPhase::Removing);
            let networks: Vec<_> = networks.cloned().collect();
            is_empty = networks.is_empty();
            firewall::replace(&networks, state.endpoints.values())
        };
        self.nft.commit(batch).map_err(failed)?;
        if is_empty {
            self.nft.commit(guard::remove()).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes the guards' table what the records say.
    pub(super) fn replace_guard(&self) -> kernel::Result<()> {
        let _one = lock(&self.firewall);
        let batch = guard::replace(self.state().endpoints.values());
        self.nft.commit(batch)
    }

    /// Guards an endpoint's link, before there is one.
    pub(super) fn admit(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let outcome = {
            let _one = lock(&self.firewall);
            guard::admit(&self.nft, endpoint)
        };
        match outcome {
            // The first of its host, or somebody flushed it.
            Err(error) if error.is_missing() => self.replace_guard(),
            other => other,
        }
    }

    /// Forgets the guard of an endpoint whose link is down; the table goes with the last one, as it would
    /// at the next start.
    pub(super) fn dismiss(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let _one = lock(&self.firewall);
        match guard::dismiss(&self.nft, endpoint) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
        if guard::elements(self.state().endpoints.values()).is_empty() {
            self.nft.commit(guard::remove())?;
        }
        Ok(())
    }

    /// Whether the table is what the records say; it may be absent where there is no network.
    pub(super) fn is_firewall_whole(&self) -> kernel::Result<bool> {
        let _one = lock(&self.firewall);
        let wanted = {
            let state = self.state();
            let networks = state
                .networks
                .values()
                .filter(|network| network.phase != NetworkPhase::Removing);
            let networks: Vec<_> = networks.cloned().collect();
            if networks.is_empty() {
                return Ok(true);
            }
            firewall::elements(&networks, state.endpoints.values())
        };
        if !firewall::is_whole(&self.nft, &wanted)? {
            return Ok(false);
        }
        let endpoints: Vec<_> = self.state().endpoints.values().cloned().collect();
        let wanted = guard::elements(endpoints.iter());
        // The first endpoint that joins brings the table.
        Ok(wanted.is_empty() || guard::is_whole(&self.nft, &wanted)?)
    }

    pub(super) fn has_firewall_table(&self) -> kernel::Result<bool> {
        Ok(self.nft.tables()?.iter().any(|table| table == firewall::TABLE.0))
    }
}

impl NetworkDriver for Driver {
    fn capabilities(&self) -> NetworkCapabilities {
        NetworkCapabilities {
            scope: Scope::Local,
            connectivity: Scope::Local,
            checks_gateway: false,
        }
    }

    fn create_network(&self, spec: &NetworkSpec) -> Result<Done, Fault> {
        self.core.make_network_of(spec)
    }

    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        self.core.drop_network(id)
    }

    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
        self.core.make_endpoint(spec)
    }

    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.core.gate(&at.network);
        let _gate = lock(&gate);
        self.core.delete_now(at)
    }

    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        self.core.info(at)
    }

    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
        self.core.join_now(spec)
    }

    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.core.gate(&at.network);
        let _gate = lock(&gate);
        match self.core.endpoint(at) {
            Ok(mut endpoint) => self.core.leave_now(&mut endpoint),
            Err(_) => Ok(Done::AlreadySo),
        }
    }

    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        Some(self)
    }
}

impl ExternalConnectivity for Driver {
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
        self.core.publish(spec)
    }

    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault> {
        self.core.withdraw(at)
    }
}
