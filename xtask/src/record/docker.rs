//! Drives a private dockerd through what its users do.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http::Request;
use super::plugin::{self, Heard};
use crate::run;

const PLUGINS: &str = "/run/docker/plugins";
const HOST: &str = "unix:///run/record/docker.sock";
const IMAGE: &str = "probe:1";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000"];

/// What users do with volumes and networks; each line is one command.
const LIFE: &[&str] = &[
    "volume create -d probe -o size=1G -o mode=0750 data",
    "volume create -d probe data",
    "volume create -d probe plain",
    "volume inspect data",
    "volume ls",
    "network create -d probe --ipam-driver probe --subnet 10.77.0.0/16 --gateway 10.77.0.1 \
     --ip-range 10.77.1.0/24 --aux-address r1=10.77.0.9 --ipam-opt pace=slow \
     -o o1=v1 -o com.docker.network.driver.mtu=1400 front",
    "network create -d probe --ipam-driver probe --internal back",
    "network create -d probe --ipv6 --subnet fd77::/64 --subnet 10.79.0.0/16 six",
    "network ls",
    "run -d --name first --network front --ip 10.77.0.200 --mac-address 02:00:00:00:00:99 \
     -p 127.0.0.1:8080:80 -p 5353:53/udp --expose 9000 -v data:/data -v plain:/plain {run}",
    "run -d --name second --network front {run}",
    "run -d --name third --network six {run}",
    "network connect --alias pal --driver-opt dop=dov back first",
    "cp /run/record/image.tar first:/data/",
    "restart -t 1 first",
    "network disconnect back first",
];

/// What users do after the daemon has come again.
const AFTERLIFE: &[&str] = &[
    "volume ls",
    "start first",
    "stop -t 1 first",
    "rm -f first second third",
    "network rm front back six",
    "volume rm data plain",
];

/// What users do with layers.
const LAYERS: &[&str] = &[
    "info",
    "create --name first {run}",
    "start first",
    "cp /run/record/image.tar first:/hello",
    "diff first",
    "inspect -s first",
    "stop -t 1 first",
    "commit first probe:2",
    "history probe:2",
    "save -o /run/record/saved.tar probe:2",
    "rm first",
    "rmi probe:2 probe:1",
];

/// The first version whose storage driver cannot be a plugin without more ado.
const FIRST_WITHOUT_LAYERS: u32 = 27;

/// All requests of a whole life, with the version of the engine.
pub(super) fn drive(home: &Path) -> Result<(String, Vec<Request>)> {
    let heard = Heard::default();
    std::fs::create_dir_all(PLUGINS).context("make the plugins' folder")?;
    let (volumes, layers) = (home.join("volumes"), home.join("layers"));
    std::fs::create_dir_all(&layers)?;
    let socket = |name: &str| Path::new(PLUGINS).join(format!("{name}.sock"));
    plugin::serve(
        &socket("probe"),
        &volumes,
        &["VolumeDriver", "NetworkDriver", "IpamDriver"],
        &heard,
    )?;

    let vfs = ["--storage-driver", "vfs"];
    let first = Daemon::start(home, "common", &vfs)?;
    docker(&format!("import {}/image.tar {IMAGE}", home.display()))?;
    script(LIFE)?;
    first.stop()?;
    let second = Daemon::start(home, "common", &vfs)?;
    script(AFTERLIFE)?;
    second.stop()?;

    let version = version()?;
    let major: Option<u32> = version.split('.').next().and_then(|word| word.parse().ok());
    if major.context("dockerd's version is no number")? >= FIRST_WITHOUT_LAYERS {
        return Ok((version, heard.all()));
    }
    plugin::serve(&socket("layers"), &layers, &["GraphDriver"], &heard)?;
    let third = Daemon::start(
        home,
        "layered",
        &[
            "--experimental",
            "--storage-driver",
            "layers",
            "--storage-opt",
            "size=5G",
        ],
    )?;
    docker(&format!("import {}/image.tar {IMAGE}", home.display()))?;
    script(LAYERS)?;
    third.stop()?;
    Ok((version, heard.all()))
}

fn version() -> Result<String> {
    let text = run::read_words("dockerd", &["--version"])?;
    let version = text
        .split_whitespace()
        .nth(2)
        .context("dockerd names no version")?;
    Ok(version
        .trim_end_matches(',')
        .split('+')
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn script(lines: &[&str]) -> Result<()> {
    lines.iter().try_for_each(|line| docker(line))
}

/// One docker command; `{run}` is the image and a program that stays.
fn docker(line: &str) -> Result<()> {
    println!("docker {line}");
    let words = line.split_whitespace().flat_map(|word| match word {
        "{run}" => [&[IMAGE][..], &SLEEP].concat(),
        word => vec![word],
    });
    run::read(run::program(client()).args(["-H", HOST]).args(words)).map(drop)
}

/// The client that came with the daemon, before any other on the search path:
/// a much newer one refuses words that only the older daemon knows.
fn client() -> &'static str {
    let beside = "/usr/bin/docker";
    if Path::new(beside).is_file() {
        beside
    } else {
        "docker"
    }
}

struct Daemon {
    child: Child,
}

impl Daemon {
    /// A daemon whose data are kept below `home/NAME`, answering when this returns.
    fn start(home: &Path, name: &str, words: &[&str]) -> Result<Self> {
        let log = std::fs::File::create(home.join(format!("{name}.log"))).context("make the daemon's log")?;
        let child = run::program("dockerd")
            .arg("--data-root")
            .arg(home.join(name))
            .arg("--exec-root")
            .arg(home.join("exec"))
            .arg("--pidfile")
            .arg(home.join("docker.pid"))
            .args(["-H", HOST])
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start dockerd")?;
        let mut daemon = Self { child };
        let limit = Instant::now() + Duration::from_secs(60);
        while run::read_words(client(), &["-H", HOST, "version"]).is_err() {
            if daemon.child.try_wait()?.is_some() || Instant::now() > limit {
                let log = std::fs::read_to_string(home.join(format!("{name}.log"))).unwrap_or_default();
                bail!("dockerd does not answer:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(daemon)
    }

    fn stop(mut self) -> Result<()> {
        run::read_words("kill", &["-TERM", &self.child.id().to_string()])?;
        self.child.wait().context("wait for dockerd")?;
        Ok(())
    }
}
