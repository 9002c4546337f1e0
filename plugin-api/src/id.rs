//! Names and ids, validated where they enter.
//!
//! Engines pass names through as their users typed them (`../../etc` reached real plugins), so a name
//! that is a value of these types is safe as one path component and as one word of a log line.

use std::fmt;
use std::str::FromStr;

use crate::fault::{Fault, FaultKind};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {shown} {why}")]
pub struct BadName {
    what: &'static str,
    shown: String,
    why: &'static str,
}

impl From<BadName> for Fault {
    fn from(bad: BadName) -> Self {
        Fault::new(FaultKind::Invalid, bad.to_string())
    }
}

/// Quotes at most 40 characters of hostile text, with control characters escaped.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).flat_map(char::escape_default).collect();
    if text.chars().count() > 40 {
        format!("\"{short}…\" ({} bytes)", text.len())
    } else {
        format!("\"{short}\"")
    }
}

fn check_component(what: &'static str, text: &str, longest: usize) -> Result<(), BadName> {
    let bad = |why| {
        Err(BadName {
            what,
            shown: quoted(text),
            why,
        })
    };
    let Some(first) = text.bytes().next() else {
        return bad("is empty");
    };
    if text.len() > longest {
        return bad("is too long");
    }
    if !first.is_ascii_alphanumeric() {
        return bad("must begin with a letter or a digit");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    {
        return bad("may hold only letters, digits, '_', '.' and '-'");
    }
    Ok(())
}

macro_rules! component {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name: letters, digits, `_.-`, beginning with a letter or digit.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                check_component($what, &text, $longest)?;
                Ok(Self(text))
            }

            /// The name as text; safe as one path component.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, as engines show ids.
            pub fn short(&self) -> &str {
                &self.0[..self.0.len().min(12)]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
    };
}

component!(
    /// A layer: 64 hexadecimal digits from Docker, `-init` behind them for a container's first layer.
    LayerId, "layer id", 128);
component!(
    /// A network: 64 hexadecimal digits from Docker, 25 characters from swarm.
    NetworkId, "network id", 128);
component!(
    /// An endpoint: one leg of a container in a network.
    EndpointId, "endpoint id", 128);
component!(
    /// A volume's name as the user chose it; Docker does not check the names it passes to plugins.
    VolumeName, "volume name", 255);
component!(
    /// An IPAM address space, such as `LocalDefault`.
    AddressSpace, "address space", 64);

/// Who holds a volume: the id of a `Mount` call (Docker: one per container start; Podman: a constant).
///
/// Empty where the engine is too old to send one (Docker up to 1.11).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId(String);

impl HolderId {
    /// Checks and wraps an id of up to 255 printable ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        if text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "may hold up to 255 printable ASCII characters";
            return Err(BadName {
                what: "holder id",
                shown: quoted(&text),
                why,
            });
        }
        Ok(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address pool as its driver names it; opaque to the engine, which stores it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(String);

impl PoolId {
    /// Checks and wraps an id of 1 to 255 printable ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "must hold 1 to 255 printable ASCII characters";
            return Err(BadName {
                what: "pool id",
                shown: quoted(&text),
                why,
            });
        }
        Ok(Self(text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a container's network namespace. It need not exist yet when a driver is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SandboxKey(String);

impl SandboxKey {
    /// Checks and wraps an absolute path without NUL and without `..`.
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let bad = |why| {
            Err(BadName {
                what: "sandbox key",
                shown: quoted(&text),
                why,
            })
        };
        if !text.starts_with('/') {
            return bad("is no absolute path");
        }
        if text.len() > 4095 || text.contains('\0') || text.split('/').any(|part| part == "..") {
            return bad("is no plain path");
        }
        Ok(Self(text))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A six-byte link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddr {
    type Err = BadName;

    /// Reads `02:42:ac:11:00:02`; a multicast or all-zero address is refused.
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |why| BadName {
            what: "MAC address",
            shown: quoted(text),
            why,
        };
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            let part = part.ok_or_else(|| bad("is not six pairs of hexadecimal digits"))?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad("holds no hexadecimal digits"))?;
        }
        if parts.next().is_some() {
            return Err(bad("is longer than six bytes"));
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(bad("is no address of one station"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            "../../etc",
            "a/b",
            "a b",
            "a\0b",
            ".hidden",
            "-o",
            "é",
            &"x".repeat(10_000),
        ] {
            assert!(VolumeName::new(text).is_err(), "{text:?} was taken");
            assert!(LayerId::new(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn names_of_real_engines_are_taken() {
        let hex = "3f2a".repeat(16);
        assert_eq!(
            LayerId::new(format!("{hex}-init")).unwrap().short(),
            "3f2a3f2a3f2a"
        );
        assert!(NetworkId::new("n5v1mtxchj2czw9yvvlzdrbwt").is_ok());
        assert!(VolumeName::new("my_data.v1-old").is_ok());
    }

    #[test]
    fn a_refusal_shows_the_name_without_its_control_characters() {
        let text = VolumeName::new("a\0b").unwrap_err().to_string();
        assert_eq!(
            text,
            r#"volume name "a\u{0}b" may hold only letters, digits, '_', '.' and '-'"#
        );
    }

    #[test]
    fn mac_addresses() {
        let mac: MacAddr = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:00:5e:00:00:01",
            "0:1:2:3:4:5",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sandbox_keys_are_plain_absolute_paths() {
        assert!(SandboxKey::new("/var/run/docker/netns/0123456789ab").is_ok());
        for text in ["", "netns/x", "/run/../etc", "/run/\0"] {
            assert!(SandboxKey::new(text).is_err(), "{text:?} was taken");
        }
    }
}
