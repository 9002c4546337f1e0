//! The driver: read, plan, apply, record.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::netlink::Socket;
use kernel::netlink::watch::Watch;
use plugin_api::id::{MacAddr, NetworkId};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinPlan, JoinSpec,
    NetworkCapabilities, NetworkDriver, NetworkSpec,
};
use plugin_api::report::NetworkUse;
use plugin_api::volume::Scope;
use plugin_api::{Done, Fault, FaultKind};

use super::keeper::Keeper;
use super::proxy::Relays;
use super::reaper::Reaper;
use super::records::{Endpoint, Network, NetworkPhase};
use super::store::Store;
use super::tables::Fenced;
use super::{plan, ports};

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
    pub(super) store: Store,
    pub(super) route: Socket,
    pub(super) nft: Arc<Socket>,
    pub(super) state: Mutex<State>,
    /// One change of the set of networks at a time, since they may not overlap.
    pub(super) layout: Mutex<()>,
    /// One verb per network at a time.
    gates: Mutex<BTreeMap<NetworkId, Arc<Mutex<()>>>>,
    /// Held by who changes the tables of nf_tables.
    pub(super) fenced: Arc<Mutex<Fenced>>,
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
    /// Opens the state in a folder that lasts and one in memory, which exist, repairs the kernel from it,
    /// and keeps it so.
    pub fn open(state: &Path, runtime: &Path) -> Result<Self, Fault> {
        // Listens first: what breaks during the repair is seen.
        let watch = Watch::open().map_err(failed)?;
        let core = Arc::new(Core::open(state, runtime)?);
        let keeper = Keeper::start(Arc::clone(&core), watch).map_err(failed)?;
        Ok(Self {
            _keeper: keeper,
            core,
        })
    }
}

impl Core {
    /// Opens the state and repairs the kernel from it, without a keeper.
    pub(super) fn open(state: &Path, runtime: &Path) -> Result<Self, Fault> {
        let store = Store::open(state, runtime)?;
        let nft = Arc::new(Socket::netfilter().map_err(failed)?);
        let fenced = Arc::<Mutex<Fenced>>::default();
        let reaper = Reaper::start(Arc::clone(&nft), Arc::clone(&fenced)).map_err(failed)?;
        let driver = Self {
            store,
            route: Socket::route().map_err(failed)?,
            nft,
            state: Mutex::default(),
            layout: Mutex::default(),
            gates: Mutex::default(),
            fenced,
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

    // === records, and what is in memory of them ===

    pub(super) fn put_network(&self, network: &Network) -> Result<(), Fault> {
        self.store.put_network(network).map_err(failed)?;
        let id = network.spec.id.clone();
        self.state().networks.insert(id, network.clone());
        Ok(())
    }

    pub(super) fn forget_network(&self, id: &NetworkId) -> Result<(), Fault> {
        self.store.forget_network(id).map_err(failed)?;
        self.state().networks.remove(id);
        Ok(())
    }

    pub(super) fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        self.store.put_endpoint(endpoint).map_err(failed)?;
        self.state()
            .endpoints
            .insert(endpoint.at.clone(), endpoint.clone());
        Ok(())
    }

    /// As [`Core::put_endpoint`], for an endpoint that gives something back.
    pub(super) fn release_endpoint(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        self.store.release_endpoint(endpoint).map_err(failed)?;
        self.state()
            .endpoints
            .insert(endpoint.at.clone(), endpoint.clone());
        Ok(())
    }

    pub(super) fn forget_endpoint(&self, at: &EndpointRef) -> Result<(), Fault> {
        self.store.forget_endpoint(at).map_err(failed)?;
        let mut state = self.state();
        state.endpoints.remove(at);
        state.held.remove(at);
        Ok(())
    }
}

impl NetworkDriver for Driver {
    fn report(&self) -> Vec<NetworkUse> {
        self.core.report()
    }

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
