//! `Longshore.Status`, a verb of our own: what a plugin has. Engines do not know it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Verb, bytes, nullable, reply};
use crate::fault::Fault;
use crate::id::{EndpointId, NetworkId, PoolId, VolumeName};
use crate::network::Protocol;
use crate::report::{AddressUse, EndpointUse, NetworkUse, PoolUse, PortUse, Report, SubnetUse, VolumeUse};

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Query {
    #[serde(
        rename = "Network",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    network: String,
}

/// Body of a question about everything, or about one network.
pub fn request(network: Option<&NetworkId>) -> Vec<u8> {
    bytes(&Query {
        network: network.map(ToString::to_string).unwrap_or_default(),
    })
}

/// The network asked about, if it is one. A body is not needed.
pub fn request_in(body: &[u8]) -> Result<Option<NetworkId>, Fault> {
    if body.is_empty() {
        return Ok(None);
    }
    let read: Query = super::request(Verb::Status, body)?;
    if read.network.is_empty() {
        return Ok(None);
    }
    Ok(Some(NetworkId::new(read.network)?))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    protocol: u8,
    host: SocketAddr,
    to: SocketAddr,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    id: String,
    link: String,
    mac: String,
    addresses: Vec<IpNet>,
    sandbox: Option<String>,
    ports: Vec<Port>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSubnet {
    subnet: IpNet,
    gateway: Option<IpAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    id: String,
    link: String,
    internal: bool,
    subnets: Vec<NetworkSubnet>,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    id: String,
    #[serde(rename = "SubPool")]
    part: Option<IpNet>,
    holders: u64,
    holder: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    #[serde(rename = "Address")]
    ip: IpAddr,
    gateway: bool,
    holder: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Subnet {
    space: String,
    #[serde(rename = "Subnet")]
    net: IpNet,
    size: u64,
    resting: u64,
    pools: Vec<Pool>,
    addresses: Vec<Address>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    mountpoint: Option<String>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Fields {
    networks: Vec<Network>,
    subnets: Vec<Subnet>,
    volumes: Vec<Volume>,
    layers: Vec<(String, String)>,
}

impl From<&EndpointUse> for Endpoint {
    fn from(one: &EndpointUse) -> Self {
        let ports = one.ports.iter().map(|port| Port {
            protocol: port.protocol.number(),
            host: port.host,
            to: port.to,
        });
        Self {
            id: one.id.to_string(),
            link: one.link.clone(),
            mac: one.mac.to_string(),
            addresses: one.addresses.clone(),
            sandbox: one.sandbox.clone(),
            ports: ports.collect(),
        }
    }
}

impl TryFrom<Endpoint> for EndpointUse {
    type Error = Fault;

    fn try_from(read: Endpoint) -> Result<Self, Fault> {
        let ports = read.ports.into_iter().map(|port| {
            let protocol = Protocol::from_number(port.protocol)
                .ok_or_else(|| Fault::internal(format!("protocol {} is unknown", port.protocol)))?;
            Ok(PortUse {
                protocol,
                host: port.host,
                to: port.to,
            })
        });
        Ok(Self {
            id: EndpointId::new(read.id)?,
            link: read.link,
            mac: read.mac.parse()?,
            addresses: read.addresses,
            sandbox: read.sandbox,
            ports: ports.collect::<Result<_, Fault>>()?,
        })
    }
}

impl From<&NetworkUse> for Network {
    fn from(one: &NetworkUse) -> Self {
        let subnets = one
            .subnets
            .iter()
            .map(|&(subnet, gateway)| NetworkSubnet { subnet, gateway });
        Self {
            id: one.id.to_string(),
            link: one.link.clone(),
            internal: one.is_internal,
            subnets: subnets.collect(),
            endpoints: one.endpoints.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<Network> for NetworkUse {
    type Error = Fault;

    fn try_from(read: Network) -> Result<Self, Fault> {
        let endpoints = read.endpoints.into_iter().map(TryInto::try_into);
        Ok(Self {
            id: NetworkId::new(read.id)?,
            link: read.link,
            is_internal: read.internal,
            subnets: read
                .subnets
                .into_iter()
                .map(|one| (one.subnet, one.gateway))
                .collect(),
            endpoints: endpoints.collect::<Result<_, Fault>>()?,
        })
    }
}

impl From<&SubnetUse> for Subnet {
    fn from(one: &SubnetUse) -> Self {
        let pools = one.pools.iter().map(|pool| Pool {
            id: pool.id.to_string(),
            part: pool.sub_pool,
            holders: pool.holders,
            holder: pool.holder.clone(),
        });
        let addresses = one.addresses.iter().map(|held| Address {
            ip: held.address,
            gateway: held.is_gateway,
            holder: held.holder.clone(),
        });
        Self {
            space: one.space.clone(),
            net: one.subnet,
            size: one.size,
            resting: one.resting,
            pools: pools.collect(),
            addresses: addresses.collect(),
        }
    }
}

impl TryFrom<Subnet> for SubnetUse {
    type Error = Fault;

    fn try_from(read: Subnet) -> Result<Self, Fault> {
        let pools = read.pools.into_iter().map(|pool| {
            Ok(PoolUse {
                id: PoolId::new(pool.id)?,
                sub_pool: pool.part,
                holders: pool.holders,
                holder: pool.holder,
            })
        });
        let addresses = read.addresses.into_iter().map(|held| AddressUse {
            address: held.ip,
            is_gateway: held.gateway,
            holder: held.holder,
        });
        Ok(Self {
            space: read.space,
            subnet: read.net,
            size: read.size,
            resting: read.resting,
            pools: pools.collect::<Result<_, Fault>>()?,
            addresses: addresses.collect(),
        })
    }
}

fn fields(report: &Report) -> Fields {
    let volumes = report.volumes.iter().map(|volume| Volume {
        name: volume.name.to_string(),
        mountpoint: volume.mountpoint.clone(),
    });
    Fields {
        networks: report.networks.iter().map(Into::into).collect(),
        subnets: report.subnets.iter().map(Into::into).collect(),
        volumes: volumes.collect(),
        layers: report.layers.clone(),
    }
}

/// Reply to `Longshore.Status`.
pub fn report_reply(report: &Report) -> Vec<u8> {
    bytes(&fields(report))
}

/// The report in the reply to `Longshore.Status`.
pub fn report_reply_in(body: &[u8]) -> Result<Report, Fault> {
    let read: Fields = reply(Verb::Status, body)?;
    let volumes = read.volumes.into_iter().map(|volume| {
        Ok(VolumeUse {
            name: VolumeName::new(volume.name)?,
            mountpoint: volume.mountpoint,
        })
    });
    let networks = read.networks.into_iter().map(TryInto::try_into);
    let subnets = read.subnets.into_iter().map(TryInto::try_into);
    Ok(Report {
        networks: networks.collect::<Result<_, Fault>>()?,
        subnets: subnets.collect::<Result<_, Fault>>()?,
        volumes: volumes.collect::<Result<_, Fault>>()?,
        layers: read.layers,
    })
}

/// Reports of many sockets as one document for programs: a list of `Socket` with its `Status`, or with the
/// `Error` why there is none.
pub fn document(all: &[(String, Result<Report, Fault>)]) -> Vec<u8> {
    let rows = all.iter().map(|(socket, outcome)| match outcome {
        Ok(report) => json!({"Socket": socket, "Status": fields(report)}),
        Err(fault) => json!({"Socket": socket, "Error": fault.sentence()}),
    });
    bytes(&Value::Array(rows.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let port = PortUse {
            protocol: Protocol::Tcp,
            host: "0.0.0.0:8080".parse().unwrap(),
            to: "10.1.0.2:80".parse().unwrap(),
        };
        let endpoint = EndpointUse {
            id: EndpointId::new("e").unwrap(),
            link: "lso1".into(),
            mac: "02:42:0a:01:00:02".parse().unwrap(),
            addresses: vec!["10.1.0.2/24".parse().unwrap()],
            sandbox: Some("/run/netns/x".into()),
            ports: vec![port],
        };
        let pool = PoolUse {
            id: PoolId::new("L/10.1.0.0/24@n").unwrap(),
            sub_pool: None,
            holders: 1,
            holder: Some("n".into()),
        };
        let held = AddressUse {
            address: "10.1.0.2".parse().unwrap(),
            is_gateway: false,
            holder: Some("e".into()),
        };
        Report {
            networks: vec![NetworkUse {
                id: NetworkId::new("n").unwrap(),
                link: "br-n".into(),
                is_internal: true,
                subnets: vec![("10.1.0.0/24".parse().unwrap(), None)],
                endpoints: vec![endpoint],
            }],
            subnets: vec![SubnetUse {
                space: "L".into(),
                subnet: "10.1.0.0/24".parse().unwrap(),
                size: 254,
                resting: 3,
                pools: vec![pool],
                addresses: vec![held],
            }],
            volumes: vec![VolumeUse {
                name: VolumeName::new("v").unwrap(),
                mountpoint: None,
            }],
            layers: vec![("Layers".into(), "7".into())],
        }
    }

    #[test]
    fn reports_round_trip() {
        let report = sample();
        assert_eq!(report_reply_in(&report_reply(&report)).unwrap(), report);
        assert_eq!(report_reply_in(b"{}").unwrap(), Report::default());
    }

    #[test]
    fn a_question_may_name_a_network_or_be_empty() {
        let id = NetworkId::new("n").unwrap();
        assert_eq!(request_in(&request(Some(&id))).unwrap(), Some(id));
        assert_eq!(request_in(&request(None)).unwrap(), None);
        assert_eq!(request_in(b"").unwrap(), None);
        assert!(request_in(br#"{"Network":"../x"}"#).is_err());
    }

    #[test]
    fn a_report_of_one_network_holds_its_own_pools_only() {
        let mut report = sample();
        report.subnets.push(SubnetUse {
            pools: Vec::new(),
            ..report.subnets[0].clone()
        });
        let one = report.clone().of_network(&NetworkId::new("n").unwrap());
        assert_eq!(
            (one.networks.len(), one.subnets.len(), one.volumes.len()),
            (1, 1, 0)
        );
        let other = report.of_network(&NetworkId::new("m").unwrap());
        assert_eq!(other, Report::default());
    }
}
