//! What engines without the Docker plugin protocol ask for: a link in a namespace, ready for use.
//!
//! CNI runtimes and netavark start a program for each container and network. It speaks to the drivers like
//! any engine, and does in the sandbox what Docker does by itself.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::Options;
use crate::id::{EndpointId, MacAddr, NetworkId};
use crate::network::{PortBinding, StaticRoute};

/// A subnet of a wanted network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetWish {
    /// The subnet; none lets the address driver choose.
    pub subnet: Option<IpNet>,
    /// Where chosen addresses come from.
    pub range: Option<IpNet>,
    /// Its gateway; none is its first address.
    pub gateway: Option<IpAddr>,
    /// IPv6, where the driver chooses.
    pub v6: bool,
}

/// A network as its definition wants it; the same each time it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkWish {
    /// Its id.
    pub id: NetworkId,
    /// Options of the network driver.
    pub options: Options,
    /// No way out.
    pub is_internal: bool,
    /// Its subnets, at most one of each family.
    pub subnets: Vec<SubnetWish>,
}

/// One leg of a container in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Its endpoint, named after container and link.
    pub endpoint: EndpointId,
    /// What the link is called in the sandbox.
    pub link: String,
    /// The sandbox's namespace.
    pub sandbox: PathBuf,
    /// Addresses asked for, at most one of each subnet.
    pub addresses: Vec<IpAddr>,
    /// Link-layer address asked for.
    pub mac: Option<MacAddr>,
    /// Ports to publish.
    pub ports: Vec<PortBinding>,
    /// Whether default routes go through this network.
    pub is_default: bool,
    /// Further routes.
    pub routes: Vec<StaticRoute>,
}

/// A link as it is seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: u32,
}

/// What a leg has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Links of the host: the network's, and the outer end of the leg where it has one.
    pub host: Vec<Link>,
    /// The link in the sandbox.
    pub inner: Link,
    /// Its addresses, each with the gateway of its subnet.
    pub addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Its routes but those of its subnets.
    pub routes: Vec<StaticRoute>,
}

/// An endpoint's id from container and link: the same for the same two. The readable part is for people, the
/// first 16 digits keep apart what reads alike.
pub fn endpoint_id(container: &str, link: &str) -> EndpointId {
    let plain = |text: &str, longest: usize| -> String {
        let kept = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
        kept.take(longest).collect()
    };
    let digest = digest(&[container, link]);
    let text = format!("{digest:016x}-{}-{}", plain(link, 15), plain(container, 64));
    EndpointId::new(text).expect("digits first, plain characters behind, 97 at most")
}

/// A network's id from its name in a definition; the name stays readable.
pub fn network_id(door: &str, name: &str) -> Result<NetworkId, crate::fault::Fault> {
    Ok(NetworkId::new(format!(
        "{:016x}-{door}-{name}",
        digest(&[door, name])
    ))?)
}

/// FNV-1a over the parts and their lengths.
fn digest(parts: &[&str]) -> u64 {
    let lengths = parts.iter().flat_map(|part| part.len().to_le_bytes());
    let bytes = lengths.chain(parts.iter().flat_map(|part| part.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_readable_and_apart() {
        let one = endpoint_id("c0ffee", "eth0");
        assert_eq!(one, endpoint_id("c0ffee", "eth0"));
        assert!(one.as_str().ends_with("-eth0-c0ffee"));
        assert_ne!(endpoint_id("a-b", "c"), endpoint_id("a", "b-c"));
        assert_ne!(endpoint_id("a.b", "c"), endpoint_id("a_b", "c"));
        endpoint_id(&"x/\n".repeat(500), "\0");
        let lan = network_id("cni", "lan").unwrap();
        assert!(lan.as_str().ends_with("-cni-lan"));
        assert_ne!(lan.short(), network_id("cni", "lan2").unwrap().short());
        assert!(network_id("cni", "../x").is_err());
    }
}
