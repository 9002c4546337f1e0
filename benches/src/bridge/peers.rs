//! Peers that are a program run once for each step.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::ground::{has, program, run};

/// Runs `work` while there is a network namespace of a name.
pub(super) fn with_namespace(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let ip = |verb| run(program("ip").args(["netns", verb, name]), "");
    ip("add")?;
    let outcome = work();
    ip("delete")?;
    outcome
}

/// Folder of Debian's containernetworking-plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Debian's CNI plugins.
pub(super) struct Cni {
    state: tempfile::TempDir,
}

impl Cni {
    pub(super) const NAME: &'static str = "CNI bridge + host-local";

    pub(super) fn find() -> Result<Option<Self>> {
        let is_there = ["bridge", "host-local"].map(|name| Path::new(PLUGINS).join(name).exists());
        if is_there != [true, true] {
            return Ok(None);
        }
        let state = tempfile::tempdir().context("make a folder")?;
        Ok(Some(Self { state }))
    }

    /// `ADD` or `DEL`.
    pub(super) fn call(&self, verb: &str, id: &str) -> Result<()> {
        let ipam = json!({"type": "host-local", "subnet": "10.203.0.0/16", "dataDir": self.state.path()});
        let config = json!({"cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni-bench",
                            "isGateway": true, "ipam": ipam});
        let mut command = program(PathBuf::from(PLUGINS).join("bridge"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", format!("/run/netns/{id}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS);
        run(&mut command, &config.to_string()).map(drop)
    }
}

/// What Podman runs.
pub(super) struct Netavark;

impl Netavark {
    pub(super) const NAME: &'static str = "netavark (Debian) bridge";
    const PATH: &'static str = "/usr/lib/podman/netavark";

    pub(super) fn find() -> Option<Self> {
        Path::new(Self::PATH).exists().then_some(Self)
    }

    fn config(id: &str, nth: usize) -> Value {
        let address = format!("10.206.{}.{}", 1 + nth / 200, 2 + nth % 200);
        let network = json!({
            "name": "bench", "driver": "bridge", "network_interface": "na-bench",
            "id": "53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e",
            "subnets": [{"subnet": "10.206.0.0/16", "gateway": "10.206.0.1"}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        });
        json!({"container_id": id, "container_name": id, "network_info": {"bench": network},
               "networks": {"bench": {"static_ips": [address], "interface_name": "eth0"}}})
    }

    /// `setup` or `teardown`. Podman has chosen the address before.
    pub(super) fn call(verb: &str, id: &str, nth: usize) -> Result<()> {
        let mut command = program(Self::PATH);
        command.arg(verb).arg(format!("/run/netns/{id}"));
        run(&mut command, &Self::config(id, nth).to_string()).map(drop)
    }
}

/// Ports published as moby does by iptables: for each port three rules in three chains, each asked for before
/// it is appended, one process at a time.
pub(super) struct Iptables {
    /// Words that every call has.
    words: [&'static str; 1],
}

/// Where a published port leads.
const TARGET: &str = "10.204.0.2";

impl Iptables {
    pub(super) const NAME: &'static str = "moby's rules by iptables-nft, -C then -A";

    /// The chains, and `count` ports published before by one restore, from host port 1024 on.
    pub(super) fn with_published(count: u16) -> Result<Option<Self>> {
        if !has("iptables-nft") || !has("iptables-nft-restore") {
            return Ok(None);
        }
        let mut nat = String::new();
        let mut filter = String::new();
        for port in 1024..1024 + count {
            for (table, chain, rule) in Self::rules(port) {
                let text = if table == "nat" { &mut nat } else { &mut filter };
                writeln!(text, "-A {chain} {rule}")?;
            }
        }
        let text = format!(
            "*nat\n:DOCKER - [0:0]\n:POSTROUTING ACCEPT [0:0]\n{nat}COMMIT\n*filter\n:DOCKER - [0:0]\n{filter}COMMIT\n"
        );
        run(program("iptables-nft-restore").arg("--noflush"), &text)?;
        Ok(Some(Self { words: ["--wait"] }))
    }

    fn rules(port: u16) -> [(&'static str, &'static str, String); 3] {
        [
            (
                "nat",
                "DOCKER",
                format!("-d 0/0 ! -i bench0 -p tcp --dport {port} -j DNAT --to-destination {TARGET}:80"),
            ),
            (
                "filter",
                "DOCKER",
                format!("! -i bench0 -o bench0 -p tcp -d {TARGET} --dport {port} -j ACCEPT"),
            ),
            (
                "nat",
                "POSTROUTING",
                format!("-p tcp -s {TARGET} -d {TARGET} --dport {port} -j MASQUERADE"),
            ),
        ]
    }

    fn command(&self, table: &str) -> Command {
        let mut command = program("iptables-nft");
        command.args(self.words).args(["-t", table]);
        command
    }

    /// Publishes one port more.
    pub(super) fn publish(&self, port: u16) -> Result<()> {
        for (table, chain, rule) in Self::rules(port) {
            let with = |verb| {
                let mut command = self.command(table);
                command.args([verb, chain]).args(rule.split_whitespace());
                command
            };
            let mut asked = with("-C");
            let is_there = asked.stdout(Stdio::null()).stderr(Stdio::null()).status();
            anyhow::ensure!(
                !is_there.context("ask iptables")?.success(),
                "the rule is there already"
            );
            run(&mut with("-A"), "")?;
        }
        Ok(())
    }

    /// Takes every rule and chain of ours away.
    pub(super) fn clear(self) -> Result<()> {
        for table in ["nat", "filter"] {
            for verb in ["-F", "-X"] {
                run(self.command(table).arg(verb), "")?;
            }
        }
        Ok(())
    }
}
