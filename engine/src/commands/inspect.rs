//! `inspect` of everything, and `version`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use plugin_api::graph::GraphPlugin;
use plugin_api::id::{LayerId, VolumeName};
use plugin_api::network::NetworkDriver;
use plugin_api::volume::VolumeDriver;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::plugins::Told;
use crate::state::container::{Container, Leg, Source};
use crate::state::image::Image;
use crate::state::network::Network;

fn show(value: &Value) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(&json!([value]))?);
    Ok(())
}

/// Whatever bears the name: a container, an image, a network or a volume.
pub(super) fn any(engine: &Engine, name: &str) -> Result<()> {
    if let Ok(container) = engine.store.container(name) {
        return show(&container_json(engine, &container));
    }
    if let Ok(found) = engine.store.image(name) {
        return show(&image_json(&found));
    }
    if engine.store.network(name).is_ok() {
        return network(engine, name);
    }
    if super::volume::driver_of(engine, name).is_ok() {
        return volume(engine, name);
    }
    bail!("no such object: {}", plugin_api::id::quoted(name))
}

fn container_json(engine: &Engine, container: &Container) -> Value {
    let mut networks = BTreeMap::new();
    for leg in &container.legs {
        let name = engine
            .store
            .network(&leg.network)
            .map_or(leg.network.clone(), |one| one.name);
        networks.insert(name, leg_json(leg));
    }
    let graph = engine.graph().ok();
    let data = graph.and_then(|graph| graph.metadata(&LayerId::new(container.layer()).ok()?).ok());
    let recipe = &container.recipe;
    let mounts: Vec<Value> = container
        .mounts
        .iter()
        .map(|mount| match &mount.source {
            Source::Volume { driver, name } => json!({
                "Type": "volume", "Name": name, "Driver": driver, "Destination": mount.target,
                "RW": !mount.read_only,
            }),
            Source::Host(path) => json!({
                "Type": "bind", "Source": path, "Destination": mount.target, "RW": !mount.read_only,
            }),
        })
        .collect();
    let ports: Vec<String> = recipe.publish.iter().map(ToString::to_string).collect();
    json!({
        "Id": container.id, "Name": format!("/{}", container.name), "Created": container.created,
        "Image": format!("sha256:{}", container.image),
        "State": {
            "Status": container.status.as_str(),
            "Running": container.status.as_str() == "running", "Pid": container.pid.unwrap_or(0),
            "ExitCode": container.exit_code, "Error": container.error,
            "StartedAt": container.started, "FinishedAt": container.finished,
        },
        "Config": {
            "Hostname": recipe.hostname, "Image": container.image_name, "Env": recipe.env,
            "Cmd": recipe.args, "WorkingDir": recipe.cwd, "User": recipe.user,
            "ExposedPorts": recipe.exposed, "OpenStdin": recipe.interactive,
        },
        "HostConfig": {"AutoRemove": recipe.auto_remove, "PortBindings": ports},
        "Mounts": mounts,
        "GraphDriver": {"Data": data},
        "NetworkSettings": {"SandboxKey": crate::sandbox::path(&engine.store, &container.id), "Networks": networks},
    })
}

fn leg_json(leg: &Leg) -> Value {
    let endpoint = leg.endpoint.clone().unwrap_or_default();
    let ip = |net: Option<ipnet::IpNet>| net.map_or(String::new(), |net| net.addr().to_string());
    let prefix = |net: Option<ipnet::IpNet>| net.map_or(0, |net| net.prefix_len());
    json!({
        "NetworkID": leg.network, "EndpointID": endpoint.id, "Aliases": leg.aliases,
        "IPAddress": ip(endpoint.address), "IPPrefixLen": prefix(endpoint.address),
        "GlobalIPv6Address": ip(endpoint.address_v6),
        "GlobalIPv6PrefixLen": prefix(endpoint.address_v6),
        "MacAddress": endpoint.mac.map_or(String::new(), |mac| mac.to_string()),
        "Gateway": endpoint.gateway.map_or(String::new(), |ip| ip.to_string()),
        "IPv6Gateway": endpoint.gateway_v6.map_or(String::new(), |ip| ip.to_string()),
        "Interface": endpoint.link,
    })
}

fn image_json(image: &Image) -> Value {
    let layers: Vec<String> = image.diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
    json!({
        "Id": format!("sha256:{}", image.id), "RepoTags": image.names, "Created": image.created,
        "Config": image.config.to_json(), "RootFS": {"Type": "layers", "Layers": layers},
    })
}

pub(super) fn network(engine: &Engine, name: &str) -> Result<()> {
    let found = engine.store.network(name)?;
    let mut members = serde_json::Map::new();
    for container in engine.store.containers()? {
        let leg = container.legs.iter().find(|leg| leg.network == found.id);
        if let Some(endpoint) = leg.and_then(|leg| leg.endpoint.as_ref()) {
            let info = endpoint_info(engine, &found, &endpoint.id);
            let row = json!({
                "Name": container.name, "EndpointID": endpoint.id,
                "IPv4Address": endpoint.address.map(|net| net.to_string()),
                "IPv6Address": endpoint.address_v6.map(|net| net.to_string()),
                "MacAddress": endpoint.mac.map(|mac| mac.to_string()), "Info": info,
            });
            members.insert(container.id, row);
        }
    }
    let pools: Vec<Value> = found
        .pools
        .iter()
        .map(|pool| json!({"Subnet": pool.subnet.to_string(), "Gateway": pool.gateway.map(|net| net.addr())}))
        .collect();
    show(&json!({
        "Name": found.name, "Id": found.id, "Created": found.created, "Driver": found.driver,
        "EnableIPv6": found.ipv6, "Internal": found.internal,
        "IPAM": {"Driver": found.ipam, "Config": pools},
        "Options": found.options, "Containers": members,
    }))
}

fn endpoint_info(engine: &Engine, network: &Network, endpoint: &str) -> Option<BTreeMap<String, String>> {
    let driver = engine.plugins.network(&network.driver).ok()?;
    let at = crate::endpoints::reference(&network.id, endpoint).ok()?;
    driver.endpoint_info(&at).ok()
}

pub(super) fn volume(engine: &Engine, name: &str) -> Result<()> {
    let driver = super::volume::driver_of(engine, name)?;
    let plugin = engine.plugins.volume(&driver)?;
    let info = plugin
        .get(&VolumeName::new(name)?)
        .told(|| format!("look at volume {name}"))?;
    let known = engine.store.volumes()?.into_iter().find(|one| one.name == name);
    show(&json!({
        "Name": name, "Driver": driver, "Mountpoint": info.mountpoint, "Status": info.status,
        "Options": known.as_ref().map(|one| &one.options),
        "CreatedAt": known.map(|one| one.created), "Scope": plugin.scope().as_str(),
    }))
}

pub(super) fn version(engine: &Engine) {
    say!("longshore-engine {}", env!("CARGO_PKG_VERSION"));
    let runtime = engine
        .runtime()
        .map_or_else(|error| error.to_string(), |runtime| runtime.name());
    say!("OCI runtime:  {runtime}");
    say!("plugins:      {}", engine.plugins.folder.display());
    let Ok(entries) = std::fs::read_dir(&engine.plugins.folder) else {
        return;
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".sock")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    for name in names {
        match engine.plugins.speaks(&name) {
            Ok(all) => say!("  {name}: {}", all.join(", ")),
            Err(error) => say!("  {name}: {error:#}"),
        }
    }
}
