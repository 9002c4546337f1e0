//! Containers as the engine remembers them.
//!
//! The record is written before each change of the world and again after it, so that whoever finds it
//! (the monitor, or the next command after the monitor was killed) knows what to take back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use plugin_api::id::MacAddr;
use serde_json::{Value, json};

use super::{Kind, Locked, Store, maybe_parsed, maybe_text, text, texts};
use crate::ports::{self, Publish};

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Made, never started.
    Created,
    /// Its monitor prepares it, or it runs.
    Running,
    /// It ended and everything it held was given back.
    Exited,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }

    fn read(text: &str) -> Result<Self> {
        Ok(match text {
            "created" => Self::Created,
            "running" => Self::Running,
            "exited" => Self::Exited,
            other => bail!("{other:?} is no status"),
        })
    }
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Volume { driver: String, name: String },
    Host(PathBuf),
}

/// A volume or a host folder in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPoint {
    pub(crate) source: Source,
    /// Absolute path in the container.
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Made for this container without a name; goes with it on `rm -v`.
    pub(crate) anonymous: bool,
    /// The hold at the volume driver, from before it is asked for.
    pub(crate) holder: Option<String>,
}

/// What a leg has in the world.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: Option<IpNet>,
    pub(crate) address_v6: Option<IpNet>,
    /// Pools that the addresses go back to.
    pub(crate) pool: Option<String>,
    pub(crate) pool_v6: Option<String>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) gateway_v6: Option<Ipv6Addr>,
    /// Name of the link in the sandbox.
    pub(crate) link: Option<String>,
    /// Whether ports are open on it.
    pub(crate) programmed: bool,
}

/// A container's membership in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Leg {
    pub(crate) network: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) ip6: Option<Ipv6Addr>,
    pub(crate) mac: Option<MacAddr>,
    /// There while the container runs.
    pub(crate) endpoint: Option<Endpoint>,
}

impl Leg {
    /// The addresses others reach it at.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let endpoint = self.endpoint.as_ref();
        let both = endpoint.map(|one| [one.address, one.address_v6]);
        both.into_iter()
            .flatten()
            .flatten()
            .map(|net| net.addr())
            .collect()
    }
}

/// `--link`: another container under a name of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The other container's id.
    pub(crate) container: String,
    pub(crate) alias: String,
}

/// What the container runs and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recipe {
    pub(crate) hostname: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    /// As typed or as the image says: `name`, `1000:1000`.
    pub(crate) user: String,
    pub(crate) interactive: bool,
    pub(crate) auto_remove: bool,
    /// `80/tcp`.
    pub(crate) exposed: Vec<String>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) links: Vec<Link>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: String,
    /// Id and shown name of its image.
    pub(crate) image: String,
    pub(crate) image_name: String,
    pub(crate) recipe: Recipe,
    pub(crate) mounts: Vec<MountPoint>,
    pub(crate) legs: Vec<Leg>,
    pub(crate) status: Status,
    pub(crate) exit_code: i32,
    pub(crate) error: String,
    pub(crate) started: String,
    pub(crate) finished: String,
    /// Process id and start time of its monitor.
    pub(crate) monitor: Option<(u32, u64)>,
    /// Process id of its first process.
    pub(crate) pid: Option<u32>,
    /// Whether its layer is held at the graph plugin.
    pub(crate) layer_held: bool,
}

impl Container {
    /// The id of its own layer.
    pub(crate) fn layer(&self) -> String {
        self.id.clone()
    }

    /// The id of the layer between image and container, with the engine's mount points.
    pub(crate) fn init_layer(&self) -> String {
        format!("{}-init", self.id)
    }

    /// What others in a shared network may call it.
    pub(crate) fn names(&self) -> [&str; 3] {
        [&self.name, super::short(&self.id), &self.recipe.hostname]
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "created": self.created, "image": self.image,
            "image_name": self.image_name, "recipe": self.recipe.to_json(),
            "mounts": self.mounts.iter().map(MountPoint::to_json).collect::<Vec<_>>(),
            "legs": self.legs.iter().map(Leg::to_json).collect::<Vec<_>>(),
            "status": self.status.as_str(), "exit_code": self.exit_code, "error": self.error,
            "started": self.started, "finished": self.finished,
            "monitor": self.monitor.map(|(pid, start)| json!([pid, start])), "pid": self.pid,
            "layer_held": self.layer_held,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let rows = |field: &str| value[field].as_array().cloned().unwrap_or_default();
        let monitor = value["monitor"].as_array();
        Ok(Self {
            id: text(value, "id")?,
            name: text(value, "name")?,
            created: text(value, "created")?,
            image: text(value, "image")?,
            image_name: text(value, "image_name")?,
            recipe: Recipe::from_json(&value["recipe"])?,
            mounts: rows("mounts")
                .iter()
                .map(MountPoint::from_json)
                .collect::<Result<_>>()?,
            legs: rows("legs").iter().map(Leg::from_json).collect::<Result<_>>()?,
            status: Status::read(&text(value, "status")?)?,
            exit_code: i32::try_from(value["exit_code"].as_i64().unwrap_or(0))?,
            error: text(value, "error")?,
            started: text(value, "started")?,
            finished: text(value, "finished")?,
            monitor: monitor.and_then(|pair| {
                let pid = u32::try_from(pair.first()?.as_u64()?).ok()?;
                Some((pid, pair.get(1)?.as_u64()?))
            }),
            pid: value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
            layer_held: value["layer_held"].as_bool().unwrap_or(false),
        })
    }
}

impl Recipe {
    fn to_json(&self) -> Value {
        json!({
            "hostname": self.hostname, "args": self.args, "env": self.env, "cwd": self.cwd,
            "user": self.user, "interactive": self.interactive, "auto_remove": self.auto_remove,
            "exposed": self.exposed,
            "publish": self.publish.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "links": self.links.iter().map(|link| json!([link.container, link.alias])).collect::<Vec<_>>(),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let mut publish = Vec::new();
        for typed in texts(&value["publish"]) {
            publish.extend(ports::parse(&typed)?);
        }
        let links = value["links"].as_array().into_iter().flatten().map(texts);
        Ok(Self {
            hostname: text(value, "hostname")?,
            args: texts(&value["args"]),
            env: texts(&value["env"]),
            cwd: text(value, "cwd")?,
            user: text(value, "user")?,
            interactive: value["interactive"].as_bool().unwrap_or(false),
            auto_remove: value["auto_remove"].as_bool().unwrap_or(false),
            exposed: texts(&value["exposed"]),
            publish,
            links: links
                .map(|pair| match <[String; 2]>::try_from(pair) {
                    Ok([container, alias]) => Ok(Link { container, alias }),
                    Err(_) => Err(anyhow!("record of a link is damaged")),
                })
                .collect::<Result<_>>()?,
        })
    }
}

impl MountPoint {
    fn to_json(&self) -> Value {
        let (driver, source) = match &self.source {
            Source::Volume { driver, name } => (Some(driver), name.clone()),
            Source::Host(path) => (None, path.to_string_lossy().into_owned()),
        };
        json!({
            "driver": driver, "source": source, "target": self.target, "read_only": self.read_only,
            "anonymous": self.anonymous, "holder": self.holder,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let name = text(value, "source")?;
        Ok(Self {
            source: match maybe_text(value, "driver") {
                Some(driver) => Source::Volume { driver, name },
                None => Source::Host(name.into()),
            },
            target: text(value, "target")?,
            read_only: value["read_only"].as_bool().unwrap_or(false),
            anonymous: value["anonymous"].as_bool().unwrap_or(false),
            holder: maybe_text(value, "holder"),
        })
    }
}

impl Endpoint {
    fn to_json(&self) -> Value {
        fn shown<T: ToString>(value: Option<&T>) -> Option<String> {
            value.map(ToString::to_string)
        }
        json!({
            "id": self.id, "address": shown(self.address.as_ref()),
            "address_v6": shown(self.address_v6.as_ref()), "pool": self.pool, "pool_v6": self.pool_v6,
            "mac": shown(self.mac.as_ref()), "gateway": shown(self.gateway.as_ref()),
            "gateway_v6": shown(self.gateway_v6.as_ref()), "link": self.link,
            "programmed": self.programmed,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            id: text(value, "id")?,
            address: maybe_parsed(value, "address")?,
            address_v6: maybe_parsed(value, "address_v6")?,
            pool: maybe_text(value, "pool"),
            pool_v6: maybe_text(value, "pool_v6"),
            mac: maybe_parsed(value, "mac")?,
            gateway: maybe_parsed(value, "gateway")?,
            gateway_v6: maybe_parsed(value, "gateway_v6")?,
            link: maybe_text(value, "link"),
            programmed: value["programmed"].as_bool().unwrap_or(false),
        })
    }
}

impl Leg {
    fn to_json(&self) -> Value {
        json!({
            "network": self.network, "aliases": self.aliases,
            "ip": self.ip.map(|ip| ip.to_string()), "ip6": self.ip6.map(|ip| ip.to_string()),
            "mac": self.mac.map(|mac| mac.to_string()),
            "endpoint": self.endpoint.as_ref().map(Endpoint::to_json),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let endpoint = &value["endpoint"];
        Ok(Self {
            network: text(value, "network")?,
            aliases: texts(&value["aliases"]),
            ip: maybe_parsed(value, "ip")?,
            ip6: maybe_parsed(value, "ip6")?,
            mac: maybe_parsed(value, "mac")?,
            endpoint: endpoint
                .is_object()
                .then(|| Endpoint::from_json(endpoint))
                .transpose()?,
        })
    }
}

impl Store {
    /// Every container, oldest first.
    pub(crate) fn containers(&self) -> Result<Vec<Container>> {
        let all = self.list(Kind::Container)?;
        let mut all: Vec<Container> = all
            .iter()
            .map(|(_, value)| Container::from_json(value))
            .collect::<Result<_>>()?;
        all.sort_by(|a, b| a.created.cmp(&b.created));
        Ok(all)
    }

    /// The container of a name or of the beginning of an id.
    pub(crate) fn container(&self, typed: &str) -> Result<Container> {
        super::pick("container", typed, self.containers()?, |one| (&one.id, &one.name))
    }

    /// The container of a whole id, if it is there.
    pub(crate) fn container_by_id(&self, id: &str) -> Result<Option<Container>> {
        self.read(Kind::Container, id)?
            .map(|value| Container::from_json(&value))
            .transpose()
    }

    /// Writes a container.
    pub(crate) fn put_container(&self, lock: &Locked, container: &Container) -> Result<()> {
        self.write(lock, Kind::Container, &container.id, &container.to_json())
    }

    /// Changes a container's record under the lock and returns it as it is then.
    pub(crate) fn change(&self, id: &str, change: impl FnOnce(&mut Container)) -> Result<Container> {
        let lock = self.lock()?;
        let mut container = self
            .container_by_id(id)?
            .ok_or_else(|| anyhow!("container {} is gone", super::short(id)))?;
        change(&mut container);
        self.put_container(&lock, &container)?;
        Ok(container)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A running container with one leg.
    pub(crate) fn sample(name: &str, network: &str, address: &str) -> Container {
        let mut id = name.bytes().fold(String::new(), |id, b| format!("{id}{b:02x}"));
        id.truncate(12);
        Container {
            id: format!("{id:0<64}"),
            name: name.into(),
            created: crate::state::now(),
            image: "f".repeat(64),
            image_name: "box:latest".into(),
            recipe: Recipe {
                hostname: format!("{name}-host"),
                args: vec!["/bin/sh".into()],
                env: vec!["PATH=/bin".into(), "COLOUR=red".into()],
                cwd: "/".into(),
                exposed: vec!["80/tcp".into(), "53/udp".into()],
                publish: ports::parse("127.0.0.1:8080:80").unwrap(),
                links: vec![Link {
                    container: "e".repeat(64),
                    alias: "db".into(),
                }],
                ..Recipe::default()
            },
            mounts: vec![MountPoint {
                source: Source::Host("/srv".into()),
                target: "/data".into(),
                read_only: true,
                anonymous: false,
                holder: None,
            }],
            legs: vec![Leg {
                network: network.into(),
                aliases: vec![format!("{name}-alias")],
                endpoint: Some(Endpoint {
                    id: "d".repeat(64),
                    address: Some(address.parse().unwrap()),
                    mac: Some("02:42:00:00:00:02".parse().unwrap()),
                    ..Endpoint::default()
                }),
                ..Leg::default()
            }],
            status: Status::Running,
            exit_code: 0,
            error: String::new(),
            started: crate::state::now(),
            finished: String::new(),
            monitor: Some((7, 99)),
            pid: Some(8),
            layer_held: true,
        }
    }

    #[test]
    fn containers_round_trip_and_change_under_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let web = sample("web", "n1", "10.0.0.2/24");
        store.put_container(&store.lock().unwrap(), &web).unwrap();
        assert_eq!(store.container("web").unwrap(), web);
        store.change(&web.id, |one| one.exit_code = 3).unwrap();
        assert_eq!(store.container(&web.id[..12]).unwrap().exit_code, 3);
        assert!(store.change("ab", |_| ()).is_err());
    }
}
