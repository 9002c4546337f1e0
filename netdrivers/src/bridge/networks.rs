//! Verbs of networks.

use plugin_api::id::NetworkId;
use plugin_api::network::NetworkSpec;
use plugin_api::{Done, Fault, Undo};

use super::driver::{Core, failed, lock, random_mac};
use super::records::{Network, NetworkPhase};
use super::{options, plan};

impl Core {
    pub(super) fn make_network_of(&self, spec: &NetworkSpec) -> Result<Done, Fault> {
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

    pub(super) fn drop_network(&self, id: &NetworkId) -> Result<Done, Fault> {
        let _layout = lock(&self.layout);
        let gate = self.gate(id);
        let _gate = lock(&gate);
        let Some(network) = self.state().networks.get(id).cloned() else {
            return Ok(Done::AlreadySo);
        };
        self.remove_network(network)?;
        Ok(Done::Changed)
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
        self.dismiss_network(network)?;
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
            self.dismiss_network(&network)
        });
        undo.push(format!("remove bridge {}", network.bridge), || {
            self.lower_bridge(&network)
        });
        let outcome = self
            .raise_bridge(&network, options)
            .map_err(failed)
            .and_then(|()| self.admit_network(&network));
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
}
