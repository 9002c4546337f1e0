//! Beside Docker's built-in bridge, and by the same Docker.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::ours::Ours;
use crate::engine::{Dockerd, Piece};
use crate::ground::{milliseconds, program, run};
use crate::row::{Goal, Row, percentile};
use crate::wishes::Wishes;

const ROUNDS: usize = 11;
const BUILT_IN: &str = "dockerd's built-in bridge, by API";
/// The name of our plugin's socket.
const PLUGIN: &str = "bench";

/// A dockerd that knows our plugin, both in this network namespace.
struct Harbour {
    dockerd: Dockerd,
    ours: Ours,
    _disk: tempfile::TempDir,
}

impl Harbour {
    fn open(longshore: &Path) -> Result<Option<Self>> {
        if !Dockerd::is_there() {
            return Ok(None);
        }
        let ours = Ours::start(longshore)?;
        std::fs::create_dir_all("/run/docker/plugins").context("make Docker's folder of plugins")?;
        let known = Path::new("/run/docker/plugins").join(format!("{PLUGIN}.sock"));
        // One that an earlier row left leads to a server that is gone.
        let _ = std::fs::remove_file(&known);
        symlink(ours.server.networks(), &known).context("show our plugin to Docker")?;
        let disk = tempfile::tempdir().context("make a folder")?;
        // A proxy process for each published port is no part of what is compared.
        let dockerd = Dockerd::start(disk.path(), &["--userland-proxy=false"])?;
        Ok(Some(Self {
            dockerd,
            ours,
            _disk: disk,
        }))
    }

    fn post(&self, uri: &str, body: &Value) -> Result<Value> {
        self.dockerd.json("POST", uri, body)
    }

    fn create_network(&self, name: &str, driver: &str, pool: &str) -> Result<()> {
        let ipam = json!({"Driver": "default", "Config": [{"Subnet": pool}]});
        let body = json!({"Name": name, "Driver": driver, "IPAM": ipam});
        self.post("/networks/create", &body).map(drop)
    }

    fn delete_network(&self, name: &str) -> Result<()> {
        let uri = format!("/networks/{name}");
        self.dockerd.json("DELETE", &uri, &Value::Null).map(drop)
    }

    /// An image of one static program.
    fn import(&self) -> Result<()> {
        let home = tempfile::tempdir().context("make a folder")?;
        let file = home.path().join("box.tar");
        let mut tar = program("tar");
        tar.args(["-chf"]).arg(&file).args(["-C", "/bin", "busybox"]);
        run(&mut tar, "")?;
        let uri = "/images/create?fromSrc=-&repo=box&tag=1";
        self.dockerd
            .ask("POST", uri, "application/x-tar", &[Piece::File(&file)])
            .map(drop)
    }

    fn create(&self, name: &str, network: &str) -> Result<()> {
        let host = json!({"NetworkMode": network, "CgroupParent": "/longshore-bench"});
        let body = json!({"Image": "box:1", "Cmd": ["/busybox", "sleep", "600"], "HostConfig": host});
        self.post(&format!("/containers/create?name={name}"), &body)
            .map(drop)
    }

    fn verb(&self, name: &str, verb: &str) -> Result<()> {
        self.post(&format!("/containers/{name}/{verb}"), &Value::Null)
            .map(drop)
    }

    /// Milliseconds of a start and a stop.
    fn start_and_stop(&self, name: &str) -> Result<f64> {
        milliseconds(|| {
            self.verb(name, "start")?;
            self.verb(name, "stop?t=0")
        })
    }

    fn connect(&self, verb: &str, network: &str, name: &str) -> Result<f64> {
        let body = json!({"Container": name, "Force": false});
        milliseconds(|| self.post(&format!("/networks/{network}/{verb}"), &body).map(drop))
    }
}

/// Networks made: by our socket, by Docker with our driver, by Docker with its own.
pub(super) fn networks(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let Some(mut harbour) = Harbour::open(&wishes.longshore)? else {
        return alone(wishes, tell);
    };
    let (mut direct, mut through, mut built_in) = (vec![], vec![], vec![]);
    for nth in 0..wishes.rounds(ROUNDS) {
        let (pool, gateway) = (format!("10.202.{nth}.0/24"), format!("10.202.{nth}.1/24"));
        let ours = &mut harbour.ours;
        direct.push(milliseconds(|| ours.create_network("direct", &pool, &gateway))?);
        ours.delete_network("direct")?;
        let pools = [format!("10.208.{nth}.0/24"), format!("10.209.{nth}.0/24")];
        through.push(milliseconds(|| {
            harbour.create_network("through", PLUGIN, &pools[0])
        })?);
        harbour.delete_network("through")?;
        built_in.push(milliseconds(|| {
            harbour.create_network("own", "bridge", &pools[1])
        })?);
        harbour.delete_network("own")?;
    }
    let title = ("bridge", "network create, our handler p50", "ms");
    tell(&Row::medians(
        title,
        direct.clone(),
        ("", vec![]),
        Goal::AtMost(5.0),
    ));
    tell(&Row::medians(
        title,
        direct,
        (BUILT_IN, built_in.clone()),
        Goal::OfPeer(0.125),
    ));
    let title = ("bridge", "network create by Docker with our driver p50", "ms");
    tell(&Row::medians(title, through, (BUILT_IN, built_in), Goal::Known));
    Ok(())
}

/// Our own part, where there is no Docker to be beside.
fn alone(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let mut ours = Ours::start(&wishes.longshore)?;
    let mut times = vec![];
    for nth in 0..wishes.rounds(ROUNDS) {
        let (pool, gateway) = (format!("10.202.{nth}.0/24"), format!("10.202.{nth}.1/24"));
        times.push(milliseconds(|| ours.create_network("direct", &pool, &gateway))?);
        ours.delete_network("direct")?;
    }
    let title = ("bridge", "network create, our handler p50", "ms");
    tell(&Row::medians(title, times, ("", vec![]), Goal::AtMost(5.0)));
    Ok(())
}

/// A container's life: what the built-in bridge adds to it beside no network, and what our handlers take.
pub(super) fn lives(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    let Some(mut harbour) = Harbour::open(&wishes.longshore)? else {
        anyhow::bail!("dockerd is missing");
    };
    harbour.import()?;
    harbour.create_network("own", "bridge", "10.209.0.0/16")?;
    harbour.create_network("through", PLUGIN, "10.208.0.0/16")?;
    for network in ["none", "own", "through"] {
        harbour.create(&format!("in-{network}"), network)?;
    }
    harbour.create("guest", "none")?;
    harbour
        .ours
        .create_network("bench", "10.201.0.0/16", "10.201.0.1/16")?;
    let (mut none, mut own, mut through, mut handlers) = (vec![], vec![], vec![], vec![]);
    for nth in 0..wishes.rounds(ROUNDS) {
        none.push(harbour.start_and_stop("in-none")?);
        own.push(harbour.start_and_stop("in-own")?);
        through.push(harbour.start_and_stop("in-through")?);
        let ours = &mut harbour.ours;
        handlers.push(milliseconds(|| {
            ours.join("life", nth)?;
            ours.leave("life")
        })?);
    }
    let base = percentile(&mut none, 0.5);
    let share: Vec<f64> = own.iter().map(|time| time - base).collect();
    let title = ("bridge", "our handlers per container life p50", "ms");
    let peer = "built-in bridge: start and stop, less with none";
    tell(&Row::medians(title, handlers, (peer, share), Goal::OfPeer(0.1)));
    let title = ("bridge", "container start and stop by Docker p50", "ms");
    tell(&Row::medians(title, through, (BUILT_IN, own), Goal::Known));
    connections(&harbour, wishes, tell)
}

/// A running container connected and disconnected.
fn connections(harbour: &Harbour, wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    harbour.create("runner", "own")?;
    harbour.verb("runner", "start")?;
    harbour.create_network("second", "bridge", "10.210.0.0/16")?;
    let (mut on, mut off, mut own_on, mut own_off) = (vec![], vec![], vec![], vec![]);
    for _ in 0..wishes.rounds(ROUNDS) {
        on.push(harbour.connect("connect", "through", "runner")?);
        off.push(harbour.connect("disconnect", "through", "runner")?);
        own_on.push(harbour.connect("connect", "second", "runner")?);
        own_off.push(harbour.connect("disconnect", "second", "runner")?);
    }
    harbour.verb("runner", "kill")?;
    let title = ("bridge", "docker network connect, our driver p50", "ms");
    tell(&Row::medians(title, on, (BUILT_IN, own_on), Goal::OfPeer(0.7)));
    let title = ("bridge", "docker network disconnect, our driver p50", "ms");
    tell(&Row::medians(title, off, (BUILT_IN, own_off), Goal::OfPeer(0.6)));
    Ok(())
}
