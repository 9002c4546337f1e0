//! Endpoints and published ports of the bridge driver.
//!
//! A peer that takes one process per step is measured as its users run it. The engine's own part of an
//! endpoint's life, such as moving the link into the sandbox, is not ours and not measured here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::client::{Client, request};
use crate::row::{Goal, Row, percentile};
use crate::server::{Server, program};

const ROUNDS: usize = 21;
const CNI: &str = "CNI bridge + host-local";
const IPTABLES: &str = "iptables-nft, a rule a port";
/// Folder of Debian's containernetworking-plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Ports of one endpoint.
const PORTS: u16 = 200;
/// Endpoints that make ten thousand published ports.
const CROWD: u16 = 50;
/// Rules that the peer has before: a tenth of ours, since it slows down with each.
const RULES: u16 = 1_000;

/// Measures every row of the room.
pub(crate) fn measure(longshore: &Path, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let server = Server::ours(longshore)?;
    let mut ours = Ours(Client::connect(&server.networks())?);
    networks(&mut ours, tell)?;
    ours.create_network("bench", "10.201.0.0/16", "10.201.0.1/16")?;
    endpoints(&mut ours, tell)?;
    ports(&mut ours, tell)
}

fn told(
    name: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<(&'static str, f64)>,
    goal: Goal,
) -> Row {
    Row {
        room: "bridge",
        name,
        unit,
        ours,
        peer,
        goal,
    }
}

/// Milliseconds that something takes.
fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Our driver as an engine speaks to it.
struct Ours(Client);

impl Ours {
    fn call(&mut self, verb: &str, body: &serde_json::Value) -> Result<()> {
        let verb = format!("NetworkDriver.{verb}");
        self.0
            .call(&request(&verb, &body.to_string()))
            .with_context(|| format!("call {verb}"))
    }

    fn create_network(&mut self, id: &str, pool: &str, gateway: &str) -> Result<()> {
        let data = json!([{"AddressSpace": "LongshoreLocal", "Pool": pool, "Gateway": gateway}]);
        let body = json!({"NetworkID": id, "Options": {}, "IPv4Data": data, "IPv6Data": []});
        self.call("CreateNetwork", &body)
    }

    fn join(&mut self, id: &str, nth: usize) -> Result<()> {
        let address = format!("10.201.{}.{}/16", 1 + nth / 200, 2 + nth % 200);
        let interface = json!({"Address": address, "AddressIPv6": "", "MacAddress": ""});
        let body = json!({"NetworkID": "bench", "EndpointID": id, "Interface": interface, "Options": {}});
        self.call("CreateEndpoint", &body)?;
        let key = format!("/run/netns/{id}");
        let body = json!({"NetworkID": "bench", "EndpointID": id, "SandboxKey": key, "Options": {}});
        self.call("Join", &body)
    }

    fn leave(&mut self, id: &str) -> Result<()> {
        let body = json!({"NetworkID": "bench", "EndpointID": id});
        self.call("Leave", &body)?;
        self.call("DeleteEndpoint", &body)
    }

    fn publish(&mut self, id: &str, first: u16) -> Result<()> {
        let port = |port: u16| {
            json!({"Proto": 6, "IP": "", "Port": port, "HostIP": "", "HostPort": first + port,
                   "HostPortEnd": first + port})
        };
        let ports: Vec<_> = (1..=PORTS).map(port).collect();
        let options = json!({"com.docker.network.portmap": ports});
        let body = json!({"NetworkID": "bench", "EndpointID": id, "Options": options});
        self.call("ProgramExternalConnectivity", &body)
    }

    fn revoke(&mut self, id: &str) -> Result<()> {
        let body = json!({"NetworkID": "bench", "EndpointID": id});
        self.call("RevokeExternalConnectivity", &body)
    }
}

fn networks(ours: &mut Ours, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut times = Vec::new();
    for nth in 0..ROUNDS {
        let (id, pool) = (format!("net{nth}"), format!("10.202.{nth}.0/24"));
        let gateway = format!("10.202.{nth}.1/24");
        times.push(milliseconds(|| ours.create_network(&id, &pool, &gateway))?);
    }
    for nth in 0..ROUNDS {
        ours.call("DeleteNetwork", &json!({"NetworkID": format!("net{nth}")}))?;
    }
    let time = percentile(&mut times, 0.5);
    tell(&told("network create p50", "ms", time, None, Goal::AtMost(5.0)));
    Ok(())
}

fn endpoints(ours: &mut Ours, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let peer = Cni::find()?;
    let (mut made, mut gone, mut peer_made, mut peer_gone) = (vec![], vec![], vec![], vec![]);
    for nth in 0..ROUNDS {
        let id = format!("endpoint{nth}");
        made.push(milliseconds(|| ours.join(&id, nth))?);
        if let Some(cni) = &peer {
            Cni::with_namespace(&id, || {
                peer_made.push(milliseconds(|| cni.call("ADD", &id))?);
                gone.push(milliseconds(|| ours.leave(&id))?);
                peer_gone.push(milliseconds(|| cni.call("DEL", &id))?);
                Ok(())
            })?;
        } else {
            gone.push(milliseconds(|| ours.leave(&id))?);
        }
    }
    for (name, mine, theirs, share) in [
        ("endpoint create and join p50", &mut made, &mut peer_made, 0.1),
        ("endpoint leave and delete p50", &mut gone, &mut peer_gone, 0.02),
    ] {
        let peer = peer.as_ref().map(|_| (CNI, percentile(theirs, 0.5)));
        tell(&told(
            name,
            "ms",
            percentile(mine, 0.5),
            peer,
            Goal::OfPeer(share),
        ));
    }
    Ok(())
}

fn ports(ours: &mut Ours, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    ours.join("publisher", 10_000)?;
    let publish = |ours: &mut Ours| -> Result<f64> {
        let time = milliseconds(|| ours.publish("publisher", 50_000))?;
        ours.revoke("publisher")?;
        Ok(time)
    };
    let mut empty = Vec::new();
    for _ in 0..ROUNDS {
        empty.push(publish(ours)?);
    }
    for nth in 0..CROWD {
        let id = format!("crowd{nth}");
        ours.join(&id, 1_000 + usize::from(nth))?;
        ours.publish(&id, 20_000 + nth * PORTS)?;
    }
    let peer = Iptables::find()?;
    let (mut full, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        full.push(publish(ours)?);
        if peer.is_some() {
            peers.push(milliseconds(|| Iptables::rule("-A"))?);
            Iptables::rule("-D")?;
        }
    }
    let (full, empty) = (percentile(&mut full, 0.5), percentile(&mut empty, 0.5));
    let peer = peer.map(|_| (IPTABLES, percentile(&mut peers, 0.5)));
    let known = Goal::AtMost(5.0);
    tell(&told(
        "publish 200 ports beside 10 000 p50",
        "ms",
        full,
        None,
        known,
    ));
    let one = "publish 1 port, of 200 beside 10 000; peer beside 1 000 p50";
    let goal = Goal::OfPeer(0.1);
    tell(&told(one, "ms", full / f64::from(PORTS), peer, goal));
    let slope = "publish 200 ports, beside 10 000 over beside 0";
    tell(&told(slope, "times", full / empty, None, Goal::AtMost(1.2)));
    Ok(())
}

// === peers ===

fn run(command: &mut Command, input: &str) -> Result<()> {
    let what = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {what}"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("write to {what}"))?;
    drop(stdin);
    let out = child
        .wait_with_output()
        .with_context(|| format!("wait for {what}"))?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{what} failed: {said}");
    Ok(())
}

/// Debian's CNI plugins.
struct Cni {
    state: tempfile::TempDir,
}

impl Cni {
    fn find() -> Result<Option<Self>> {
        let is_there = ["bridge", "host-local"].map(|name| Path::new(PLUGINS).join(name).exists());
        if is_there != [true, true] {
            return Ok(None);
        }
        let state = tempfile::tempdir().context("make a folder")?;
        Ok(Some(Self { state }))
    }

    /// Runs `work` while there is a network namespace of a name.
    fn with_namespace(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let ip = |verb| run(program(Path::new("ip")).args(["netns", verb, name]), "");
        ip("add")?;
        let outcome = work();
        ip("delete")?;
        outcome
    }

    fn call(&self, verb: &str, id: &str) -> Result<()> {
        let ipam = json!({"type": "host-local", "subnet": "10.203.0.0/16", "dataDir": self.state.path()});
        let config = json!({"cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni-bench",
                            "isGateway": true, "ipam": ipam});
        let mut command = program(&PathBuf::from(PLUGINS).join("bridge"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", format!("/run/netns/{id}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS);
        run(&mut command, &config.to_string())
    }
}

/// A chain of one rule for each published port.
struct Iptables;

impl Iptables {
    fn find() -> Result<Option<Self>> {
        let mut asked = program(Path::new("iptables-nft"));
        if asked.arg("--version").stdout(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let rule = |port| format!("-A BENCH -p tcp --dport {port} -j DNAT --to-destination 10.204.0.2:80\n");
        let rules: String = (20_000..20_000 + RULES).map(rule).collect();
        let text = format!("*nat\n:BENCH - [0:0]\n{rules}COMMIT\n");
        run(program(Path::new("iptables-nft-restore")).arg("--noflush"), &text)?;
        Ok(Some(Self))
    }

    fn rule(verb: &str) -> Result<()> {
        let words = [
            "-t", "nat", verb, "BENCH", "-p", "tcp", "--dport", "50000", "-j", "DNAT",
        ];
        let mut command = program(Path::new("iptables-nft"));
        run(
            command.args(words).args(["--to-destination", "10.204.0.2:80"]),
            "",
        )
    }
}
