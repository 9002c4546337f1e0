//! Commands about containers that are there.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::User;
use plugin_api::network::Protocol;

use super::{ago, table};
use crate::bundle::{self, Accounts};
use crate::cli::Exec;
use crate::engine::{Engine, monitor_lives};
use crate::log::{self, Reader};
use crate::ports::Publish;
use crate::runtime::start_failure_code;
use crate::state::container::{Container, Status};
use crate::state::{fresh_id, short};

/// How long a killed container may take to be taken down.
const TEAR_DOWN: Duration = Duration::from_secs(60);

fn running(engine: &Engine, typed: &str) -> Result<Container> {
    let container = engine.store.container(typed)?;
    if container.status != Status::Running {
        bail!("container {typed} is not running");
    }
    Ok(container)
}

pub(super) fn exec(engine: &Engine, typed: &Exec) -> Result<u8> {
    let (name, cmd) = typed.words.split_first().context("a container is needed")?;
    let container = running(engine, name)?;
    let mut options = Vec::new();
    for row in &typed.env {
        options.extend(["--env".to_owned(), row.clone()]);
    }
    if let Some(folder) = &typed.workdir {
        options.extend(["--cwd".to_owned(), folder.clone()]);
    }
    if let Some(user) = &typed.user {
        let user = user_of(&container, user)?;
        options.extend(["--user".to_owned(), format!("{}:{}", user.uid(), user.gid())]);
    }
    let folder = engine.store.container_folder(&container.id);
    let said = folder.join(format!("exec-{}.log", short(&fresh_id()?)));
    let mut command = engine.runtime()?.exec(&container.id, &said, &options, cmd);
    command.stdin(if typed.interactive {
        Stdio::inherit()
    } else {
        Stdio::null()
    });
    let status = command.status().context("start OCI runtime")?;
    let complaint = std::fs::read_to_string(&said).unwrap_or_default();
    let _ = std::fs::remove_file(&said);
    if !status.success()
        && let Some(line) = crate::runtime::complaint(&complaint)
    {
        return Ok(u8::try_from(start_failure_code(&line)).unwrap_or(125));
    }
    Ok(u8::try_from(status.code().unwrap_or(137)).unwrap_or(255))
}

fn user_of(container: &Container, typed: &str) -> Result<User> {
    let pid = container.pid.context("the container has no process")?;
    let root = format!("/proc/{pid}/root/.");
    bundle::user(typed, &Accounts::read(Path::new(&root))?)
}

pub(super) fn logs(engine: &Engine, typed: &str, follow: bool) -> Result<()> {
    let container = engine.store.container(typed)?;
    let path = engine.store.container_folder(&container.id).join("log");
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context("open log")?,
    };
    let mut reader = Reader::new(file);
    loop {
        // Asked before reading: what is written until the end is then read.
        let alive = engine
            .store
            .container_by_id(&container.id)?
            .is_some_and(|one| one.status == Status::Running);
        while let Some(piece) = reader.next()? {
            log::show(&piece)?;
        }
        if !follow || !alive {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

// === ps, port ===

/// `0.0.0.0:8080->80/tcp`.
fn published(port: &Publish) -> String {
    let inner = format!("{}/{}", port.0.container_port, port.0.protocol.as_str());
    outer(port).map_or(inner.clone(), |outer| format!("{outer}->{inner}"))
}

fn outer(port: &Publish) -> Option<String> {
    let ip = port.0.host_ip.map_or("0.0.0.0".to_owned(), |ip| match ip {
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        std::net::IpAddr::V4(ip) => ip.to_string(),
    });
    match (port.0.host_port, port.0.host_port_end) {
        (0, _) => None,
        (first, last) if first == last => Some(format!("{ip}:{first}")),
        (first, last) => Some(format!("{ip}:{first}-{last}")),
    }
}

fn status(container: &Container) -> String {
    match container.status {
        Status::Created => "Created".to_owned(),
        Status::Running if container.monitor.is_none() => "Dead, not wholly gone".to_owned(),
        Status::Running => {
            let since = ago(&container.started);
            format!("Up {}", since.strip_suffix(" ago").unwrap_or(&since))
        }
        Status::Exited => format!("Exited ({}) {}", container.exit_code, ago(&container.finished)),
    }
}

pub(super) fn ps(engine: &Engine, all: bool, quiet: bool) -> Result<()> {
    let mut containers = engine.store.containers()?;
    containers.retain(|one| all || one.status == Status::Running);
    containers.reverse();
    if quiet {
        for one in &containers {
            say!("{}", short(&one.id));
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = containers
        .iter()
        .map(|one| {
            let ports: Vec<String> = one.recipe.publish.iter().map(published).collect();
            let command: String = one.recipe.args.join(" ").chars().take(20).collect();
            vec![
                short(&one.id).to_owned(),
                one.image_name.clone(),
                format!("{command:?}"),
                ago(&one.created),
                status(one),
                ports.join(", "),
                one.name.clone(),
            ]
        })
        .collect();
    let heading = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    table(&heading, &rows);
    Ok(())
}

pub(super) fn port(engine: &Engine, typed: &str) -> Result<()> {
    let container = engine.store.container(typed)?;
    for port in &container.recipe.publish {
        let Publish(binding) = port;
        let inner: (u16, Protocol) = (binding.container_port, binding.protocol);
        let shown = outer(port).unwrap_or_else(|| "any port, chosen by the driver".to_owned());
        say!("{}/{} -> {shown}", inner.0, inner.1.as_str());
    }
    Ok(())
}

// === ends ===

/// Waits until a container is down, or gone with `--rm`.
fn wait_down(engine: &Engine, id: &str, patience: Duration) -> Result<bool> {
    let end = Instant::now() + patience;
    loop {
        match engine.store.container_by_id(id)? {
            None => return Ok(true),
            Some(one) if one.status != Status::Running => {
                // With --rm it is about to go: nobody should see it any more.
                if !one.recipe.auto_remove {
                    return Ok(true);
                }
            }
            // Its monitor ended without taking all down, perhaps because a plugin is away.
            Some(one) if !monitor_lives(&one)? => {
                bail!("container {} is not wholly gone: {}", one.name, one.error);
            }
            Some(_) => {}
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal; a container that ends meanwhile is no error.
fn signal(engine: &Engine, id: &str, signal: &str) -> Result<()> {
    let outcome = engine.runtime()?.kill(id, signal);
    let over = engine
        .store
        .container_by_id(id)?
        .is_none_or(|one| one.status != Status::Running || one.pid.is_none_or(is_over));
    if over { Ok(()) } else { outcome }
}

fn is_over(pid: u32) -> bool {
    let pid = i32::try_from(pid).unwrap_or(0);
    !matches!(kernel::process::Identity::of(pid), Ok(Some(_)))
}

pub(super) fn stop(engine: &Engine, typed: &str, seconds: u64) -> Result<()> {
    let container = engine.store.container(typed)?;
    if container.status != Status::Running {
        return Ok(());
    }
    signal(engine, &container.id, "TERM")?;
    if wait_down(engine, &container.id, Duration::from_secs(seconds))? {
        return Ok(());
    }
    kill_and_wait(engine, &container)
}

fn kill_and_wait(engine: &Engine, container: &Container) -> Result<()> {
    signal(engine, &container.id, "KILL")?;
    if !wait_down(engine, &container.id, TEAR_DOWN)? {
        bail!("container {} is killed but not taken down yet", container.name);
    }
    Ok(())
}

pub(super) fn kill(engine: &Engine, typed: &str, word: &str) -> Result<()> {
    let container = running(engine, typed)?;
    let plain = word.trim_start_matches("SIG");
    if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_alphanumeric()) {
        bail!("{} is no signal", plugin_api::id::quoted(word));
    }
    signal(engine, &container.id, plain)?;
    if matches!(plain, "KILL" | "9") {
        wait_down(engine, &container.id, TEAR_DOWN)?;
    }
    Ok(())
}

pub(super) fn remove(engine: &Engine, typed: &str, force: bool, volumes: bool) -> Result<()> {
    let container = engine.store.container(typed)?;
    if container.status == Status::Running {
        if !force {
            bail!("container {typed} is running: stop it first or use -f");
        }
        kill_and_wait(engine, &container)?;
    }
    match engine.store.container_by_id(&container.id)? {
        Some(container) => engine.remove(&container, volumes),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports;

    #[test]
    fn ports_are_shown_as_users_know_them() {
        let shown = |typed: &str| published(&ports::parse(typed).unwrap()[0]);
        assert_eq!(shown("8080:80"), "0.0.0.0:8080->80/tcp");
        assert_eq!(shown("[::1]:8080:80/udp"), "[::1]:8080->80/udp");
        assert_eq!(shown("80"), "80/tcp");
    }
}
