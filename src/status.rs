//! `longshore status`: asks the running daemon, over its own sockets, and opens no record.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use plugin_api::Fault;
use plugin_api::client::Client;
use plugin_api::report::{NetworkUse, Report, SubnetUse};
use plugin_api::snapshot::Snapshotter;
use plugin_api::snapshot_client::SnapshotClient;
use plugin_api::wire;

use crate::config::{Config, resolve::Flags};

/// Which daemon, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file of the daemon [default: /etc/longshore/longshore.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of its sockets [default: /run/docker/plugins]
    #[arg(long, value_name = "DIR")]
    sockets: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print published ports only
    #[arg(long, conflicts_with = "json")]
    ports: bool,
}

/// Prints what every configured socket tells; one that does not answer makes the exit code 1.
pub(crate) fn show(given: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(&Flags {
        config: given.config,
        sockets: given.sockets,
        ..Flags::default()
    })?;
    let mut all = Vec::new();
    for name in config.plugins.keys() {
        let socket = config.sockets.join(format!("{name}.sock"));
        let outcome = Client::connect(&socket).and_then(|client| client.report(None));
        all.push((socket.display().to_string(), outcome));
    }
    for name in config.snapshotters.keys() {
        let socket = config.snapshots.join(format!("{name}.sock"));
        all.push((socket.display().to_string(), snapshots(&socket)));
    }
    let bytes = if given.json {
        wire::status::document(&all)
    } else {
        let mut text = String::new();
        for (socket, outcome) in &all {
            match outcome {
                Ok(report) if given.ports => ports(&mut text, report),
                Ok(report) => page(&mut text, socket, report),
                Err(fault) => eprintln!("longshore: {}", fault.sentence()),
            }
        }
        text.into_bytes()
    };
    std::io::stdout().write_all(&bytes)?;
    let failed = all.iter().any(|(_, outcome)| outcome.is_err());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A snapshotter's socket speaks gRPC: what it has is counted by listing it.
fn snapshots(socket: &std::path::Path) -> Result<Report, Fault> {
    let all = SnapshotClient::connect(socket, None)?.list()?;
    Ok(Report {
        layers: vec![("Snapshots".to_owned(), all.len().to_string())],
        ..Report::default()
    })
}

fn line(text: &mut String, row: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "{row}");
}

fn page(text: &mut String, socket: &str, report: &Report) {
    line(text, format_args!("{socket}"));
    for network in &report.networks {
        network_rows(text, network);
    }
    for subnet in &report.subnets {
        subnet_rows(text, subnet);
    }
    for volume in &report.volumes {
        let at = volume.mountpoint.as_deref().unwrap_or("not mounted");
        line(text, format_args!("  volume {} {at}", volume.name));
    }
    for (key, value) in &report.layers {
        line(text, format_args!("  layers {key}: {value}"));
    }
}

fn network_rows(text: &mut String, network: &NetworkUse) {
    let kind = if network.is_internal { " internal" } else { "" };
    let subnets = network.subnets.iter().map(|(net, gateway)| match gateway {
        Some(gateway) => format!(" {net} via {gateway}"),
        None => format!(" {net}"),
    });
    let subnets: String = subnets.collect();
    line(
        text,
        format_args!("  network {} link {}{kind}{subnets}", network.id, network.link),
    );
    for endpoint in &network.endpoints {
        let addresses = endpoint.addresses.iter().map(|net| format!(" {net}"));
        let addresses: String = addresses.collect();
        let at = endpoint.sandbox.as_deref().unwrap_or("apart");
        let (id, link, mac) = (&endpoint.id, &endpoint.link, endpoint.mac);
        line(
            text,
            format_args!("    endpoint {id} link {link} {mac}{addresses} in {at}"),
        );
        for port in &endpoint.ports {
            line(
                text,
                format_args!(
                    "      port {}/{} -> {}",
                    port.host,
                    port.protocol.as_str(),
                    port.to
                ),
            );
        }
    }
}

fn subnet_rows(text: &mut String, subnet: &SubnetUse) {
    let (net, space, size) = (subnet.subnet, &subnet.space, subnet.size);
    let (held, resting) = (subnet.addresses.len(), subnet.resting);
    line(
        text,
        format_args!("  subnet {net} of {space}: {held} of {size} addresses held, {resting} rest"),
    );
    for pool in &subnet.pools {
        let holder = by(pool.holder.as_deref());
        line(
            text,
            format_args!("    pool {} held {} times{holder}", pool.id, pool.holders),
        );
    }
    for address in &subnet.addresses {
        let kind = if address.is_gateway { " gateway" } else { "" };
        let holder = by(address.holder.as_deref());
        line(
            text,
            format_args!("    address {}{kind}{holder}", address.address),
        );
    }
}

fn by(holder: Option<&str>) -> String {
    holder.map(|holder| format!(" by {holder}")).unwrap_or_default()
}

fn ports(text: &mut String, report: &Report) {
    for network in &report.networks {
        for endpoint in &network.endpoints {
            for port in &endpoint.ports {
                let (host, protocol, to) = (port.host, port.protocol.as_str(), port.to);
                line(
                    text,
                    format_args!(
                        "{host}/{protocol} -> {to} network {} endpoint {}",
                        network.id, endpoint.id
                    ),
                );
            }
        }
    }
}
