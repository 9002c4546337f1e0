//! Verbs of endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use plugin_api::id::{MacAddr, NetworkId};
use plugin_api::network::{EndpointInterface, EndpointRef, EndpointSpec, JoinPlan, JoinSpec};
use plugin_api::{Done, Fault, FaultKind, Undo};

use super::driver::{Core, failed, lock, random_mac, unknown_endpoint};
use super::options;
use super::plan;
use super::records::{Endpoint, EndpointPhase};

impl Core {
    pub(super) fn make_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointInterface, Fault> {
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
        let derived = || plan::mac_of(&spec.at.network, &spec.interface);
        let mac = spec.interface.mac.or_else(derived).map_or_else(random_mac, Ok)?;
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

    pub(super) fn info(&self, at: &EndpointRef) -> Result<BTreeMap<String, String>, Fault> {
        let endpoint = self.endpoint(at)?;
        let bridge = self.network(&at.network)?.bridge;
        let mut rows = BTreeMap::from([
            ("bridge".to_owned(), bridge),
            ("mac".to_owned(), endpoint.mac.to_string()),
            ("link".to_owned(), endpoint.outer.clone()),
        ]);
        for (nth, port) in endpoint.published.iter().enumerate() {
            let host = if port.is_open() {
                SocketAddr::new(port.to, port.to_port)
            } else {
                SocketAddr::new(port.host, port.host_port)
            };
            let row = format!("{host} -> {}/{}", port.to_port, port.protocol.as_str());
            rows.insert(format!("port.{nth}"), row);
        }
        Ok(rows)
    }

    pub(super) fn join_now(&self, spec: &JoinSpec) -> Result<JoinPlan, Fault> {
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

    pub(super) fn leave_now(&self, endpoint: &mut Endpoint) -> Result<Done, Fault> {
        let revoked = self.revoke_now(endpoint)?;
        if endpoint.phase == EndpointPhase::Apart {
            return Ok(revoked);
        }
        endpoint.phase = EndpointPhase::Leaving;
        self.release_endpoint(endpoint)?;
        self.fence(endpoint).map_err(failed)?;
        // The record may stay as it is: a restart fences once more what is not there any more.
        endpoint.phase = EndpointPhase::Apart;
        let mut state = self.state();
        state.endpoints.insert(endpoint.at.clone(), endpoint.clone());
        Ok(Done::Changed)
    }

    pub(super) fn delete_now(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let Ok(mut endpoint) = self.endpoint(at) else {
            return Ok(Done::AlreadySo);
        };
        self.leave_now(&mut endpoint)?;
        self.forget_endpoint(at)?;
        Ok(Done::Changed)
    }

    /// Removes endpoints of a network whose link died with its sandbox and that nobody left.
    pub(super) fn sweep(&self, id: &NetworkId) -> Result<(), Fault> {
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

    /// Sweeps every network that no verb is working on.
    pub(super) fn sweep_all(&self) -> Result<(), Fault> {
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
