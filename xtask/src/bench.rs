//! `cargo xtask bench`: builds with optimisation, measures, prints the table.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lanes::{Need, provide};
use crate::{dist, run};

/// What the peers of the rooms need; a row whose peer is missing says so.
const PEERS: &[Need] = &[
    Need::Program("ip", "iproute2"),
    Need::Program("mkfs.ext4", "e2fsprogs"),
    Need::Program("python3", "python3-minimal"),
    Need::Program("iptables-nft", "iptables"),
    Need::Program("dockerd", "docker.io"),
    Need::Program("containerd", "containerd"),
    Need::Program("ctr", "containerd"),
    Need::Program("runc", "runc"),
    Need::Program("busybox", "busybox-static"),
    Need::Program("iperf3", "iperf3"),
    Need::Program("go", "golang-go"),
    Need::File("/usr/lib/cni/host-local", "containernetworking-plugins"),
    Need::File("/usr/lib/podman/netavark", "netavark"),
    Need::File(
        "/usr/share/gocode/src/github.com/docker/docker/daemon/graphdriver/driver.go",
        "golang-github-docker-docker-dev",
    ),
];

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Wishes {
    /// What to measure: rpc, layers, bridge, overlay, volumes, thin; everything if none is named.
    rooms: Vec<String>,
    /// Write the rows to this file too, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure these rows only; may be given several times.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// A glance: two rounds of what takes long.
    #[arg(long)]
    quick: bool,
}

/// Measures, prints the table; a row that could not be measured is an error at the end.
pub(crate) fn bench(wishes: &Wishes) -> Result<()> {
    let missing = provide(PEERS)?;
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(|need| need.spoken()).collect();
        println!("missing, and so are rows or peers: {}", missing.join(", "));
    }
    let release = dist::build(&["longshore", "benches"])?;
    let mut command = run::program("unshare");
    // The drivers are real: what they make shall be seen by nobody else.
    command.args(["--mount", "--net", "--propagation", "private"]);
    command
        .arg(release.join("longshore-bench"))
        .arg("--longshore")
        .arg(release.join("longshore"))
        .args(&wishes.rooms);
    for row in &wishes.only {
        command.args(["--only", row]);
    }
    if wishes.quick {
        command.arg("--quick");
    }
    // The rows that were measured are shown even if one was not.
    let out = command
        .env("PATH", run::search_path())
        .stderr(Stdio::inherit())
        .output()
        .context("start the benches")?;
    let lines = String::from_utf8_lossy(&out.stdout);
    let rows: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("read the row {line}")))
        .collect::<Result<_>>()?;
    print!("{}", table(&rows));
    if let Some(file) = &wishes.json {
        std::fs::write(file, lines.as_bytes()).with_context(|| format!("write {}", file.display()))?;
    }
    ensure!(out.status.success(), "not every row could be measured");
    Ok(())
}

fn table(rows: &[Value]) -> String {
    let mut text = format!(
        "{:7} {:59} {:7} {:>10} {:>10} {:>10} {:>10} {:>7} {:>10} {:4} {:>5} {}\n",
        "room", "row", "unit", "ours", "least", "peer", "least", "ratio", "goal", "met", "load", "peer name"
    );
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str, digits: usize| {
            row[key]
                .as_f64()
                .map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let met = match row["met"].as_bool() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let _ = writeln!(
            text,
            "{:7} {:59} {:7} {:>10} {:>10} {:>10} {:>10} {:>7} {:>10} {:4} {:>5} {}",
            word("room"),
            word("row"),
            word("unit"),
            number("ours", 2),
            number("ours_min", 2),
            number("peer", 2),
            number("peer_min", 2),
            number("ratio", 4),
            word("goal"),
            met,
            number("load", 1),
            word("peer_name")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missed_goal_stands_out() {
        let row = json!({"room": "rpc", "row": "x", "unit": "us", "ours": 41.0, "peer": null,
            "peer_name": "no peer on this machine", "ratio": null, "goal": "<= 40", "met": false});
        let text = table(&[row]);
        assert!(
            text.contains(" NO ") && text.contains("no peer on this machine"),
            "{text}"
        );
    }
}
