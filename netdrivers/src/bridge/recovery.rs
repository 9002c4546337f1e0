//! At start: the records say what should be, dumps say what is, and the difference is repaired.

use std::collections::BTreeSet;

use kernel::netlink::link::{self, At, Link};
use plugin_api::Fault;

use super::driver::{Core, failed};
use super::records::{EndpointPhase, Network, NetworkPhase};
use super::{options, plan, ports};

impl Core {
    pub(super) fn recover(&self) -> Result<(), Fault> {
        self.load()?;
        let networks: Vec<_> = self.state().networks.values().cloned().collect();
        let (made, broken): (Vec<_>, Vec<_>) =
            networks.into_iter().partition(|n| n.phase == NetworkPhase::Made);
        let links = self.route.links().map_err(failed)?;
        self.settle_endpoints(&made, &links)?;
        self.drop_strange_links(&links)?;
        for network in &broken {
            tracing::info!(network = %network.spec.id, "removing a network that was half made or half removed");
            let removing = Network {
                phase: NetworkPhase::Removing,
                ..network.clone()
            };
            self.put_network(&removing)?;
            self.finish_removal(&removing)?;
        }
        for network in &made {
            self.raise_again(network)?;
        }
        self.reaper.reap().map_err(failed)?;
        self.settle_passage().map_err(failed)?;
        if made.is_empty() && !self.has_table()? {
            return Ok(());
        }
        self.replace_tables()?;
        let programmed: Vec<_> = self.state().endpoints.values().cloned().collect();
        for endpoint in programmed {
            let held = ports::hold_again(&self.relays, &endpoint);
            self.state().held.insert(endpoint.at, held);
        }
        Ok(())
    }

    fn load(&self) -> Result<(), Fault> {
        let (networks, endpoints) = (self.store.networks()?, self.store.endpoints()?);
        let mut state = self.state();
        for network in networks {
            state.networks.insert(network.spec.id.clone(), network);
        }
        for endpoint in endpoints {
            state.endpoints.insert(endpoint.at.clone(), endpoint);
        }
        Ok(())
    }

    /// Endpoints of lost networks and of dead sandboxes go; half-made joins and ports are taken back.
    fn settle_endpoints(&self, made: &[Network], links: &[Link]) -> Result<(), Fault> {
        let endpoints: Vec<_> = self.state().endpoints.values().cloned().collect();
        for mut endpoint in endpoints {
            let is_homeless = !made.iter().any(|network| network.spec.id == endpoint.at.network);
            let alias = plan::link_alias(&endpoint.at.endpoint);
            let has_link = links
                .iter()
                .any(|link| link.name == endpoint.outer && link.alias == alias);
            let is_dead = endpoint.phase == EndpointPhase::Joined && !has_link;
            if is_homeless || is_dead {
                tracing::info!(endpoint = %endpoint.at.endpoint, "forgetting an endpoint whose sandbox or network is gone");
                self.fence(&endpoint).map_err(failed)?;
                self.forget_endpoint(&endpoint.at)?;
                continue;
            }
            let before = endpoint.clone();
            if matches!(endpoint.phase, EndpointPhase::Joining | EndpointPhase::Leaving) {
                self.fence(&endpoint).map_err(failed)?;
                endpoint.phase = EndpointPhase::Apart;
            }
            if !endpoint.is_programmed {
                endpoint.bindings.clear();
                endpoint.published.clear();
            }
            if endpoint != before {
                self.put_endpoint(&endpoint)?;
            }
        }
        Ok(())
    }

    /// Links with our mark that no record knows.
    fn drop_strange_links(&self, links: &[Link]) -> Result<(), Fault> {
        let known: BTreeSet<String> = {
            let state = self.state();
            let bridges = state.networks.keys().map(plan::bridge_alias);
            let joined = state
                .endpoints
                .values()
                .filter(|e| e.phase == EndpointPhase::Joined);
            bridges
                .chain(joined.map(|e| plan::link_alias(&e.at.endpoint)))
                .collect()
        };
        let strange = links
            .iter()
            .filter(|l| l.alias.starts_with(plan::MARK) && !known.contains(&l.alias));
        for link in strange {
            tracing::info!(link = %link.name, "deleting a link that no record knows");
            match self.route.one(link::delete(At::Index(link.index))) {
                Err(error) if !error.is_missing() => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The bridge with its addresses, and the links of its endpoints as its ports.
    pub(super) fn raise_again(&self, network: &Network) -> Result<(), Fault> {
        let mut network = network.clone();
        if network.is_adopted && self.route.link(&network.bridge).map_err(failed)?.is_none() {
            network.is_adopted = false;
            self.put_network(&network)?;
        }
        let options = options::parse(&network.spec.options)?;
        self.raise_bridge(&network, &options).map_err(failed)?;
        let bridge = self.route.index_of(&network.bridge).map_err(failed)?;
        let joined: Vec<_> = {
            let state = self.state();
            let mine = state
                .endpoints
                .values()
                .filter(|e| e.at.network == network.spec.id);
            mine.filter(|e| e.phase == EndpointPhase::Joined)
                .cloned()
                .collect()
        };
        for endpoint in joined {
            let link = self.route.link(&endpoint.outer).map_err(failed)?;
            let Some(link) = link.filter(|link| link.master != Some(bridge) || !link.is_up()) else {
                continue;
            };
            let at = At::Index(link.index);
            let requests = vec![
                link::set_master(at, Some(bridge)),
                link::set_up(at),
                link::set_port(at, !options.icc, true),
            ];
            self.route.all(requests).map_err(failed)?;
        }
        Ok(())
    }

    fn has_table(&self) -> Result<bool, Fault> {
        self.has_firewall_table().map_err(failed)
    }
}
