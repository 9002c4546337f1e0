//! Options of a network: `-o key=value`.

use std::net::IpAddr;

use kernel::netlink::link::LONGEST_NAME;
use plugin_api::id::quoted;
use plugin_api::{Fault, Options};

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
    ("com.docker.network.driver.mtu", "mtu"),
    ("com.docker.network.container_iface_prefix", "prefix"),
];

impl Default for Bridge {
    fn default() -> Self {
        Self {
            name: None,
            icc: true,
            masquerade: true,
            host_binding: None,
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
                "host_binding" => "192.0.2.1",
                "mtu" => "1400",
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
        ] {
            assert!(
                parse(&options(&[(key, value)])).is_err(),
                "{key}={value} was taken"
            );
        }
    }
}
