//! `--link`: names, variables and lines of `/etc/hosts`.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Result, bail};

use crate::ports;
use crate::state::container::{Container, Leg};
use crate::state::{check_name, short};

/// Reads `NAME[:ALIAS]`.
pub(crate) fn parse(typed: &str) -> Result<(String, String)> {
    let (name, alias) = typed.split_once(':').unwrap_or((typed, typed));
    if name.is_empty() {
        bail!("link {} names no container", plugin_api::id::quoted(typed));
    }
    check_name("link alias", alias)?;
    Ok((name.to_owned(), alias.to_owned()))
}

/// The address by which `from` reaches `to`: that of the first network they share.
pub(crate) fn shared_address(from: &Container, to: &Container) -> Option<IpAddr> {
    from.legs.iter().find_map(|leg| {
        let other = to.legs.iter().find(|other| other.network == leg.network)?;
        other.addresses().into_iter().next()
    })
}

/// The variables a link brings, as users of links know them: `DB_PORT_5432_TCP_ADDR=…`.
pub(crate) fn variables(own_name: &str, alias: &str, target: &Container, address: IpAddr) -> Vec<String> {
    let prefix: String = alias
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    let mut exposed: Vec<_> = target
        .recipe
        .exposed
        .iter()
        .flat_map(|text| ports::exposed(text).unwrap_or_default())
        .collect();
    exposed.sort_by_key(|port| (port.port, port.protocol.number()));
    let mut all = vec![format!("{prefix}_NAME=/{own_name}/{alias}")];
    if let Some(first) = exposed.first() {
        let protocol = first.protocol.as_str();
        all.push(format!("{prefix}_PORT={protocol}://{address}:{}", first.port));
    }
    for port in exposed {
        let protocol = port.protocol.as_str();
        let number = port.port;
        let stem = format!("{prefix}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        all.push(format!("{stem}={protocol}://{address}:{number}"));
        all.push(format!("{stem}_ADDR={address}"));
        all.push(format!("{stem}_PORT={number}"));
        all.push(format!("{stem}_PROTO={protocol}"));
    }
    let foreign = target.recipe.env.iter().filter(|row| {
        !["PATH=", "HOME=", "HOSTNAME="]
            .iter()
            .any(|own| row.starts_with(own))
    });
    all.extend(foreign.map(|row| format!("{prefix}_ENV_{row}")));
    all
}

/// The whole of `/etc/hosts`; `linked` are the containers behind its links.
pub(crate) fn hosts_file(own: &Container, linked: &[(String, Container)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for address in own.legs.iter().flat_map(Leg::addresses) {
        let _ = writeln!(text, "{address}\t{}", own.recipe.hostname);
    }
    for (alias, target) in linked {
        let Some(address) = shared_address(own, target) else {
            continue;
        };
        let id = short(&target.id);
        let _ = writeln!(text, "{address}\t{alias} {} {id}", target.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::container::tests::sample;

    #[test]
    fn links_as_users_type_them() {
        assert_eq!(parse("db").unwrap(), ("db".into(), "db".into()));
        assert_eq!(parse("db:sql").unwrap(), ("db".into(), "sql".into()));
        for bad in ["", ":sql", "db:", "db:../x", "db:a b", "db:a\nb"] {
            assert!(parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_link_brings_its_variables() {
        let database = sample("database", "n1", "10.0.0.2/24");
        let rows = variables("web", "my-db", &database, "10.0.0.2".parse().unwrap());
        assert_eq!(
            rows,
            [
                "MY_DB_NAME=/web/my-db",
                "MY_DB_PORT=udp://10.0.0.2:53",
                "MY_DB_PORT_53_UDP=udp://10.0.0.2:53",
                "MY_DB_PORT_53_UDP_ADDR=10.0.0.2",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_PORT_80_TCP=tcp://10.0.0.2:80",
                "MY_DB_PORT_80_TCP_ADDR=10.0.0.2",
                "MY_DB_PORT_80_TCP_PORT=80",
                "MY_DB_PORT_80_TCP_PROTO=tcp",
                "MY_DB_ENV_COLOUR=red",
            ]
        );
    }

    #[test]
    fn hosts_name_oneself_and_links_in_shared_networks() {
        let web = sample("web", "n1", "10.0.0.3/24");
        let near = ("db".to_owned(), sample("database", "n1", "10.0.0.2/24"));
        let far = ("far".to_owned(), sample("faraway", "n2", "10.9.0.2/24"));
        let text = hosts_file(&web, &[near, far]);
        assert!(text.contains("10.0.0.3\tweb-host\n"), "{text}");
        assert!(text.contains("10.0.0.2\tdb database 646174616261\n"), "{text}");
        assert!(!text.contains("10.9.0.2"), "{text}");
    }
}
