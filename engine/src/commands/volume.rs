//! `volume …`.

use anyhow::{Result, bail};
use plugin_api::id::{VolumeName, quoted};
use plugin_api::volume::VolumeDriver;

use super::{each, inspect, options, table};
use crate::cli::VolumeCommand;
use crate::engine::Engine;
use crate::plugins::Told;
use crate::state::container::{MountPoint, Source};
use crate::state::fresh_id;

pub(super) fn perform(engine: &Engine, command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::Create { driver, opt, name } => {
            let name = name.map_or_else(fresh_id, Ok)?;
            create(engine, driver.as_deref(), &options(&opt)?, &name)?;
            say!("{name}");
            Ok(())
        }
        VolumeCommand::Ls => list(engine),
        VolumeCommand::Inspect { name } => inspect::volume(engine, &name),
        VolumeCommand::Rm { names } => each(&names, |name| remove(engine, name)),
    }
}

fn create(engine: &Engine, driver: Option<&str>, options: &plugin_api::Options, name: &str) -> Result<()> {
    VolumeName::new(name)?;
    let driver = driver.unwrap_or(&engine.volume_driver);
    let known = engine.store.volumes()?.into_iter().find(|one| one.name == name);
    if let Some(known) = known
        && known.driver != driver
    {
        bail!("volume {name} exists already at driver {}", known.driver);
    }
    engine.make_volume(driver, name, options)
}

/// The driver of a volume: as recorded, or the default driver if it knows the volume.
pub(super) fn driver_of(engine: &Engine, name: &str) -> Result<String> {
    let checked = VolumeName::new(name)?;
    let known = engine.store.volumes()?.into_iter().find(|one| one.name == name);
    if let Some(known) = known {
        return Ok(known.driver);
    }
    let fallback = engine.plugins.volume(&engine.volume_driver);
    if fallback.is_ok_and(|driver| driver.get(&checked).is_ok()) {
        return Ok(engine.volume_driver.clone());
    }
    bail!("no such volume: {}", quoted(name))
}

fn is_of(mount: &MountPoint, wanted: &str) -> bool {
    matches!(&mount.source, Source::Volume { name, .. } if name == wanted)
}

fn remove(engine: &Engine, name: &str) -> Result<()> {
    let driver = driver_of(engine, name)?;
    let users = engine.store.containers()?;
    if let Some(user) = users
        .iter()
        .find(|one| one.mounts.iter().any(|mount| is_of(mount, name)))
    {
        bail!("volume {name} is used by container {}", user.name);
    }
    engine.remove_volume(&driver, name)
}

fn list(engine: &Engine) -> Result<()> {
    let known = engine.store.volumes()?;
    let mut drivers: Vec<&str> = known.iter().map(|volume| volume.driver.as_str()).collect();
    if engine.plugins.implements(&engine.volume_driver, "VolumeDriver") {
        drivers.push(&engine.volume_driver);
    }
    drivers.sort_unstable();
    drivers.dedup();
    let mut rows: Vec<Vec<String>> = known
        .iter()
        .map(|volume| vec![volume.driver.clone(), volume.name.clone()])
        .collect();
    for driver in drivers {
        let listed = engine
            .plugins
            .volume(driver)
            .and_then(|plugin| plugin.list().told(|| format!("list volumes of {driver}")));
        match listed {
            Ok(all) => rows.extend(
                all.iter()
                    .map(|one| vec![driver.to_owned(), one.name.to_string()]),
            ),
            Err(error) => eprintln!("longshore-engine: {error:#}"),
        }
    }
    rows.sort();
    rows.dedup();
    table(&["DRIVER", "VOLUME NAME"], &rows);
    Ok(())
}
