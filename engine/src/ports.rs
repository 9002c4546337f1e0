//! `-p [ip:][host:]container[/protocol]`, ranges included.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use plugin_api::network::{ExposedPort, PortBinding, Protocol};

/// One port to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish(pub(crate) PortBinding);

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = &self.0;
        match port.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        match (port.host_port, port.host_port_end) {
            (0, _) if port.host_ip.is_some() => f.write_str(":")?,
            (0, _) => {}
            (first, last) if first == last => write!(f, "{first}:")?,
            (first, last) => write!(f, "{first}-{last}:")?,
        }
        write!(f, "{}/{}", port.container_port, port.protocol.as_str())
    }
}

/// Reads one `-p`; a range on both sides gives one binding per port.
pub(crate) fn parse(typed: &str) -> Result<Vec<Publish>> {
    let shown = plugin_api::id::quoted(typed);
    split(typed).with_context(|| format!("port {shown} is not [ip:][host:]container[/protocol]"))
}

fn split(typed: &str) -> Result<Vec<Publish>> {
    let (ports, protocol) = protocol_of(typed)?;
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (host_ip, host) = host_side(rest)?;
    let (first, last) = range(container)?;
    let (host_first, host_last) = if host.is_empty() { (0, 0) } else { range(host)? };
    let count = u32::from(last) - u32::from(first) + 1;
    let host_count = u32::from(host_last) - u32::from(host_first) + 1;
    if host_first != 0 && count != 1 && count != host_count {
        bail!("the ranges differ in length");
    }
    let one = |offset: u16| {
        let (host_port, host_port_end) = match (host_first, count) {
            (0, _) => (0, 0),
            (_, 1) => (host_first, host_last),
            _ => (host_first + offset, host_first + offset),
        };
        Publish(PortBinding {
            protocol,
            container_port: first + offset,
            host_ip,
            host_port,
            host_port_end,
        })
    };
    Ok((0..=last - first).map(one).collect())
}

fn host_side(rest: &str) -> Result<(Option<IpAddr>, &str)> {
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']').context("the bracket is not closed")?;
        return Ok((Some(ip.parse()?), port.strip_prefix(':').unwrap_or(port)));
    }
    match rest.rsplit_once(':') {
        Some((ip, port)) => Ok((Some(ip.parse()?), port)),
        None => Ok((None, rest)),
    }
}

fn protocol_of(typed: &str) -> Result<(&str, Protocol)> {
    let Some((ports, protocol)) = typed.split_once('/') else {
        return Ok((typed, Protocol::Tcp));
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => bail!("the protocol is none of tcp, udp, sctp"),
    };
    Ok((ports, protocol))
}

fn range(text: &str) -> Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse()?, last.parse()?);
    if first == 0 || last < first {
        bail!("a range begins above 0 and does not run backwards");
    }
    Ok((first, last))
}

/// Reads `80/tcp` or `80` or `80-82/udp` of an image's ExposedPorts.
pub(crate) fn exposed(text: &str) -> Result<Vec<ExposedPort>> {
    let (ports, protocol) = protocol_of(text)?;
    let (first, last) = range(ports)?;
    Ok((first..=last)
        .map(|port| ExposedPort { protocol, port })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, expect: &[&str]) {
        let shown: Vec<String> = parse(typed).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, expect, "{typed}");
        for text in &shown {
            assert_eq!(parse(text).unwrap().len(), 1, "{text} is not read back");
            assert_eq!(parse(text).unwrap()[0].to_string(), *text);
        }
    }

    #[test]
    fn ports_as_users_type_them() {
        check("80", &["80/tcp"]);
        check("8080:80", &["8080:80/tcp"]);
        check("8080:80/udp", &["8080:80/udp"]);
        check("127.0.0.1:8080:80", &["127.0.0.1:8080:80/tcp"]);
        check("127.0.0.1::80", &["127.0.0.1::80/tcp"]);
        check("[::1]:8080:80", &["[::1]:8080:80/tcp"]);
        check("8000-8001:80-81", &["8000:80/tcp", "8001:81/tcp"]);
        check("8000-8009:80", &["8000-8009:80/tcp"]);
        check("80-81", &["80/tcp", "81/tcp"]);
        check("65535:65535", &["65535:65535/tcp"]);
    }

    #[test]
    fn senseless_ports_are_refused() {
        for typed in [
            "",
            ":",
            "x",
            "0",
            "80:0",
            "0:80",
            "70000",
            "80/",
            "80/icmp",
            "1.2.3:80:80",
            "9-8:80",
            "8000-8002:80-81",
            "[::1:80:80",
            "1:2:3:4",
            "-80",
            "80-",
        ] {
            assert!(parse(typed).is_err(), "{typed:?} was taken");
        }
    }

    #[test]
    fn exposed_ports_of_images() {
        assert_eq!(exposed("80").unwrap()[0].protocol, Protocol::Tcp);
        assert_eq!(exposed("80-82/udp").unwrap().len(), 3);
        assert!(exposed("80/../x").is_err());
    }
}
