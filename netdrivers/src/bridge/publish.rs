//! Verbs of published ports.

use kernel::netlink::conntrack::Flow;
use plugin_api::network::{ConnectivitySpec, EndpointRef, Protocol};
use plugin_api::{Done, Fault, FaultKind, Undo};

use super::driver::{Core, failed, lock};
use super::records::{Endpoint, Network, Published};
use super::{firewall, options, plan, ports};

impl Core {
    pub(super) fn publish(&self, spec: &ConnectivitySpec) -> Result<Done, Fault> {
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

    pub(super) fn withdraw(&self, at: &EndpointRef) -> Result<Done, Fault> {
        let gate = self.gate(&at.network);
        let _gate = lock(&gate);
        match self.endpoint(at) {
            Ok(mut endpoint) => self.revoke_now(&mut endpoint),
            Err(_) => Ok(Done::AlreadySo),
        }
    }

    /// Takes the ports of an endpoint back. Where that fails, the ports, the record and what is in memory
    /// are as they were, or the fault says what could not be restored; then record and memory both say
    /// that the ports are not programmed, and a retry or a restart takes them back.
    pub(super) fn revoke_now(&self, endpoint: &mut Endpoint) -> Result<Done, Fault> {
        let Some(steps) = plan::revocation(endpoint) else {
            return Ok(Done::AlreadySo);
        };
        self.release_endpoint(&steps.leaving)?;
        let mut undo = Undo::new();
        undo.push("remember the ports", || self.put_endpoint(endpoint));
        if let Err(fault) = self.take_ports(&steps.leaving, &steps.gone) {
            return Err(undo.unwind(fault));
        }
        undo.push("publish the ports again", || self.bring_ports(&steps.leaving));
        if let Err(fault) = self.release_endpoint(&steps.gone) {
            return Err(undo.unwind(fault));
        }
        undo.keep();
        self.forget_flows(&steps.leaving.published, |flow, p| flow.answered_by.ip() == p.to);
        self.state().held.remove(&steps.gone.at);
        *endpoint = steps.gone;
        Ok(Done::Changed)
    }

    /// Forgets tracked flows to UDP ports that end elsewhere than they are published now, or that were published
    /// here: a client that keeps sending would keep its old target.
    fn forget_flows(&self, published: &[Published], is_stale: impl Fn(&Flow, &Published) -> bool) {
        for is_ipv4 in [true, false] {
            let is_mine = |p: &&Published| p.protocol == Protocol::Udp && p.host.is_ipv4() == is_ipv4;
            let mine: Vec<_> = published.iter().filter(is_mine).collect();
            if mine.is_empty() {
                continue;
            }
            let is_stale = |flow: &Flow| mine.iter().any(|p| plan::is_to(flow.to, p) && is_stale(flow, p));
            let outcome = self
                .nft
                .flows(is_ipv4, Protocol::Udp.number(), is_stale)
                .and_then(|flows| self.nft.forget_flows(&flows));
            if let Err(error) = outcome {
                tracing::warn!(%error, "flows to a UDP port may go on to where they went before");
            }
        }
    }

    /// Removes the ports of `leaving` from the firewall; in memory there is `gone` then, so that no
    /// replacement of the table brings them back.
    fn take_ports(&self, leaving: &Endpoint, gone: &Endpoint) -> Result<(), Fault> {
        let mut fenced = lock(&self.fenced);
        match self.nft.commit(firewall::withdraw(leaving)) {
            Err(error) if !error.is_missing() => return Err(failed(error)),
            outcome => {
                self.state().endpoints.insert(gone.at.clone(), gone.clone());
                if outcome.is_ok() {
                    return Ok(());
                }
            }
        }
        // Somebody else removed some of them, or the table: make it whole without them.
        self.replace_tables_of(&mut fenced)
            .inspect_err(|_| {
                let mut state = self.state();
                state.endpoints.insert(leaving.at.clone(), leaving.clone());
            })
            .map_err(failed)
    }

    fn bring_ports(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let mut state = self.state();
        state.endpoints.insert(endpoint.at.clone(), endpoint.clone());
        drop(state);
        self.replace_tables()
    }

    fn program_now(
        &self,
        mut endpoint: Endpoint,
        spec: &ConnectivitySpec,
        network: &Network,
    ) -> Result<(), Fault> {
        let options = options::parse(&network.spec.options)?;
        self.revoke_now(&mut endpoint)?;
        let chosen = match ports::choose(&self.relays, &spec.ports, &options, &endpoint) {
            Err(fault) if fault.kind == FaultKind::InUse => {
                // Perhaps by an endpoint whose sandbox died and whom nobody left.
                self.sweep(&spec.at.network)?;
                self.sweep_all()?;
                endpoint = self.endpoint(&spec.at)?;
                ports::choose(&self.relays, &spec.ports, &options, &endpoint)
            }
            other => other,
        };
        let (published, held) = chosen?;
        let before = endpoint.clone();
        endpoint.bindings.clone_from(&spec.ports);
        endpoint.published = published;
        self.put_endpoint(&endpoint)?;
        let mut undo = Undo::new();
        undo.push("forget the ports", || self.put_endpoint(&before));
        if let Err(fault) = self.add_ports(&endpoint) {
            return Err(undo.unwind(fault));
        }
        undo.push("take the ports back", || self.take_ports(&endpoint, &before));
        let done = Endpoint {
            is_programmed: true,
            ..endpoint.clone()
        };
        if let Err(fault) = self.put_endpoint(&done) {
            return Err(undo.unwind(fault));
        }
        undo.keep();
        self.forget_flows(&done.published, |flow, p| flow.answered_by.ip() != p.to);
        self.state().held.insert(done.at, held);
        Ok(())
    }

    fn add_ports(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let mut fenced = lock(&self.fenced);
        match self.nft.commit(firewall::publish(endpoint)) {
            Err(error) if error.is_missing() => self.replace_tables_of(&mut fenced).map_err(failed),
            Err(error) if firewall::is_taken(&error) => Err(Fault::from_error(FaultKind::InUse, error)),
            other => other.map_err(failed),
        }
    }
}
