//! `run` and `start`: a container is made, its monitor started, its output followed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plugin_api::Options;

use super::network;
use crate::cli::{NetworkCreate, Run};
use crate::engine::{DEFAULT_DRIVER, Engine};
use crate::log::{self, Reader};
use crate::state::container::{Container, Leg, Link, MountPoint, Recipe, Source, Status};
use crate::state::image::Image;
use crate::state::{check_name, fresh_id, now, short};
use crate::{bundle, links, mounts, ports};

/// The network of containers that name none.
const DEFAULT_NETWORK: &str = "bridge";

pub(super) fn run(engine: &Engine, typed: &Run) -> Result<u8> {
    let container = match create(engine, typed) {
        Ok(container) => container,
        Err(error) => {
            eprintln!("longshore-engine: {error:#}");
            return Ok(125);
        }
    };
    let folder = engine.store.container_folder(&container.id);
    let log = File::options()
        .create(true)
        .append(true)
        .read(true)
        .open(folder.join("log"))
        .context("make log")?;
    let mut monitor = Monitor::start(engine, &container)?;
    if let Err(failure) = monitor.ready()? {
        eprintln!("longshore-engine: {}", failure.text);
        return Ok(failure.code);
    }
    if typed.detach {
        say!("{}", container.id);
        return Ok(0);
    }
    attach(monitor, log)
}

pub(super) fn start(engine: &Engine, typed: &str) -> Result<()> {
    let container = engine.store.container(typed)?;
    if container.status == Status::Running {
        return Ok(());
    }
    let mut monitor = Monitor::start(engine, &container)?;
    match monitor.ready()? {
        Ok(()) => Ok(()),
        Err(failure) => bail!("start container {}: {}", container.name, failure.text),
    }
}

// === the monitor, seen from the command ===

struct Monitor {
    child: Child,
    said: BufReader<ChildStdout>,
}

struct Failure {
    code: u8,
    text: String,
}

impl Monitor {
    fn start(engine: &Engine, container: &Container) -> Result<Self> {
        let own = std::env::current_exe().context("find this program")?;
        let folder = engine.store.container_folder(&container.id);
        let complaints = File::options()
            .create(true)
            .append(true)
            .open(folder.join("monitor.log"))
            .context("open the monitor's log")?;
        let stdin = if container.recipe.interactive {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let mut child = std::process::Command::new(own)
            .args(&engine.flags)
            .args(["monitor", &container.id])
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("start the monitor")?;
        let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(Self { child, said })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line).context("hear the monitor")?;
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the container runs, or failed to.
    fn ready(&mut self) -> Result<Result<(), Failure>> {
        let line = self.line()?;
        if line == "ready" {
            return Ok(Ok(()));
        }
        let told = line.strip_prefix("failed ").and_then(|rest| rest.split_once(' '));
        let Some((code, text)) = told else {
            let _ = self.child.wait();
            bail!("the container's monitor died; its words are in monitor.log");
        };
        let code = code.parse().unwrap_or(125);
        let text = text.to_owned();
        let _ = self.child.wait();
        Ok(Err(Failure { code, text }))
    }
}

/// Shows the output until the container ends and returns its exit code.
fn attach(monitor: Monitor, mut file: File) -> Result<u8> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = Reader::new(file);
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut monitor = monitor;
        let _ = sender.send(monitor.line());
        let _ = monitor.child.wait();
    });
    loop {
        let last = match ended.recv_timeout(Duration::from_millis(10)) {
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Ok(line) => Some(line?),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(String::new()),
        };
        while let Some(piece) = reader.next()? {
            log::show(&piece)?;
        }
        if let Some(line) = last {
            let code = line
                .strip_prefix("exit ")
                .and_then(|code| code.parse::<u8>().ok());
            return code.context("the container's monitor died");
        }
    }
}

// === making a container ===

fn create(engine: &Engine, typed: &Run) -> Result<Container> {
    let image = engine.store.image(typed.image())?;
    let id = fresh_id()?;
    let recipe = recipe(engine, typed, &image, &id)?;
    let mounts = mount_points(engine, typed)?;
    let container = Container {
        name: name(engine, typed, &id)?,
        created: now(),
        image: image.id.clone(),
        image_name: image.shown().to_owned(),
        recipe,
        mounts,
        legs: legs(engine, typed)?,
        status: Status::Created,
        exit_code: 0,
        error: String::new(),
        started: String::new(),
        finished: String::new(),
        monitor: None,
        pid: None,
        layer_held: false,
        id,
    };
    announce(engine, &container)?;
    let folder = engine.store.container_folder(&container.id);
    let outcome = fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .context("make the container's folder")
        .and_then(|()| engine.make_layers(&container));
    if let Err(error) = outcome {
        return Err(match engine.remove(&container, true) {
            Ok(()) => error,
            Err(undo) => error.context(format!("not undone, left to rm: {undo:#}")),
        });
    }
    Ok(container)
}

fn announce(engine: &Engine, container: &Container) -> Result<()> {
    let lock = engine.store.lock()?;
    if let Some(other) = engine
        .store
        .containers()?
        .iter()
        .find(|one| one.name == container.name)
    {
        bail!(
            "the container name {} is used by container {}",
            container.name,
            short(&other.id)
        );
    }
    engine.store.put_container(&lock, container)
}

fn name(engine: &Engine, typed: &Run, id: &str) -> Result<String> {
    const HOW: [&str; 8] = [
        "brave", "calm", "eager", "fair", "kind", "merry", "quiet", "swift",
    ];
    const WHAT: [&str; 8] = [
        "anchor", "crane", "dock", "hawser", "jetty", "pier", "quay", "winch",
    ];
    if let Some(name) = &typed.name {
        check_name("container name", name)?;
        return Ok(name.clone());
    }
    let digit = |at: usize| id[at..=at].bytes().next().map_or(0, usize::from) % 8;
    let name = format!("{}_{}", HOW[digit(0)], WHAT[digit(1)]);
    let taken = engine.store.containers()?.iter().any(|one| one.name == name);
    Ok(if taken {
        format!("{name}_{}", &id[2..8])
    } else {
        name
    })
}

fn recipe(engine: &Engine, typed: &Run, image: &Image, id: &str) -> Result<Recipe> {
    let config = &image.config;
    let hostname = typed.hostname.clone().unwrap_or_else(|| short(id).to_owned());
    if hostname.len() > 63
        || !hostname
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    {
        bail!(
            "hostname {} may hold up to 63 letters, digits, '-' and '.'",
            plugin_api::id::quoted(&hostname)
        );
    }
    let cwd = typed
        .workdir
        .clone()
        .unwrap_or_else(|| config.working_dir.clone());
    let cwd = if cwd.is_empty() { "/".to_owned() } else { cwd };
    if !cwd.starts_with('/') {
        bail!("working folder {} is not absolute", plugin_api::id::quoted(&cwd));
    }
    let mut publish = Vec::new();
    for one in &typed.publish {
        publish.extend(ports::parse(one)?);
    }
    let mut exposed = config.exposed.clone();
    for one in &publish {
        let port = format!("{}/{}", one.0.container_port, one.0.protocol.as_str());
        if !exposed.contains(&port) {
            exposed.push(port);
        }
    }
    let mut linked = Vec::new();
    for one in &typed.link {
        let (name, alias) = links::parse(one)?;
        let container = engine.store.container(&name)?.id;
        linked.push(Link { container, alias });
    }
    Ok(Recipe {
        hostname,
        args: args(typed, image)?,
        env: environment(&config.env, &typed.env),
        cwd,
        user: typed.user.clone().unwrap_or_else(|| config.user.clone()),
        interactive: typed.interactive,
        auto_remove: typed.rm,
        exposed,
        publish,
        links: linked,
    })
}

/// Entry point and command, of the command line before those of the image.
fn args(typed: &Run, image: &Image) -> Result<Vec<String>> {
    let config = &image.config;
    let entry = match &typed.entrypoint {
        Some(one) if one.is_empty() => Vec::new(),
        Some(one) => vec![one.clone()],
        None => config.entrypoint.clone(),
    };
    // The image's command belongs to the image's own entry point.
    let own = typed.cmd().is_empty() && typed.entrypoint.is_none();
    let cmd = if own { &config.cmd } else { typed.cmd() };
    let all = [entry.as_slice(), cmd].concat();
    if all.is_empty() {
        bail!("no command: neither the image nor the command line names one");
    }
    Ok(all)
}

/// The image's variables with the user's in their places. `KEY` alone takes the value of our own.
fn environment(image: &[String], typed: &[String]) -> Vec<String> {
    let mut all = image.to_vec();
    if !all.iter().any(|row| row.starts_with("PATH=")) {
        all.push(bundle::PATH.to_owned());
    }
    for row in typed {
        let key = row.split('=').next().unwrap_or(row);
        let row = if row.contains('=') {
            row.clone()
        } else {
            match std::env::var(key) {
                Ok(value) => format!("{key}={value}"),
                Err(_) => continue,
            }
        };
        let begins = format!("{key}=");
        match all.iter_mut().find(|one| one.starts_with(&begins)) {
            Some(one) => *one = row,
            None => all.push(row),
        }
    }
    all
}

fn mount_points(engine: &Engine, typed: &Run) -> Result<Vec<MountPoint>> {
    let mut all: Vec<MountPoint> = Vec::new();
    // All is read before the first volume is made: bad input changes nothing.
    let parsed = typed.volume.iter().map(|one| mounts::parse(one));
    for one in parsed.collect::<Result<Vec<_>>>()? {
        if all.iter().any(|other| other.target == one.target) {
            bail!("two mounts on {}", one.target);
        }
        let anonymous = one.from == mounts::From::Anonymous;
        let source = match one.from {
            mounts::From::Host(path) => {
                if !std::path::Path::new(&path).exists() {
                    bail!("host path {path} does not exist");
                }
                Source::Host(path.into())
            }
            mounts::From::Volume(name) => volume(engine, name)?,
            mounts::From::Anonymous => volume(engine, fresh_id()?)?,
        };
        all.push(MountPoint {
            source,
            target: one.target,
            read_only: one.read_only,
            anonymous,
            holder: None,
        });
    }
    for one in &typed.volumes_from {
        let (name, read_only) = mounts::parse_from(one)?;
        for mount in engine.store.container(name)?.mounts {
            if !all.iter().any(|other| other.target == mount.target) {
                all.push(MountPoint {
                    read_only: mount.read_only || read_only,
                    anonymous: false,
                    holder: None,
                    ..mount
                });
            }
        }
    }
    Ok(all)
}

fn volume(engine: &Engine, name: String) -> Result<Source> {
    let driver = engine.ensure_volume(&engine.volume_driver, &name, &Options::new())?;
    Ok(Source::Volume { driver, name })
}

fn legs(engine: &Engine, typed: &Run) -> Result<Vec<Leg>> {
    let mut legs: Vec<Leg> = Vec::new();
    for name in &typed.network {
        if name == "none" {
            continue;
        }
        if name == "host" {
            bail!("this engine gives every container a network namespace of its own");
        }
        let network = engine.store.network(name)?.id;
        if legs.iter().any(|leg| leg.network == network) {
            bail!("network {name} is named twice");
        }
        legs.push(leg_in(network));
    }
    if typed.network.is_empty() {
        legs.extend(default_leg(engine)?);
    }
    for alias in &typed.network_alias {
        check_name("network alias", alias)?;
    }
    for leg in &mut legs {
        leg.aliases.clone_from(&typed.network_alias);
    }
    match legs.first_mut() {
        Some(first) => (first.ip, first.ip6, first.mac) = (typed.ip, typed.ip6, typed.mac_address),
        None if typed.ip.is_some() || typed.ip6.is_some() || typed.mac_address.is_some() => {
            bail!("an address needs a network");
        }
        None => {}
    }
    Ok(legs)
}

/// The leg of a container that names no network: in [`DEFAULT_NETWORK`], made if a driver is there.
fn default_leg(engine: &Engine) -> Result<Option<Leg>> {
    let known = engine
        .store
        .networks()?
        .into_iter()
        .find(|one| one.name == DEFAULT_NETWORK);
    if let Some(network) = known {
        return Ok(Some(leg_in(network.id)));
    }
    let drivers = [DEFAULT_NETWORK, DEFAULT_DRIVER];
    let driver = drivers
        .iter()
        .find(|name| engine.plugins.implements(name, "NetworkDriver"));
    let Some(driver) = driver else {
        return Ok(None);
    };
    let wanted = NetworkCreate {
        driver: (*driver).to_owned(),
        ipam_driver: None,
        subnet: Vec::new(),
        gateway: Vec::new(),
        ip_range: Vec::new(),
        ipv6: false,
        internal: false,
        opt: Vec::new(),
        name: DEFAULT_NETWORK.to_owned(),
    };
    Ok(Some(leg_in(network::create(engine, &wanted)?.id)))
}

fn leg_in(network: String) -> Leg {
    Leg {
        network,
        ..Leg::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_variables_replace_the_images() {
        let rows = |rows: &[&str]| rows.iter().map(|&row| row.to_owned()).collect::<Vec<_>>();
        let all = environment(
            &rows(&["PATH=/bin", "A=1"]),
            &rows(&["A=2", "B=x=y", "LONGSHORE_UNSET_VARIABLE"]),
        );
        assert_eq!(all, ["PATH=/bin", "A=2", "B=x=y"]);
        assert_eq!(environment(&[], &[]), [bundle::PATH]);
    }
}
