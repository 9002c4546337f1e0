//! What the driver keeps: networks, endpoints, their published ports.

use std::net::IpAddr;

use ipnet::IpNet;
use kernel::record::{Damaged, Decoder, Encoder};
use plugin_api::id::{EndpointId, MacAddr, NetworkId, SandboxKey};
use plugin_api::network::{EndpointInterface, EndpointRef, NetworkSpec, PortBinding, Protocol, Subnet};

const LAYOUT: u8 = 1;

/// How far a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkPhase {
    /// Being made; a restart takes it back.
    Making,
    /// There.
    Made,
    /// Being removed; a restart goes on.
    Removing,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What was asked for.
    pub spec: NetworkSpec,
    /// Name of its bridge.
    pub bridge: String,
    /// The bridge was there before the network and stays after it.
    pub is_adopted: bool,
    /// Link-layer address of a bridge of ours.
    pub mac: MacAddr,
    /// How far it is.
    pub phase: NetworkPhase,
}

/// How far an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointPhase {
    /// It has no link.
    Apart,
    /// Its link is being made; a restart takes it back.
    Joining,
    /// It has its link.
    Joined,
    /// Its link is being removed; a restart goes on.
    Leaving,
}

/// A published port as it is in the firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Protocol.
    pub protocol: Protocol,
    /// Host address; unspecified is every address of its family.
    pub host: IpAddr,
    /// Host port; 0 where nothing is translated and the container's own port is open.
    pub host_port: u16,
    /// The container's address.
    pub to: IpAddr,
    /// Port in the container.
    pub to_port: u16,
}

impl Published {
    /// Whether it is a port of the container that is open as it is, without a port of the host.
    pub fn is_open(&self) -> bool {
        self.host_port == 0
    }
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Which.
    pub at: EndpointRef,
    /// What the engine chose.
    pub asked: EndpointInterface,
    /// Its link-layer address, chosen by the engine or by us.
    pub mac: MacAddr,
    /// The host's end of its link.
    pub outer: String,
    /// The sandbox's end, before the engine moves it.
    pub inner: String,
    /// How far it is.
    pub phase: EndpointPhase,
    /// Where it is joined, or was last.
    pub sandbox: Option<SandboxKey>,
    /// Ports asked for.
    pub bindings: Vec<PortBinding>,
    /// Ports chosen.
    pub published: Vec<Published>,
    /// Whether the ports are in the firewall; a restart takes them back if not.
    pub is_programmed: bool,
}

/// Key of an endpoint's record.
pub fn endpoint_key(at: &EndpointRef) -> String {
    format!("{}/{}", at.network, at.endpoint)
}

fn net_text(net: Option<IpNet>) -> Option<String> {
    net.map(|net| net.to_string())
}

fn parsed<T: std::str::FromStr>(d: &mut Decoder<'_>) -> Result<T, Damaged> {
    let text = d.text()?;
    text.parse().map_err(|_| d.damaged())
}

fn maybe_parsed<T: std::str::FromStr>(d: &mut Decoder<'_>) -> Result<Option<T>, Damaged> {
    let text = d.maybe()?;
    text.map(|text| text.parse().map_err(|_| d.damaged())).transpose()
}

fn small(d: &mut Decoder<'_>) -> Result<u16, Damaged> {
    u16::try_from(d.number()?).map_err(|_| d.damaged())
}

fn protocol(d: &mut Decoder<'_>) -> Result<Protocol, Damaged> {
    let number = u8::try_from(small(d)?).map_err(|_| d.damaged())?;
    Protocol::from_number(number).ok_or_else(|| d.damaged())
}

fn put_subnet(e: Encoder, subnet: &Subnet) -> Encoder {
    e.text(&subnet.address_space)
        .text(&subnet.pool.to_string())
        .maybe(net_text(subnet.gateway).as_deref())
        .list(subnet.auxiliary.iter(), |e, (name, net)| {
            e.text(name).text(&net.to_string())
        })
}

fn get_subnet(d: &mut Decoder<'_>) -> Result<Subnet, Damaged> {
    Ok(Subnet {
        address_space: d.text()?,
        pool: parsed(d)?,
        gateway: maybe_parsed(d)?,
        auxiliary: d.list(|d| Ok((d.text()?, parsed(d)?)))?.into_iter().collect(),
    })
}

impl Network {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            NetworkPhase::Making => 0,
            NetworkPhase::Made => 1,
            NetworkPhase::Removing => 2,
        };
        let spec = &self.spec;
        Encoder::new(LAYOUT)
            .text(spec.id.as_str())
            .list(spec.options.iter(), |e, (key, value)| e.text(key).text(value))
            .flag(spec.enable_ipv4)
            .flag(spec.enable_ipv6)
            .flag(spec.internal)
            .list(spec.ipv4.iter(), put_subnet)
            .list(spec.ipv6.iter(), put_subnet)
            .text(&self.bridge)
            .flag(self.is_adopted)
            .text(&self.mac.to_string())
            .number(phase)
            .finish()
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut d = Decoder::new("network", LAYOUT, bytes)?;
        let spec = NetworkSpec {
            id: parsed::<NetworkId>(&mut d)?,
            options: d.list(|d| Ok((d.text()?, d.text()?)))?.into_iter().collect(),
            enable_ipv4: d.flag()?,
            enable_ipv6: d.flag()?,
            internal: d.flag()?,
            ipv4: d.list(get_subnet)?,
            ipv6: d.list(get_subnet)?,
        };
        let network = Self {
            spec,
            bridge: d.text()?,
            is_adopted: d.flag()?,
            mac: parsed(&mut d)?,
            phase: match d.number()? {
                0 => NetworkPhase::Making,
                1 => NetworkPhase::Made,
                2 => NetworkPhase::Removing,
                _ => return Err(d.damaged()),
            },
        };
        d.end()?;
        Ok(network)
    }
}

impl Endpoint {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let phase = match self.phase {
            EndpointPhase::Apart => 0,
            EndpointPhase::Joining => 1,
            EndpointPhase::Joined => 2,
            EndpointPhase::Leaving => 3,
        };
        let asked_mac = self.asked.mac.map(|mac| mac.to_string());
        Encoder::new(LAYOUT)
            .text(self.at.network.as_str())
            .text(self.at.endpoint.as_str())
            .maybe(net_text(self.asked.address).as_deref())
            .maybe(net_text(self.asked.address_v6).as_deref())
            .maybe(asked_mac.as_deref())
            .text(&self.mac.to_string())
            .text(&self.outer)
            .text(&self.inner)
            .number(phase)
            .maybe(self.sandbox.as_ref().map(SandboxKey::as_str))
            .list(self.bindings.iter(), |e, b| {
                e.number(b.protocol.number().into())
                    .number(b.container_port.into())
                    .maybe(b.host_ip.map(|ip| ip.to_string()).as_deref())
                    .number(b.host_port.into())
                    .number(b.host_port_end.into())
            })
            .list(self.published.iter(), |e, p| {
                e.number(p.protocol.number().into())
                    .text(&p.host.to_string())
                    .number(p.host_port.into())
                    .text(&p.to.to_string())
                    .number(p.to_port.into())
            })
            .flag(self.is_programmed)
            .finish()
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut d = Decoder::new("endpoint", LAYOUT, bytes)?;
        let at = EndpointRef {
            network: parsed::<NetworkId>(&mut d)?,
            endpoint: parsed::<EndpointId>(&mut d)?,
        };
        let asked = EndpointInterface {
            address: maybe_parsed(&mut d)?,
            address_v6: maybe_parsed(&mut d)?,
            mac: maybe_parsed(&mut d)?,
        };
        let endpoint = Self {
            at,
            asked,
            mac: parsed(&mut d)?,
            outer: d.text()?,
            inner: d.text()?,
            phase: match d.number()? {
                0 => EndpointPhase::Apart,
                1 => EndpointPhase::Joining,
                2 => EndpointPhase::Joined,
                3 => EndpointPhase::Leaving,
                _ => return Err(d.damaged()),
            },
            sandbox: d
                .maybe()?
                .map(|key| SandboxKey::new(key).map_err(|_| d.damaged()))
                .transpose()?,
            bindings: d.list(|d| {
                Ok(PortBinding {
                    protocol: protocol(d)?,
                    container_port: small(d)?,
                    host_ip: maybe_parsed(d)?,
                    host_port: small(d)?,
                    host_port_end: small(d)?,
                })
            })?,
            published: d.list(|d| {
                Ok(Published {
                    protocol: protocol(d)?,
                    host: parsed(d)?,
                    host_port: small(d)?,
                    to: parsed(d)?,
                    to_port: small(d)?,
                })
            })?,
            is_programmed: d.flag()?,
        };
        d.end()?;
        Ok(endpoint)
    }
}
