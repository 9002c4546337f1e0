//! Links of the kernel: bridges of networks, veth pairs of endpoints.

use kernel::netlink::link::{self, At};
use kernel::netlink::{Request, address};
use kernel::netns::set_sysctl;
use plugin_api::network::NetworkSpec;

use super::driver::{Core, lock};
use super::records::{Endpoint, EndpointPhase, Network};
use super::tables::missing_is_fine;
use super::{options, plan};

impl Core {
    /// Makes a bridge, or adopts the one that has its name, and gives it its addresses.
    pub(super) fn raise_bridge(&self, network: &Network, options: &options::Bridge) -> kernel::Result<()> {
        let name = network.bridge.as_str();
        let is_new = self.route.link(name)?.is_none();
        if is_new {
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
        let present = if is_new {
            Vec::new()
        } else {
            self.route.addresses()?
        };
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
            let at = At::Index(found.index);
            missing_is_fine(self.route.one(link::fence(at, plan::DYING)))?;
            return self.reaper.reap();
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
    pub(super) fn raise_link(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        options: &options::Bridge,
    ) -> kernel::Result<()> {
        self.admit(endpoint)?;
        let outer = At::Name(&endpoint.outer);
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
        let requests = || {
            let mut requests = link::create_veth(&veth);
            // Hairpin: with br_netfilter a container's way to its own published port is bridged back.
            requests.push(link::set_port(outer, !options.icc, true));
            requests
        };
        match self.route.all(requests()) {
            Err(error) if error.is_exists() => {
                // Fenced a moment ago, and not reaped yet.
                missing_is_fine(self.route.one(link::delete(outer)))?;
                self.route.all(requests())
            }
            other => other,
        }
    }

    /// Cuts an endpoint's link off; the reaper deletes it, both ends, wherever the inner end is.
    pub(super) fn fence(&self, endpoint: &Endpoint) -> kernel::Result<()> {
        missing_is_fine(
            self.route
                .one(link::fence(At::Name(&endpoint.outer), plan::DYING)),
        )?;
        let fenced = Endpoint {
            phase: EndpointPhase::Leaving,
            ..endpoint.clone()
        };
        lock(&self.fenced).push(fenced);
        self.reaper.wake();
        Ok(())
    }
}
