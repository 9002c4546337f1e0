//! From configured names to drivers behind sockets: the only place that names concrete drivers.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use plugin_api::server::{Bound, Plugin, adopt, bind};

use crate::config::{Config, Instance, Kind};

/// Opens every driver (which repairs what a crash left) and binds its socket.
pub(crate) fn assemble(config: &Config) -> anyhow::Result<Vec<(Bound, Plugin)>> {
    let mut handed = handed_over()?;
    let mut sockets = Vec::new();
    let plugins = config.plugins.iter().map(|(name, instances)| {
        let path = config.sockets.join(format!("{name}.sock"));
        (path, name, instances.as_slice())
    });
    let snapshotters = config.snapshotters.iter().map(|(name, instance)| {
        let path = config.snapshots.join(format!("{name}.sock"));
        (path, name, std::slice::from_ref(instance))
    });
    for (path, name, instances) in plugins.chain(snapshotters) {
        let mut plugin = Plugin::default();
        for instance in instances {
            add(&mut plugin, instance).with_context(|| {
                format!(
                    "open the {} driver {} of plugin {name}",
                    instance.kind.as_str(),
                    instance.driver
                )
            })?;
        }
        let bound = match handed.remove(&path) {
            Some(listener) => adopt(listener, path),
            None => bind(&path)?,
        };
        sockets.push((bound, plugin));
    }
    for path in handed.keys() {
        tracing::warn!(socket = %path.display(), "the service manager listens on a socket that no driver serves");
    }
    Ok(sockets)
}

fn handed_over() -> anyhow::Result<BTreeMap<PathBuf, std::os::unix::net::UnixListener>> {
    let mut sockets = BTreeMap::new();
    for listener in kernel::activation::listeners()? {
        let address = listener
            .local_addr()
            .context("read the name of a socket from the service manager")?;
        if let Some(path) = address.as_pathname() {
            sockets.insert(path.to_owned(), listener);
        }
    }
    Ok(sockets)
}

fn add(plugin: &mut Plugin, instance: &Instance) -> anyhow::Result<()> {
    make_folder(&instance.state)?;
    let (state, runtime) = (&instance.state, &instance.runtime);
    match (instance.kind, instance.driver.as_str()) {
        (Kind::Graph, "overlay") => plugin.graph = Some(graphdrivers::open_overlay(state).map_err(told)?),
        (Kind::Network, "bridge") => {
            make_folder(runtime)?;
            plugin.network = Some(netdrivers::open_bridge(state, runtime).map_err(told)?);
        }
        (Kind::Ipam, "local") => plugin.ipam = Some(netdrivers::open_local_ipam(state).map_err(told)?),
        (Kind::Volume, "local") => plugin.volume = Some(voldrivers::open_local(state).map_err(told)?),
        (Kind::Snapshot, "overlay") => {
            plugin.snapshot = Some(graphdrivers::open_overlay_snapshots(state).map_err(told)?);
        }
        (kind, other) => bail!("there is no {} driver {other:?}", kind.as_str()),
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn told(fault: plugin_api::Fault) -> anyhow::Error {
    anyhow::anyhow!(fault.sentence())
}

/// The folder of one driver, for root alone.
fn make_folder(path: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}
