//! Options of a network: `-o key=value`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kernel::netlink::link::LONGEST_NAME;
use plugin_api::id::quoted;
use plugin_api::{Fault, Options};

/// How a network meets the world, for one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayMode {
    /// Endpoints leave under the host's address, and are reached through published ports.
    #[default]
    Nat,
    /// The same, and whoever has a route to the endpoints reaches all their ports.
    NatUnprotected,
    /// Nothing is translated: published ports are reached at the endpoints' own addresses.
    Routed,
    /// The bridge has no address: not even the host reaches the endpoints. For internal networks.
    Isolated,
}

impl GatewayMode {
    /// Whether addresses are translated.
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }
}

/// Options as meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge's name; `None` derives it from the network's id.
    pub name: Option<String>,
    /// Whether endpoints of the network reach each other.
    pub icc: bool,
    /// Whether traffic that leaves the network takes the host's address.
    pub masquerade: bool,
    /// Host address of published ports that name none; `None` is every address.
    pub host_binding: Option<IpAddr>,
    /// How IPv4 meets the world.
    pub mode_v4: GatewayMode,
    /// How IPv6 does.
    pub mode_v6: GatewayMode,
    /// Whether the bridge has an IPv4 address.
    pub has_ipv4: bool,
    /// Links of the host through which every port of the endpoints is reached.
    pub trusted: Vec<String>,
    /// Address that IPv4 leaves under; `None` is that of the link it leaves by.
    pub source_v4: Option<Ipv4Addr>,
    /// Address that IPv6 leaves under.
    pub source_v6: Option<Ipv6Addr>,
    /// MTU of the links.
    pub mtu: u32,
    /// Prefix of the links' names in a sandbox.
    pub prefix: String,
}

/// Every key with its short spelling.
const KNOWN: &[(&str, &str)] = &[
    ("com.docker.network.bridge.name", "name"),
    ("com.docker.network.bridge.enable_icc", "icc"),
    ("com.docker.network.bridge.enable_ip_masquerade", "masquerade"),
    ("com.docker.network.bridge.host_binding_ipv4", "host_binding"),
    ("com.docker.network.bridge.gateway_mode_ipv4", "gateway_mode_v4"),
    ("com.docker.network.bridge.gateway_mode_ipv6", "gateway_mode_v6"),
    ("com.docker.network.bridge.inhibit_ipv4", "inhibit_ipv4"),
    ("com.docker.network.bridge.trusted_host_interfaces", "trusted"),
    ("com.docker.network.host_ipv4", "host_ipv4"),
    ("com.docker.network.host_ipv6", "host_ipv6"),
    ("com.docker.network.driver.mtu", "mtu"),
    ("com.docker.network.container_iface_prefix", "prefix"),
];

impl Bridge {
    /// The mode of one family.
    pub fn mode(&self, is_ipv4: bool) -> GatewayMode {
        if is_ipv4 { self.mode_v4 } else { self.mode_v6 }
    }

    /// The address that a family leaves under, where it is not that of the link it leaves by.
    pub fn source(&self, is_ipv4: bool) -> Option<IpAddr> {
        if is_ipv4 {
            self.source_v4.map(IpAddr::V4)
        } else {
            self.source_v6.map(IpAddr::V6)
        }
    }

    /// Whether the bridge has an address of a family.
    pub fn has_address(&self, is_ipv4: bool) -> bool {
        self.mode(is_ipv4) != GatewayMode::Isolated && (self.has_ipv4 || !is_ipv4)
    }
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            name: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            mode_v4: GatewayMode::Nat,
            mode_v6: GatewayMode::Nat,
            has_ipv4: true,
            trusted: Vec::new(),
            source_v4: None,
            source_v6: None,
            mtu: 1500,
            prefix: "eth".to_owned(),
        }
    }
}

/// Reads the options; an unknown key or a value that makes no sense is `Invalid`.
pub fn parse(options: &Options) -> Result<Bridge, Fault> {
    let mut bridge = Bridge::default();
    for (key, value) in options {
        let known = KNOWN.iter().find(|(long, short)| key == long || key == short);
        let Some((_, short)) = known else {
            return Err(unknown(key));
        };
        match *short {
            "name" => bridge.name = Some(link_name(value)?),
            "icc" => bridge.icc = flag(key, value)?,
            "masquerade" => bridge.masquerade = flag(key, value)?,
            "host_binding" => bridge.host_binding = host_binding(value)?,
            "gateway_mode_v4" => bridge.mode_v4 = mode(key, value)?,
            "gateway_mode_v6" => bridge.mode_v6 = mode(key, value)?,
            "inhibit_ipv4" => bridge.has_ipv4 = !flag(key, value)?,
            "trusted" => bridge.trusted = value.split(':').map(link_name).collect::<Result<_, _>>()?,
            "host_ipv4" => bridge.source_v4 = Some(address(key, value)?),
            "host_ipv6" => bridge.source_v6 = Some(address(key, value)?),
            "mtu" => bridge.mtu = mtu(value)?,
            _ => bridge.prefix = prefix(value)?,
        }
    }
    Ok(bridge)
}

fn unknown(key: &str) -> Fault {
    let known: Vec<_> = KNOWN
        .iter()
        .map(|(long, short)| format!("{long} ({short})"))
        .collect();
    let key = quoted(key);
    Fault::invalid(format!(
        "bridge option {key} is unknown; known are {}",
        known.join(", ")
    ))
}

fn bad(key: &str, value: &str, why: &str) -> Fault {
    Fault::invalid(format!("bridge option {key}={} {why}", quoted(value)))
}

fn flag(key: &str, value: &str) -> Result<bool, Fault> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(bad(key, value, "is neither true nor false")),
    }
}

fn mode(key: &str, value: &str) -> Result<GatewayMode, Fault> {
    match value {
        "nat" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        "isolated" => Ok(GatewayMode::Isolated),
        _ => Err(bad(
            key,
            value,
            "is no mode; there are nat, nat-unprotected, routed, isolated",
        )),
    }
}

fn address<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, Fault> {
    value
        .parse()
        .map_err(|_| bad(key, value, "is no address of that family"))
}

fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn link_name(value: &str) -> Result<String, Fault> {
    let fits = (1..=LONGEST_NAME).contains(&value.len());
    if fits && is_plain(value) && value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(value.to_owned())
    } else {
        Err(bad(
            "name",
            value,
            "is no name of a link: 1 to 15 letters, digits, '_', '.' or '-'",
        ))
    }
}

fn prefix(value: &str) -> Result<String, Fault> {
    // Room for the number that the engine appends.
    if (1..=11).contains(&value.len())
        && is_plain(value)
        && value.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        Ok(value.to_owned())
    } else {
        Err(bad(
            "prefix",
            value,
            "is no prefix of a link's name: 1 to 11 characters",
        ))
    }
}

fn host_binding(value: &str) -> Result<Option<IpAddr>, Fault> {
    let address: IpAddr = value
        .parse()
        .map_err(|_| bad("host_binding", value, "is no address"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

fn mtu(value: &str) -> Result<u32, Fault> {
    let mtu = value.parse().ok().filter(|mtu| (68..=65_535).contains(mtu));
    mtu.ok_or_else(|| bad("mtu", value, "is no number from 68 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn long_and_short_spellings_mean_the_same() {
        for (long, short) in KNOWN {
            let value = match *short {
                "icc" | "masquerade" => "false",
                "host_binding" | "host_ipv4" => "192.0.2.1",
                "mtu" => "1400",
                "gateway_mode_v4" | "gateway_mode_v6" => "routed",
                "inhibit_ipv4" => "true",
                "host_ipv6" => "2001:db8::1",
                _ => "lan",
            };
            let read = |key| parse(&options(&[(key, value)])).unwrap();
            assert_eq!(read(long), read(short));
            assert_ne!(read(long), Bridge::default());
        }
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_known_ones() {
        let fault = parse(&options(&[("mut", "1400")])).unwrap_err();
        assert_eq!(fault.kind, plugin_api::FaultKind::Invalid);
        assert!(
            fault.message.contains("\"mut\"") && fault.message.contains("(mtu)"),
            "{fault}"
        );
    }

    #[test]
    fn hostile_values_are_refused() {
        for (key, value) in [
            ("name", "../../etc"),
            ("name", ""),
            ("name", "a-name-of-16-byte"),
            ("name", "."),
            ("mtu", "0"),
            ("mtu", "-1"),
            ("mtu", "99999999999999"),
            ("icc", "maybe"),
            ("host_binding", "localhost"),
            ("prefix", "0123456789abc"),
            ("prefix", "a/b"),
            ("gateway_mode_v4", "Routed"),
            ("trusted", "eth0::eth1"),
            ("trusted", "../eth0"),
            ("host_ipv4", "2001:db8::1"),
            ("host_ipv6", "192.0.2.1"),
        ] {
            assert!(
                parse(&options(&[(key, value)])).is_err(),
                "{key}={value} was taken"
            );
        }
    }
}
