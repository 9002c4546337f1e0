//! The driver: read, plan, apply, record.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::netlink::link::{self, At};
use kernel::netlink::{Request, Socket, address};
use kernel::netns::set_sysctl;
use kernel::record::{Batch, Records};
use plugin_api::id::{MacAddr, NetworkId};
use plugin_api::network::{
    ConnectivitySpec, EndpointInterface, EndpointRef, EndpointSpec, ExternalConnectivity, JoinPlan, JoinSpec,
    NetworkCapabilities, NetworkDriver, NetworkSpec,
};
use plugin_api::volume::Scope;
use plugin_api::{Done, Fault, FaultKind, Undo};

use super::reaper::{Reaper, reap};
use super::records::{ENDPOINTS, Endpoint, EndpointPhase, NETWORKS, Network, NetworkPhase, endpoint_key};
use super::{firewall, options, plan, ports};

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
    pub(super) records: Records,
    pub(super) route: Arc<Socket>,
    nft: Socket,
    pub(super) state: Mutex<State>,
    /// One change of the set of networks at a time, since they may not overlap.
    layout: Mutex<()>,
    /// One verb per network at a time.
    gates: Mutex<BTreeMap<NetworkId, Arc<Mutex<()>>>>,
    /// One change of the firewall at a time, so that a replacement does not miss one.
    firewall: Mutex<()>,
    reaper: Reaper,
}

pub(super) fn failed(error: kernel::Error) -> Fault {
    Fault::from_error(FaultKind::Unavailable, error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_mac() -> Result<MacAddr, Fault> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Fault::internal("read random bytes").because(error))?;
    Ok(plan::local_mac(bytes))
}

fn unknown_network(id: &NetworkId) -> Fault {
    Fault::not_found(format!("network {} does not exist", id.short()))
}

fn unknown_endpoint(at: &EndpointRef) -> Fault {
    Fault::not_found(format!(
        "endpoint {} of network {} does not exist",
        at.endpoint.short(),
        at.network.short()
    ))
}

impl Driver {
    /// Opens the state in a folder that exists, and repairs the kernel from it.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
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
        };
        driver.recover()?;
        Ok(driver)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn gate(&self, id: &NetworkId) -> Arc<Mutex<()>> {
        let mut gates = lock(&self.gates);
        // Nobody holds or awaits the others.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(gates.entry(id.clone()).or_default())
    }

    fn network(&self, id: &NetworkId) -> Result<Network, Fault> {
        let network = self.state().networks.get(id).cloned();
        network
            .filter(|network| network.phase == NetworkPhase::Made)
            .ok_or_else(|| unknown_network(id))
    }

    fn endpoint(&self, at: &EndpointRef) -> Result<Endpoint, Fault> {
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
        let batch = {
            let state = self.state();
            let networks = state
                .networks
                .values()
                .filter(|network| network.phase != NetworkPhase::Removing);
            let networks: Vec<_> = networks.cloned().collect();
            firewall::replace(&networks, state.endpoints.values())
        };
        self.nft.commit(batch).map_err(failed)
    }

    pub(super) fn has_firewall_table(&self) -> kernel::Result<bool> {
        Ok(self.nft.tables()?.iter().any(|table| table == firewall::TABLE.0))
    }

    /// Makes a bridge, or adopts the one that has its name, and gives it its addresses.
    pub(super) fn raise_bridge(&self, network: &Network, options: &options::Bridge) -> kernel::Result<()> {
        let name = network.bridge.as_str();
        let found = self.route.link(name)?;
        if found.is_none() {
            let bridge = link::Bridge {
                mac: Some(network.mac.0),
                mtu: Some(options.mtu),
                alias: Some(plan::bridge_alias(&network.spec.id)),
                group: None,
            };
            self.route.all(link::create_bridge(name, &bridge))?;
        }
        let index = self.route.index_of(name)?;
        if !network.is_adopted {
            let no_v6 = if network.spec.enable_ipv6 { "0" } else { "1" };
            self.set_if_there(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            self.set_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), no_v6)?;
        }
        let present = self.route.addresses()?;
        let gateways = plan::gateways(&network.spec).into_iter();
        let missing =
            gateways.filter(|net| !present.iter().any(|has| has.link == index && has.address == *net));
        let mut requests: Vec<Request> = missing.map(|net| address::add(index, net)).collect();
        requests.push(link::set_up(At::Index(index)));
        self.route.all(requests)?;
        if !network.spec.internal {
            self.forward(&network.spec)?;
        }
        Ok(())
    }

    /// A host without IPv6 has no such sysctl.
    #[allow(clippy::unused_self)]
    fn set_if_there(&self, name: &str, value: &str) -> kernel::Result<()> {
        match set_sysctl(name, value) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    fn forward(&self, spec: &NetworkSpec) -> kernel::Result<()> {
        if spec.enable_ipv4 && !spec.ipv4.is_empty() {
            set_sysctl("ipv4/ip_forward", "1")?;
        }
        if spec.enable_ipv6 && !spec.ipv6.is_empty() {
            self.set_if_there("ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    /// Removes a bridge of ours; takes our addresses from an adopted one.
    pub(super) fn lower_bridge(&self, network: &Network) -> kernel::Result<()> {
        let Some(found) = self.route.link(&network.bridge)? else {
            return Ok(());
        };
        if !network.is_adopted && found.alias == plan::bridge_alias(&network.spec.id) {
            return missing_is_fine(self.route.one(link::delete(At::Index(found.index))));
        }
        let gateways = plan::gateways(&network.spec);
        for has in self.route.addresses()? {
            if has.link == found.index && gateways.contains(&has.address) {
                missing_is_fine(self.route.one(address::delete(found.index, has.address)))?;
            }
        }
        Ok(())
    }

    /// Makes the link of an endpoint.
    fn raise_link(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        options: &options::Bridge,
    ) -> kernel::Result<()> {
        if let Some(old) = self.route.link(&endpoint.outer)? {
            // Fenced a moment ago, and not reaped yet.
            missing_is_fine(self.route.one(link::delete(At::Index(old.index))))?;
        }
        let alias = plan::link_alias(&endpoint.at.endpoint);
        let veth = link::Veth {
            outer: &endpoint.outer,
            inner: &endpoint.inner,
            mac: Some(endpoint.mac.0),
            mtu: Some(options.mtu),
            master: Some(self.route.index_of(&network.bridge)?),
            alias: Some(&alias),
            up: true,
            ..link::Veth::default()
        };
        self.route.all(link::create_veth(&veth))?;
        // Hairpin: with br_netfilter a container's way to its own published port is bridged back.
        let outer = self.route.index_of(&endpoint.outer)?;
        self.route.one(link::set_port(outer, !options.icc, true))?;
        Ok(())
    }

    /// Cuts an endpoint's link off; the reaper deletes it, both ends, wherever the inner end is.
    pub(super) fn fence(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        let at = At::Name(&endpoint.outer);
        let requests = vec![
            link::set_down(at),
            link::set_master(at, None),
            link::set_group(at, plan::DYING),
        ];
        for outcome in self.route.each(requests)? {
            missing_is_fine(outcome)?;
        }
        self.reaper.wake();
        Ok(())
    }

    // === verbs, under their network's gate ===

    fn revoke_now(&self, endpoint: &mut Endpoint) -> Result<Done, Fault> {
        if endpoint.bindings.is_empty() && endpoint.published.is_empty() {
            return Ok(Done::AlreadySo);
        }
        let old = endpoint.clone();
        endpoint.is_programmed = false;
        self.put_endpoint(endpoint)?;
        let gone = Endpoint {
            bindings: Vec::new(),
            published: Vec::new(),
            ..endpoint.clone()
        };
        // Out of the state first: a replacement must not bring the ports back.
        self.state().endpoints.insert(gone.at.clone(), gone.clone());
        let outcome = {
            let _one = lock(&self.firewall);
            firewall::withdraw(&self.nft, &old)
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_missing() => self.replace_firewall()?,
            Err(error) => {
                self.state().endpoints.insert(old.at.clone(), old);
                return Err(failed(error));
            }
        }
        self.put_endpoint(&gone)?;
        self.state().held.remove(&gone.at);
        *endpoint = gone;
        Ok(Done::Changed)
    }

    fn leave_now(&self, endpoint: &mut Endpoint) -> Result<Done, Fault> {
        let revoked = self.revoke_now(endpoint)?;
        if endpoint.phase == EndpointPhase::Apart {
            return Ok(revoked);
        }
        endpoint.phase = EndpointPhase::Leaving;
        self.put_endpoint(endpoint)?;
        self.fence(endpoint).map_err(failed)?;
        endpoint.phase = EndpointPhase::Apart;
        self.put_endpoint(endpoint)?;
        Ok(Done::Changed)
    }

    fn delete_now(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let Ok(mut endpoint) = self.endpoint(at) else {
            return Ok(Done::AlreadySo);
        };
        self.leave_now(&mut endpoint)?;
        self.forget_endpoint(at)?;
        Ok(Done::Changed)
    }

    /// Removes endpoints of a network whose link died with its sandbox and that nobody left.
    fn sweep(&self, id: &NetworkId) -> Result<(), Fault> {
        let joined: Vec<_> = {
            let state = self.state();
            let mine = state
                .endpoints
                .values()
                .filter(|e| e.at.network == *id && e.phase == EndpointPhase::Joined);
            mine.cloned().collect()
        };
        for endpoint in joined {
            if self.route.link(&endpoint.outer).map_err(failed)?.is_none() {
                self.delete_now(&endpoint.at)?;
            }
        }
        Ok(())
    }

    fn remove_network(&self, mut network: Network) -> Result<(), Fault> {
        let id = network.spec.id.clone();
        network.phase = NetworkPhase::Removing;
        self.put_network(&network)?;
        let endpoints: Vec<_> = {
            let state = self.state();
            state
                .endpoints
                .keys()
                .filter(|at| at.network == id)
                .cloned()
                .collect()
        };
        for at in endpoints {
            self.delete_now(&at)?;
        }
        self.finish_removal(&network)
    }

    pub(super) fn finish_removal(&self, network: &Network) -> Result<(), Fault> {
        reap(&self.route).map_err(failed)?;
        self.replace_firewall()?;
        self.lower_bridge(network).map_err(failed)?;
        self.forget_network(&network.spec.id)
    }

    fn make_network(&self, mut network: Network, options: &options::Bridge) -> Result<(), Fault> {
        let found = self.route.link(&network.bridge).map_err(failed)?;
        if let Some(found) = found {
            if found.kind != "bridge" {
                let text = format!("link {} is there and is no bridge", network.bridge);
                return Err(Fault::already_exists(text));
            }
            network.is_adopted = true;
        }
        self.put_network(&network)?;
        let mut undo = Undo::new();
        undo.push(format!("forget network {}", network.spec.id.short()), || {
            self.forget_network(&network.spec.id)?;
            self.replace_firewall()
        });
        undo.push(format!("remove bridge {}", network.bridge), || {
            self.lower_bridge(&network)
        });
        let outcome = self
            .raise_bridge(&network, options)
            .map_err(failed)
            .and_then(|()| self.replace_firewall());
        if let Err(fault) = outcome {
            return Err(undo.unwind(fault));
        }
        let made = Network {
            phase: NetworkPhase::Made,
            ..network.clone()
        };
        match self.put_network(&made) {
            Ok(()) => undo.keep(),
            Err(fault) => return Err(undo.unwind(fault)),
        }
        Ok(())
    }

    fn program_now(
        &self,
        mut endpoint: Endpoint,
        spec: &ConnectivitySpec,
        network: &Network,
    ) -> Result<(), Fault> {
        let options = options::parse(&network.spec.options)?;
        self.revoke_now(&mut endpoint)?;
        let chosen = match ports::choose(&spec.ports, options.host_binding, &endpoint) {
            Err(fault) if fault.kind == FaultKind::InUse => {
                // Perhaps by an endpoint whose sandbox died and whom nobody left.
                self.sweep(&spec.at.network)?;
                self.sweep_all()?;
                endpoint = self.endpoint(&spec.at)?;
                ports::choose(&spec.ports, options.host_binding, &endpoint)
            }
            other => other,
        };
        let (published, held) = chosen?;
        let before = endpoint.clone();
        endpoint.bindings.clone_from(&spec.ports);
        endpoint.published = published;
        self.put_endpoint(&endpoint)?;
        let outcome = {
            let _one = lock(&self.firewall);
            firewall::publish(&self.nft, &endpoint)
        };
        let outcome = match outcome {
            Err(error) if error.is_missing() => self.replace_firewall(),
            Err(error) if firewall::is_taken(&error) => Err(Fault::from_error(FaultKind::InUse, error)),
            other => other.map_err(failed),
        };
        if let Err(fault) = outcome {
            let mut undo = Undo::new();
            undo.push("forget the ports", || self.put_endpoint(&before));
            return Err(undo.unwind(fault));
        }
        endpoint.is_programmed = true;
        self.put_endpoint(&endpoint)?;
        self.state().held.insert(endpoint.at.clone(), held);
        Ok(())
    }

    /// Sweeps every network that no verb is working on.
    fn sweep_all(&self) -> Result<(), Fault> {
        let ids: Vec<_> = self.state().networks.keys().cloned().collect();
        for id in ids {
            let gate = self.gate(&id);
            // A network in use by another verb, or by this one, is swept by that.
            let free = gate.try_lock();
            if free.is_ok() {
                self.sweep(&id)?;
            }
        }
        Ok(())
    }
}

fn missing_is_fine(outcome: kernel::Result<()>) -> kernel::Result<()> {
    match outcome {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
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
        let _layout = lock(&self.layout);
        let gate = self.gate(&spec.id);
        let _gate = lock(&gate);
        let there = self.state().networks.get(&spec.id).cloned();
        match there {
            Some(there) if there.phase != NetworkPhase::Made => self.remove_network(there)?,
            Some(there) if there.spec == *spec => return Ok(Done::AlreadySo),
            Some(_) => {
                let text = format!("network {} exists and is defined otherwise", spec.id.short());
                return Err(Fault::already_exists(text));
            }
            None => {}
        }
        let mac = random_mac()?;
        let (network, options) = {
            let state = self.state();
            plan::network(spec, state.networks.values(), mac)?
        };
        self.make_network(network, &options)?;
        Ok(Done::Changed)
    }

    fn delete_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        let _layout = lock(&self.layout);
        let gate = self.gate(id);
        let _gate = lock(&gate);
        let Some(network) = self.state().networks.get(id).cloned() else {
            return Ok(Done::AlreadySo);
        };
        self.remove_network(network)?;
        Ok(Done::Changed)
    }

    fn create_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
        let gate = self.gate(&spec.at.network);
        let _gate = lock(&gate);
        self.network(&spec.at.network)?;
        let answer = |mac: MacAddr| EndpointInterface {
            mac: if spec.interface.mac.is_none() {
                Some(mac)
            } else {
                None
            },
            ..EndpointInterface::default()
        };
        if let Ok(there) = self.endpoint(&spec.at) {
            if there.asked == spec.interface {
                return Ok(answer(there.mac));
            }
            let text = format!(
                "endpoint {} exists and is defined otherwise",
                spec.at.endpoint.short()
            );
            return Err(Fault::already_exists(text));
        }
        if self.holder_of(spec).is_some() {
            self.sweep(&spec.at.network)?;
        }
        if let Some(holder) = self.holder_of(spec) {
            let text = format!(
                "endpoint {}: endpoint {} has its address",
                spec.at.endpoint.short(),
                holder.endpoint.short()
            );
            return Err(Fault::new(FaultKind::Conflict, text));
        }
        let mac = spec.interface.mac.map_or_else(random_mac, Ok)?;
        let (outer, inner) = plan::link_names(&spec.at.endpoint);
        self.put_endpoint(&Endpoint {
            at: spec.at.clone(),
            asked: spec.interface.clone(),
            mac,
            outer,
            inner,
            phase: EndpointPhase::Apart,
            sandbox: None,
            bindings: Vec::new(),
            published: Vec::new(),
            is_programmed: false,
        })?;
        Ok(answer(mac))
    }

    fn delete_endpoint(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.gate(&at.network);
        let _gate = lock(&gate);
        self.delete_now(at)
    }

    fn endpoint_info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        let endpoint = self.endpoint(at)?;
        let bridge = self.network(&at.network)?.bridge;
        let mut rows = BTreeMap::from([
            ("bridge".to_owned(), bridge),
            ("mac".to_owned(), endpoint.mac.to_string()),
            ("link".to_owned(), endpoint.outer.clone()),
        ]);
        for (nth, port) in endpoint.published.iter().enumerate() {
            let host = std::net::SocketAddr::new(port.host, port.host_port);
            let row = format!("{host} -> {}/{}", port.to_port, port.protocol.as_str());
            rows.insert(format!("port.{nth}"), row);
        }
        Ok(rows)
    }

    fn join(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
        let gate = self.gate(&spec.at.network);
        let _gate = lock(&gate);
        let Ok(network) = self.network(&spec.at.network) else {
            return Err(unknown_endpoint(&spec.at));
        };
        let mut endpoint = self.endpoint(&spec.at)?;
        let options = options::parse(&network.spec.options)?;
        if endpoint.phase == EndpointPhase::Joined
            && self.route.link(&endpoint.outer).map_err(failed)?.is_some()
        {
            if endpoint.sandbox.as_ref() == Some(&spec.sandbox) {
                return Ok(plan::join(&network, &endpoint, &options.prefix));
            }
            let text = format!(
                "endpoint {} is joined to another sandbox",
                spec.at.endpoint.short()
            );
            return Err(Fault::in_use(text));
        }
        endpoint.phase = EndpointPhase::Joining;
        endpoint.sandbox = Some(spec.sandbox.clone());
        self.put_endpoint(&endpoint)?;
        let apart = Endpoint {
            phase: EndpointPhase::Apart,
            sandbox: None,
            ..endpoint.clone()
        };
        let mut undo = Undo::new();
        undo.push("forget the join", || self.put_endpoint(&apart));
        undo.push(format!("fence link {}", apart.outer), || self.fence(&apart));
        let outcome = self.raise_link(&network, &endpoint, &options).map_err(failed);
        endpoint.phase = EndpointPhase::Joined;
        match outcome.and_then(|()| self.put_endpoint(&endpoint)) {
            Ok(()) => undo.keep(),
            Err(fault) => return Err(undo.unwind(fault)),
        }
        Ok(plan::join(&network, &endpoint, &options.prefix))
    }

    fn leave(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.gate(&at.network);
        let _gate = lock(&gate);
        match self.endpoint(at) {
            Ok(mut endpoint) => self.leave_now(&mut endpoint),
            Err(_) => Ok(Done::AlreadySo),
        }
    }

    fn external_connectivity(&self) -> Option<&dyn ExternalConnectivity> {
        Some(self)
    }
}

impl Driver {
    /// Another endpoint of the network with one of the addresses asked for.
    fn holder_of(&self, spec: &EndpointSpec) -> Option<EndpointRef> {
        let same = |a: Option<ipnet::IpNet>, b: Option<ipnet::IpNet>| {
            a.is_some() && a.map(|a| a.addr()) == b.map(|b| b.addr())
        };
        let state = self.state();
        let mut mine = state
            .endpoints
            .values()
            .filter(|other| other.at.network == spec.at.network);
        let holder = mine.find(|other| {
            same(other.asked.address, spec.interface.address)
                || same(other.asked.address_v6, spec.interface.address_v6)
        });
        holder.map(|holder| holder.at.clone())
    }
}

impl ExternalConnectivity for Driver {
    fn program(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
        let gate = self.gate(&spec.at.network);
        let _gate = lock(&gate);
        let network = self.network(&spec.at.network)?;
        let endpoint = self.endpoint(&spec.at)?;
        if endpoint.bindings == spec.ports && (endpoint.is_programmed || spec.ports.is_empty()) {
            return Ok(Done::AlreadySo);
        }
        if network.spec.internal {
            let text = format!(
                "publish ports of network {}: it is internal",
                network.spec.id.short()
            );
            return Err(Fault::invalid(text));
        }
        self.program_now(endpoint, spec, &network)?;
        Ok(Done::Changed)
    }

    fn revoke(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.gate(&at.network);
        let _gate = lock(&gate);
        match self.endpoint(at) {
            Ok(mut endpoint) => self.revoke_now(&mut endpoint),
            Err(_) => Ok(Done::AlreadySo),
        }
    }
}
