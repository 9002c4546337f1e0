//! From configured names to drivers behind sockets: the only place that names concrete drivers.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use plugin_api::differ::DifferOf;
use plugin_api::server::{Bound, Plugin, adopt, bind};

use crate::config::{Config, Instance, Kind};

/// Opens every driver (which repairs what a crash left) and binds its socket.
pub(crate) fn assemble(config: &Config) -> anyhow::Result<Vec<(Bound, Plugin)>> {
    let mut handed = handed_over()?;
    let mut sockets = Vec::new();
    let mut stores = Stores::default();
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
            add(&mut plugin, instance, &mut stores).with_context(|| {
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

/// Stores of layers by their folders: the doors of one name stand before one store.
type Stores = BTreeMap<PathBuf, Arc<graphdrivers::store::Store>>;

fn add(plugin: &mut Plugin, instance: &Instance, stores: &mut Stores) -> anyhow::Result<()> {
    if let Some(former) = &instance.former {
        move_former(former, &instance.state)?;
    }
    make_folder(&instance.state)?;
    let (state, runtime) = (&instance.state, &instance.runtime);
    match (instance.kind, instance.driver.as_str()) {
        (Kind::Graph, driver) => {
            let store = store(stores, state, driver)?;
            plugin.graph = Some(graphdrivers::graph_door(&store).map_err(told)?);
        }
        (Kind::Snapshot, driver) => {
            let store = store(stores, state, driver)?;
            plugin.snapshot = Some(graphdrivers::snapshot_door(&store).map_err(told)?);
            plugin.differ = Some(DifferOf {
                differ: graphdrivers::differ(&store).map_err(told)?,
                containerd: instance.containerd.clone(),
            });
        }
        (Kind::Network, "bridge") => {
            make_folder(runtime)?;
            plugin.network = Some(netdrivers::open_bridge(state, runtime).map_err(told)?);
        }
        (Kind::Ipam, "local") => plugin.ipam = Some(netdrivers::open_local_ipam(state).map_err(told)?),
        (Kind::Volume, "local") => plugin.volume = Some(voldrivers::open_local(state).map_err(told)?),
        (kind, other) => bail!("there is no {} driver {other:?}", kind.as_str()),
    }
    Ok(())
}

/// Moves the layers of Docker's `overlay2` in `folder` into the store of `[graph.NAME]`.
pub(crate) fn adopt_layers(
    config: &Config,
    name: &str,
    folder: &Path,
    dry: bool,
) -> anyhow::Result<Vec<(graphdrivers::adopt::Found, graphdrivers::adopt::Fate)>> {
    let mut graph = config.plugins.get(name).into_iter().flatten();
    let graph = graph.find(|one| one.kind == Kind::Graph);
    let instance = graph.with_context(|| format!("adopt layers: there is no table [graph.{name}]"))?;
    make_folder(&instance.state)?;
    let store = store(&mut Stores::default(), &instance.state, &instance.driver)?;
    graphdrivers::adopt::adopt(&store, folder, dry).map_err(told)
}

fn store(stores: &mut Stores, state: &Path, driver: &str) -> anyhow::Result<Arc<graphdrivers::store::Store>> {
    if let Some(store) = stores.get(state) {
        return Ok(Arc::clone(store));
    }
    let store = graphdrivers::open_store(state, driver).map_err(told)?;
    stores.insert(state.to_owned(), Arc::clone(&store));
    Ok(store)
}

/// Takes over a store that an earlier longshore kept apart for a snapshotter, where there is none yet at its
/// new place. Two stores of one name are not mixed: nothing is changed.
fn move_former(former: &Path, state: &Path) -> anyhow::Result<()> {
    const RECORDS: &str = "state.redb";
    if !former.join(RECORDS).exists() {
        return Ok(());
    }
    ensure!(
        !state.join(RECORDS).exists(),
        "{} and {} hold layers each, and doors of one name share one store; give the snapshotter another \
         name in its table and in containerd's configuration, and rename {} after it",
        state.display(),
        former.display(),
        former.display()
    );
    let _lock = kernel::fsutil::lock_dir(former)?;
    if let Some(above) = state.parent() {
        make_folder(above)?;
    }
    tracing::info!(from = %former.display(), to = %state.display(), "take over a store of layers");
    kernel::fsutil::rename_synced(former, state)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_kept_apart_moves_and_two_are_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let (former, state) = (base.path().join("snapshot/a"), base.path().join("graph/a"));
        move_former(&former, &state).unwrap();
        make_folder(&former).unwrap();
        std::fs::write(former.join("state.redb"), "1").unwrap();
        // An empty folder is no store.
        make_folder(&state).unwrap();
        move_former(&former, &state).unwrap();
        assert!(!former.exists() && state.join("state.redb").exists());
        move_former(&former, &state).unwrap();
        make_folder(&former).unwrap();
        std::fs::write(former.join("state.redb"), "2").unwrap();
        let told = move_former(&former, &state).unwrap_err().to_string();
        assert!(told.contains("hold layers each"), "{told}");
        assert_eq!(std::fs::read(state.join("state.redb")).unwrap(), b"1");
    }
}
