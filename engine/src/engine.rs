//! The engine as every command sees it: state, plugins, and the life of a container.

use anyhow::{Context, Result, bail};
use kernel::process::Identity;
use plugin_api::client::RemoteGraph;
use plugin_api::graph::{GraphInit, GraphPlugin};
use plugin_api::id::{HolderId, LayerId, VolumeName};
use plugin_api::volume::VolumeDriver;
use serde_json::json;

use crate::plugins::{Plugins, Told};
use crate::runtime::Runtime;
use crate::state::container::{Container, MountPoint, Source, Status};
use crate::state::network::Volume;
use crate::state::{Kind, Store, maybe_text, now, short};
use crate::{endpoints, layers, sandbox};

/// The driver where the user names none.
pub(crate) const DEFAULT_DRIVER: &str = "longshore";

/// What a command works with.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) plugins: Plugins,
    /// `--graph` as typed.
    pub(crate) graph_name: Option<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) volume_driver: String,
    /// The flags that make a monitor see the same engine.
    pub(crate) flags: Vec<std::ffi::OsString>,
}

impl Engine {
    pub(crate) fn runtime(&self) -> Result<Runtime> {
        Runtime::choose(self.runtime.as_deref(), self.store.root())
    }

    /// The graph plugin. Its name is fixed at first use; it is greeted once per boot, because a greeting
    /// voids the holds of running containers.
    pub(crate) fn graph(&self) -> Result<RemoteGraph> {
        let known = self.store.engine()?;
        let fixed = maybe_text(&known, "graph");
        let name = match (&fixed, &self.graph_name) {
            (Some(fixed), Some(typed)) if fixed != typed => {
                bail!("this root keeps its layers at graph plugin {fixed}, not at {typed}")
            }
            (Some(name), _) | (None, Some(name)) => name.clone(),
            (None, None) => DEFAULT_DRIVER.to_owned(),
        };
        let graph = self.plugins.graph(&name)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read boot id")?;
        let boot = boot.trim();
        if fixed.is_none() || maybe_text(&known, "boot").as_deref() != Some(boot) {
            let lock = self.store.lock()?;
            let init = GraphInit {
                home: self.store.root().join(&name),
                ..GraphInit::default()
            };
            graph.init(&init).told(|| format!("greet graph plugin {name}"))?;
            self.store
                .set_engine(&lock, &json!({"graph": name, "boot": boot}))?;
        }
        Ok(graph)
    }

    /// Takes down what containers hold whose monitor is dead. What cannot be taken down now is told and
    /// tried again by the next command.
    pub(crate) fn repair(&self) -> Result<()> {
        for container in self.store.containers()? {
            if container.status == Status::Running && !monitor_lives(&container)? {
                let own = Identity::own()?;
                let claimed = self.store.change(&container.id, |one| {
                    if one.monitor == container.monitor {
                        one.monitor = Some(shown(own));
                    }
                })?;
                if claimed.monitor != Some(shown(own)) {
                    continue;
                }
                // A monitor that failed to take all down has left the real exit code.
                let code = if container.monitor.is_none() {
                    container.exit_code
                } else {
                    137
                };
                if let Err(error) = self.finish(&container.id, code) {
                    eprintln!("container {} is not wholly gone: {error:#}", short(&container.id));
                }
            }
        }
        Ok(())
    }

    /// Tears down and records the end.
    pub(crate) fn finish(&self, id: &str, exit_code: i32) -> Result<()> {
        let torn = self.tear_down(id);
        let error = torn.as_ref().err().map(|error| format!("{error:#}"));
        let ended = self.store.change(id, |one| {
            // With something left to give back it stays `running` under a dead monitor, for `repair`.
            if error.is_none() {
                one.status = Status::Exited;
            }
            one.monitor = None;
            one.pid = None;
            one.exit_code = exit_code;
            one.finished = now();
            if let Some(error) = error {
                one.error = error;
            }
        })?;
        torn?;
        if ended.recipe.auto_remove {
            self.remove(&ended, true)?;
        }
        Ok(())
    }

    /// Gives back everything a container holds while it runs. Repeatable; goes on after a failure.
    fn tear_down(&self, id: &str) -> Result<()> {
        let container = self.store.container_by_id(id)?.context("the container is gone")?;
        let mut failed = Vec::new();
        let mut note = |outcome: Result<()>| {
            if let Err(error) = outcome {
                failed.push(format!("{error:#}"));
            }
        };
        note(self.runtime().and_then(|runtime| runtime.delete(id)));
        for leg in container.legs.iter().rev().filter(|leg| leg.endpoint.is_some()) {
            note(endpoints::detach(self, id, &leg.network));
        }
        note(sandbox::remove(&sandbox::path(&self.store, id)));
        for (at, mount) in container.mounts.iter().enumerate() {
            note(self.unmount(id, at, mount));
        }
        note(self.put_layer(&container));
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{}", failed.join("; "))
    }

    fn unmount(&self, id: &str, at: usize, mount: &MountPoint) -> Result<()> {
        let (Source::Volume { driver, name }, Some(holder)) = (&mount.source, &mount.holder) else {
            return Ok(());
        };
        let volume = self.plugins.volume(driver)?;
        volume
            .unmount(&VolumeName::new(name)?, &HolderId::new(holder)?)
            .told(|| format!("unmount volume {name}"))?;
        self.store.change(id, |one| one.mounts[at].holder = None)?;
        Ok(())
    }

    fn put_layer(&self, container: &Container) -> Result<()> {
        if !container.layer_held {
            return Ok(());
        }
        self.graph()?
            .put(&LayerId::new(container.layer())?)
            .told(|| format!("put layer of {}", short(&container.id)))?;
        self.store.change(&container.id, |one| one.layer_held = false)?;
        Ok(())
    }

    /// Removes a container that does not run, its layers, its files and its volumes without a name.
    pub(crate) fn remove(&self, container: &Container, with_volumes: bool) -> Result<()> {
        let graph = self.graph()?;
        for layer in [container.layer(), container.init_layer()] {
            graph
                .remove(&LayerId::new(layer)?)
                .told(|| format!("remove layer of {}", short(&container.id)))?;
        }
        if with_volumes {
            let unnamed = container.mounts.iter().filter(|mount| mount.anonymous);
            for mount in unnamed {
                if let Source::Volume { driver, name } = &mount.source {
                    self.remove_volume(driver, name)?;
                }
            }
        }
        kernel::fsutil::remove_tree(&self.store.container_folder(&container.id))?;
        let lock = self.store.lock()?;
        self.store.remove(&lock, Kind::Container, &container.id)
    }

    /// Removes a volume at its driver and from the records.
    pub(crate) fn remove_volume(&self, driver: &str, name: &str) -> Result<()> {
        self.plugins
            .volume(driver)?
            .remove(&VolumeName::new(name)?)
            .told(|| format!("remove volume {name}"))?;
        let lock = self.store.lock()?;
        self.store.remove(&lock, Kind::Volume, name)
    }

    /// The driver of a volume, making the volume at `driver` if nobody has it.
    pub(crate) fn ensure_volume(
        &self,
        driver: &str,
        name: &str,
        options: &plugin_api::Options,
    ) -> Result<String> {
        let known = self.store.volumes()?;
        if let Some(known) = known.into_iter().find(|one| one.name == name) {
            return Ok(known.driver);
        }
        self.make_volume(driver, name, options)?;
        Ok(driver.to_owned())
    }

    /// Makes a volume, or finds it as it is.
    pub(crate) fn make_volume(&self, driver: &str, name: &str, options: &plugin_api::Options) -> Result<()> {
        let checked = VolumeName::new(name)?;
        let plugin = self.plugins.volume(driver)?;
        plugin
            .create(&checked, options)
            .told(|| format!("create volume {name}"))?;
        let lock = self.store.lock()?;
        let volume = Volume {
            name: name.to_owned(),
            driver: driver.to_owned(),
            options: options.clone(),
            created: now(),
        };
        self.store.put_volume(&lock, &volume)
    }

    /// Makes the layers of a new container on top of its image.
    pub(crate) fn make_layers(&self, container: &Container) -> Result<()> {
        let graph = self.graph()?;
        let image = self.store.image(&container.image)?;
        let top = image
            .top()
            .map(|top| self.store.layer(top))
            .transpose()?
            .flatten();
        let init = layers::new_layer(&container.init_layer(), top.map(|top| top.cache).as_deref())?;
        let own = layers::new_layer(&container.layer(), Some(&container.init_layer()))?;
        graph.create(&init).told(|| "create init layer".into())?;
        graph
            .apply_diff(&init.id, init.parent.as_ref(), &mut mount_points()?.as_slice())
            .told(|| "fill init layer".into())?;
        graph
            .create_read_write(&own)
            .told(|| "create container layer".into())?;
        Ok(())
    }
}

/// A tar of the places that every container mounts something on, so that they do not count as its
/// own changes.
fn mount_points() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let rows = [
        ("dev/", 0o755),
        ("dev/pts/", 0o755),
        ("dev/shm/", 0o755),
        ("dev/mqueue/", 0o755),
        ("proc/", 0o755),
        ("sys/", 0o755),
        ("etc/", 0o755),
        ("etc/hosts", 0o644),
        ("etc/hostname", 0o644),
        ("etc/resolv.conf", 0o644),
    ];
    for (name, mode) in rows {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(0);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        tar.append_data(&mut header, name, std::io::empty())?;
    }
    Ok(tar.into_inner()?)
}

fn shown(identity: Identity) -> (u32, u64) {
    (identity.pid.unsigned_abs(), identity.started)
}

/// This process as records name it.
pub(crate) fn own_identity() -> Result<(u32, u64)> {
    Ok(shown(Identity::own()?))
}

/// Whether the process that watches a container still runs.
pub(crate) fn monitor_lives(container: &Container) -> Result<bool> {
    let Some((pid, started)) = container.monitor else {
        return Ok(false);
    };
    let pid = i32::try_from(pid).context("a process id fits")?;
    Ok(Identity { pid, started }.is_alive()?)
}
