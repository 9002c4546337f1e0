//! Networks and volumes as the engine remembers them.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use plugin_api::Options;
use serde_json::{Value, json};

use super::{Kind, Locked, Store, maybe_parsed, options, text};

/// An address pool of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    /// The address driver's name for it.
    pub(crate) id: String,
    pub(crate) space: String,
    pub(crate) subnet: IpNet,
    pub(crate) gateway: Option<IpNet>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: String,
    pub(crate) driver: String,
    pub(crate) ipam: String,
    pub(crate) options: Options,
    pub(crate) internal: bool,
    pub(crate) ipv6: bool,
    pub(crate) pools: Vec<Pool>,
    /// False from before the driver is asked until it has answered.
    pub(crate) ready: bool,
}

impl Pool {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id, "space": self.space, "subnet": self.subnet.to_string(),
            "gateway": self.gateway.map(|gateway| gateway.to_string()),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            id: text(value, "id")?,
            space: text(value, "space")?,
            subnet: maybe_parsed(value, "subnet")?.ok_or_else(|| anyhow!("pool record has no subnet"))?,
            gateway: maybe_parsed(value, "gateway")?,
        })
    }
}

impl Network {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "created": self.created, "driver": self.driver,
            "ipam": self.ipam, "options": self.options, "internal": self.internal, "ipv6": self.ipv6,
            "pools": self.pools.iter().map(Pool::to_json).collect::<Vec<_>>(), "ready": self.ready,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let pools = value["pools"].as_array().into_iter().flatten();
        Ok(Self {
            id: text(value, "id")?,
            name: text(value, "name")?,
            created: text(value, "created")?,
            driver: text(value, "driver")?,
            ipam: text(value, "ipam")?,
            options: options(&value["options"]),
            internal: value["internal"].as_bool().unwrap_or(false),
            ipv6: value["ipv6"].as_bool().unwrap_or(false),
            pools: pools.map(Pool::from_json).collect::<Result<_>>()?,
            ready: value["ready"].as_bool().unwrap_or(false),
        })
    }

    /// The pool that an address of this family comes from.
    pub(crate) fn pool_of(&self, wanted: Option<IpAddr>, v6: bool) -> Option<&Pool> {
        let mut family = self
            .pools
            .iter()
            .filter(|pool| matches!(pool.subnet, IpNet::V6(_)) == v6);
        match wanted {
            None => family.next(),
            Some(address) => family.find(|pool| pool.subnet.contains(&address)),
        }
    }
}

/// A volume: which driver has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) options: Options,
    pub(crate) created: String,
}

impl Store {
    /// Every network.
    pub(crate) fn networks(&self) -> Result<Vec<Network>> {
        let all = self.list(Kind::Network)?;
        all.iter().map(|(_, value)| Network::from_json(value)).collect()
    }

    /// The network of a name or of the beginning of an id.
    pub(crate) fn network(&self, typed: &str) -> Result<Network> {
        super::pick("network", typed, self.networks()?, |one| (&one.id, &one.name))
    }

    /// Writes a network.
    pub(crate) fn put_network(&self, lock: &Locked, network: &Network) -> Result<()> {
        self.write(lock, Kind::Network, &network.id, &network.to_json())
    }

    /// Every volume that this engine made.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume>> {
        let all = self.list(Kind::Volume)?;
        all.iter()
            .map(|(name, value)| {
                Ok(Volume {
                    name: name.clone(),
                    driver: text(value, "driver")?,
                    options: options(&value["options"]),
                    created: text(value, "created")?,
                })
            })
            .collect()
    }

    /// Writes a volume.
    pub(crate) fn put_volume(&self, lock: &Locked, volume: &Volume) -> Result<()> {
        let value = json!({
            "driver": volume.driver, "options": volume.options, "created": volume.created,
        });
        self.write(lock, Kind::Volume, &volume.name, &value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_round_trip_and_addresses_find_their_pool() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let pool = |id: &str, subnet: &str, gateway: Option<&str>| Pool {
            id: id.into(),
            space: "LocalDefault".into(),
            subnet: subnet.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
        };
        let network = Network {
            id: "ab".repeat(32),
            name: "front".into(),
            created: super::super::now(),
            driver: "bridge".into(),
            ipam: "longshore".into(),
            options: Options::from([("mtu".into(), "1400".into())]),
            internal: true,
            ipv6: true,
            pools: vec![
                pool("p4", "10.1.0.0/24", Some("10.1.0.1/24")),
                pool("p6", "fd00::/64", None),
            ],
            ready: true,
        };
        store.put_network(&store.lock().unwrap(), &network).unwrap();
        assert_eq!(store.network("front").unwrap(), network);
        assert_eq!(network.pool_of(None, true).unwrap().id, "p6");
        assert_eq!(
            network
                .pool_of(Some("10.1.0.9".parse().unwrap()), false)
                .unwrap()
                .id,
            "p4"
        );
        assert!(
            network
                .pool_of(Some("10.2.0.9".parse().unwrap()), false)
                .is_none()
        );
    }
}
