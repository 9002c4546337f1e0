//! The process that looks after one running container.
//!
//! It prepares everything, starts the OCI runtime, keeps the output, answers names, waits, and takes
//! everything down again. It tells the command that started it `ready`, `failed CODE TEXT` and at last
//! `exit CODE`, one line each, on its standard output.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plugin_api::graph::GraphPlugin;
use plugin_api::id::{HolderId, LayerId, VolumeName};
use plugin_api::volume::VolumeDriver;

use crate::bundle::{self, Bind, Parts};
use crate::engine::{Engine, own_identity};
use crate::log::{self, Stream};
use crate::plugins::Told;
use crate::runtime::{complaint, start_failure_code};
use crate::state::container::{Container, Source, Status};
use crate::state::{fresh_id, now, short};
use crate::{endpoints, links, resolver, sandbox};

/// What goes wrong before the container's process runs, with the code for `run`.
#[derive(Debug)]
struct NotStarted {
    code: i32,
    text: String,
}

impl From<anyhow::Error> for NotStarted {
    fn from(error: anyhow::Error) -> Self {
        Self {
            code: 125,
            text: format!("{error:#}"),
        }
    }
}

fn tell(line: &str) {
    // The command may be gone already; then nobody needs to know.
    let _ = writeln!(std::io::stdout(), "{}", line.replace('\n', " "));
    let _ = std::io::stdout().flush();
}

/// The whole life of a running container.
pub(crate) fn run(engine: &Engine, id: &str) -> Result<()> {
    kernel::process::new_session().or_else(|error| {
        if error.errno() == Some(1) {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    claim(engine, id)?;
    let code = match start(engine, id) {
        Ok(running) => {
            tell("ready");
            running.wait()
        }
        Err(failure) => {
            let text = failure.text.clone();
            engine.store.change(id, |one| one.error = text)?;
            let torn = engine.finish(id, failure.code);
            tell(&format!("failed {} {}", failure.code, failure.text));
            return torn;
        }
    };
    let torn = engine.finish(id, code);
    tell(&format!("exit {code}"));
    torn
}

fn claim(engine: &Engine, id: &str) -> Result<()> {
    let own = own_identity()?;
    let container = engine.store.change(id, |one| {
        if one.status != Status::Running {
            one.status = Status::Running;
            one.monitor = Some(own);
            one.error = String::new();
            one.started = now();
            one.finished = String::new();
            one.exit_code = 0;
        }
    })?;
    if container.monitor != Some(own) {
        tell(&format!(
            "failed 125 container {} is already running",
            container.name
        ));
        bail!("container {} is already running", container.name);
    }
    Ok(())
}

struct Running {
    child: Child,
    keepers: Vec<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Running {
    fn wait(mut self) -> i32 {
        let status = self.child.wait();
        for keeper in self.keepers {
            let _ = keeper.join();
        }
        status.map_or(125, |status| status.code().unwrap_or(137))
    }
}

fn start(engine: &Engine, id: &str) -> Result<Running, NotStarted> {
    let rootfs = hold_layer(engine, id)?;
    let mut binds = mount_volumes(engine, id)?;
    let netns = sandbox::path(&engine.store, id);
    let namespace = sandbox::make(&netns).context("make network namespace")?;
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    for leg in &container.legs {
        endpoints::attach(engine, id, &leg.network)?;
    }
    endpoints::publish(engine, id)?;
    let sockets = namespace
        .run(resolver::Sockets::bind)
        .context("enter network namespace")?
        .context("listen for names on 127.0.0.11")?;
    resolver::serve(sockets, engine.store.clone(), id);
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    let linked = linked(engine, &container)?;
    let folder = engine.store.container_folder(id);
    binds.extend(write_files(&folder, &container, &linked)?);
    let spec = bundle::spec(&Parts {
        id,
        recipe: &container.recipe,
        more_env: link_variables(&container, &linked),
        rootfs: &rootfs,
        netns: &netns,
        binds,
    })?;
    spec.save(folder.join("config.json")).context("write bundle")?;
    launch(engine, &container, &folder)
}

fn hold_layer(engine: &Engine, id: &str) -> Result<std::path::PathBuf> {
    let graph = engine.graph()?;
    let container = engine.store.change(id, |one| one.layer_held = true)?;
    graph
        .get(&LayerId::new(container.layer())?, "")
        .told(|| format!("mount layer of {}", short(id)))
}

fn mount_volumes(engine: &Engine, id: &str) -> Result<Vec<Bind>> {
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    let mut binds = Vec::new();
    for (at, mount) in container.mounts.iter().enumerate() {
        let source = match &mount.source {
            Source::Host(path) => path.clone(),
            Source::Volume { driver, name } => {
                let holder = fresh_id()?;
                engine
                    .store
                    .change(id, |one| one.mounts[at].holder = Some(holder.clone()))?;
                engine
                    .plugins
                    .volume(driver)?
                    .mount(
                        &VolumeName::new(name)?,
                        &HolderId::new(holder)?,
                        plugin_api::EnginePeer::own(),
                    )
                    .told(|| format!("mount volume {name}"))?
            }
        };
        binds.push(Bind {
            source,
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
    }
    Ok(binds)
}

/// The containers behind the links, with the aliases.
pub(crate) fn linked(engine: &Engine, container: &Container) -> Result<Vec<(String, Container)>> {
    let mut all = Vec::new();
    for link in &container.recipe.links {
        if let Some(target) = engine.store.container_by_id(&link.container)? {
            all.push((link.alias.clone(), target));
        }
    }
    Ok(all)
}

fn link_variables(container: &Container, linked: &[(String, Container)]) -> Vec<String> {
    let rows = linked.iter().filter_map(|(alias, target)| {
        let address = links::shared_address(container, target)?;
        Some(links::variables(&container.name, alias, target, address))
    });
    rows.flatten().collect()
}

fn write_files(folder: &Path, container: &Container, linked: &[(String, Container)]) -> Result<Vec<Bind>> {
    let files = BTreeMap::from([
        ("hosts", links::hosts_file(container, linked)),
        ("hostname", format!("{}\n", container.recipe.hostname)),
        (
            "resolv.conf",
            format!("nameserver {}\noptions ndots:0\n", resolver::ADDRESS),
        ),
    ]);
    let mut binds = Vec::new();
    for (name, text) in files {
        let target = format!("/etc/{name}");
        // A user's own mount there wins.
        if container.mounts.iter().any(|mount| mount.target == target) {
            continue;
        }
        let source = folder.join(name);
        fs::write(&source, text).with_context(|| format!("write {}", source.display()))?;
        binds.push(Bind {
            source,
            target,
            read_only: false,
        });
    }
    Ok(binds)
}

/// Writes `/etc/hosts` of a running container anew, in place, where it is mounted.
pub(crate) fn refresh_hosts(engine: &Engine, id: &str) -> Result<()> {
    let container = engine
        .store
        .container_by_id(id)?
        .context("the container is gone")?;
    let text = links::hosts_file(&container, &linked(engine, &container)?);
    let path = engine.store.container_folder(id).join("hosts");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn launch(engine: &Engine, container: &Container, folder: &Path) -> Result<Running, NotStarted> {
    let runtime = engine.runtime()?;
    for leftover in ["pid", "runtime.log"] {
        let _ = fs::remove_file(folder.join(leftover));
    }
    let mut command = runtime.run(&container.id, folder);
    command.stdin(if container.recipe.interactive {
        Stdio::inherit()
    } else {
        Stdio::null()
    });
    let mut running = spawn_kept(command, folder)?;
    loop {
        let pid = fs::read_to_string(folder.join("pid")).ok();
        let pid = pid.and_then(|text| text.trim().parse::<u32>().ok());
        let ended = running.child.try_wait().context("wait for runtime")?;
        if ended.is_some() {
            return failed_or_short_lived(running, folder);
        }
        if pid.is_some() && runtime.status(&container.id).as_deref() == Some("running") {
            engine.store.change(&container.id, |one| one.pid = pid)?;
            return Ok(running);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spawn_kept(mut command: Command, folder: &Path) -> Result<Running> {
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = Arc::new(Mutex::new(log.context("open log")?));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start OCI runtime")?;
    let out = child.stdout.take().expect("stdout is piped");
    let err = child.stderr.take().expect("stderr is piped");
    let for_err = Arc::clone(&log);
    let keepers = vec![
        std::thread::spawn(move || log::keep(out, Stream::Out, &log)),
        std::thread::spawn(move || log::keep(err, Stream::Err, &for_err)),
    ];
    Ok(Running { child, keepers })
}

/// The runtime ended before the container was seen running: its process was quick, or there was none.
fn failed_or_short_lived(running: Running, folder: &Path) -> Result<Running, NotStarted> {
    let said = fs::read_to_string(folder.join("runtime.log")).unwrap_or_default();
    match complaint(&said) {
        None => Ok(running),
        Some(line) => Err(NotStarted {
            code: start_failure_code(&line),
            text: line,
        }),
    }
}
