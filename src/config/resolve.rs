//! What the file means: checked values, defaults in one place. Nobody reads the file after this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::file::{Driver, File};

/// The file read when none is named, if it is there.
pub(crate) const DEFAULT_FILE: &str = "/etc/longshore/longshore.toml";
const DEFAULT_STATE: &str = "/var/lib/longshore";
const DEFAULT_RUNTIME: &str = "/run/longshore";
const DEFAULT_SOCKETS: &str = "/run/docker/plugins";
/// Not where Docker looks: it would take them for plugins and wait for an answer in JSON.
const DEFAULT_SNAPSHOTS: &str = "/run/longshore";
const DEFAULT_CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The one name under which everything is served when there is no file.
const DEFAULT_NAME: &str = "longshore";

/// The kinds of drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Layers.
    Graph,
    /// Networks.
    Network,
    /// Addresses.
    Ipam,
    /// Volumes.
    Volume,
    /// Layers for containerd.
    Snapshot,
}

impl Kind {
    /// As in the file: `graph`, `network`, `ipam`, `volume`, `snapshot`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Network => "network",
            Self::Ipam => "ipam",
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
        }
    }

    /// The drivers of this kind.
    pub(crate) fn drivers(self) -> &'static [&'static str] {
        match self {
            Self::Graph | Self::Snapshot => &["overlay", "btrfs", "vfs"],
            Self::Network => &["bridge"],
            Self::Ipam | Self::Volume => &["local"],
        }
    }
}

/// A driver to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// What it drives.
    pub(crate) kind: Kind,
    /// Which driver.
    pub(crate) driver: String,
    /// Its own folder; doors to layers share that of their name.
    pub(crate) state: PathBuf,
    /// Its own folder for what ends with the boot.
    pub(crate) runtime: PathBuf,
    /// Where an earlier longshore kept a snapshotter's layers.
    pub(crate) former: Option<PathBuf>,
    /// containerd's socket, for a snapshotter: layers are fetched from there and brought there.
    pub(crate) containerd: PathBuf,
}

/// The configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where sockets are made.
    pub(crate) sockets: PathBuf,
    /// Log filter.
    pub(crate) log: String,
    /// Drivers by the name of their socket.
    pub(crate) plugins: BTreeMap<String, Vec<Instance>>,
    /// Where the sockets of snapshotters are made.
    pub(crate) snapshots: PathBuf,
    /// Snapshotters by the name of their socket.
    pub(crate) snapshotters: BTreeMap<String, Instance>,
}

/// What the command line says over the file.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flags {
    /// A file that must be there.
    pub(crate) config: Option<PathBuf>,
    /// Over `state`.
    pub(crate) state: Option<PathBuf>,
    /// Over `sockets`.
    pub(crate) sockets: Option<PathBuf>,
    /// Over `log`.
    pub(crate) log: Option<String>,
    /// Serve only these kinds; empty is all.
    pub(crate) only: Vec<Kind>,
}

impl Config {
    /// Built-in values, then the file, then the flags.
    pub(crate) fn load(flags: &Flags) -> anyhow::Result<Self> {
        let default = Path::new(DEFAULT_FILE);
        let file = match &flags.config {
            Some(path) => File::read_with_parts(path)?,
            None if default.exists() => File::read_with_parts(default)?,
            None => File { ..everything() },
        };
        Self::resolve(file, flags)
    }

    fn resolve(file: File, flags: &Flags) -> anyhow::Result<Self> {
        let folder = |flag: &Option<PathBuf>, written: Option<PathBuf>, otherwise: &str| {
            let path = flag.clone().or(written).unwrap_or_else(|| otherwise.into());
            std::path::absolute(&path).with_context(|| format!("make {} absolute", path.display()))
        };
        let state = folder(&flags.state, file.state, DEFAULT_STATE)?;
        let sockets = folder(&flags.sockets, file.sockets, DEFAULT_SOCKETS)?;
        let runtime = folder(&None, file.runtime, DEFAULT_RUNTIME)?;
        let snapshots = folder(&None, file.snapshots, DEFAULT_SNAPSHOTS)?;
        ensure!(
            snapshots != sockets,
            "snapshots: {} holds the other sockets, and Docker would take a snapshotter for a plugin",
            sockets.display()
        );
        let log = flags.log.clone().or(file.log).unwrap_or_else(|| "info".into());
        let mut plugins: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        let tables = [
            (Kind::Graph, file.graph),
            (Kind::Network, file.network),
            (Kind::Ipam, file.ipam),
            (Kind::Volume, file.volume),
        ];
        let wanted = |kind| flags.only.is_empty() || flags.only.contains(&kind);
        for (kind, table) in tables {
            if !wanted(kind) {
                continue;
            }
            for (name, driver) in table {
                let instance = instance(kind, &name, driver, (&state, &runtime))?;
                plugins.entry(name).or_default().push(instance);
            }
        }
        let mut snapshotters = BTreeMap::new();
        for (name, driver) in file.snapshot.into_iter().filter(|_| wanted(Kind::Snapshot)) {
            let instance = instance(Kind::Snapshot, &name, driver, (&state, &runtime))?;
            let graph = plugins
                .get(&name)
                .and_then(|all| all.iter().find(|one| one.kind == Kind::Graph));
            ensure!(
                graph.is_none_or(|graph| graph.driver == instance.driver),
                "[snapshot.{name}] and [graph.{name}] share their layers and must name one driver"
            );
            snapshotters.insert(name, instance);
        }
        ensure!(
            !plugins.is_empty() || !snapshotters.is_empty(),
            "no driver is configured; add a table such as [volume.longshore]"
        );
        Ok(Self {
            sockets,
            log,
            plugins,
            snapshots,
            snapshotters,
        })
    }
}

fn everything() -> File {
    let one = |driver: &str| {
        BTreeMap::from([(
            DEFAULT_NAME.to_owned(),
            Driver {
                driver: driver.to_owned(),
                containerd: None,
            },
        )])
    };
    File {
        graph: one("overlay"),
        network: one("bridge"),
        ipam: one("local"),
        volume: one("local"),
        ..File::default()
    }
}

fn instance(
    kind: Kind,
    name: &str,
    driver: Driver,
    (state, runtime): (&Path, &Path),
) -> anyhow::Result<Instance> {
    let table = format!("[{}.{name}]", kind.as_str());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    ensure!(
        begins_well && name.len() <= 64 && name.bytes().all(plain),
        "{table}: the name becomes a socket's name: up to 64 letters, digits, '_', '.' and '-', \
         beginning with a letter or a digit"
    );
    if !kind.drivers().contains(&driver.driver.as_str()) {
        bail!(
            "{table}: driver {:?} is not known; there is {}",
            driver.driver,
            kind.drivers().join(", ")
        );
    }
    let containerd = match driver.containerd {
        Some(path) => {
            ensure!(
                kind == Kind::Snapshot && path.is_absolute(),
                "{table}: containerd: the absolute path of containerd's socket, for snapshotters alone"
            );
            path
        }
        None => DEFAULT_CONTAINERD.into(),
    };
    let own = state.join(kind.as_str()).join(name);
    let (state, former) = match kind {
        Kind::Snapshot => (state.join(Kind::Graph.as_str()).join(name), Some(own)),
        _ => (own, None),
    };
    Ok(Instance {
        containerd,
        kind,
        driver: driver.driver,
        state,
        runtime: runtime.join(kind.as_str()).join(name),
        former,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> anyhow::Result<Config> {
        Config::resolve(toml::from_str(text)?, &Flags::default())
    }

    #[test]
    fn without_a_file_one_name_serves_everything() {
        let config = Config::resolve(everything(), &Flags::default()).unwrap();
        let instances = &config.plugins["longshore"];
        assert_eq!(instances.len(), 4);
        assert_eq!(
            instances[0].state,
            Path::new("/var/lib/longshore/graph/longshore")
        );
        assert_eq!(
            instances[1].runtime,
            Path::new("/run/longshore/network/longshore")
        );
    }

    #[test]
    fn tables_of_one_name_share_a_socket() {
        let config = resolve(
            "[ipam.a]\ndriver=\"local\"\n[network.a]\ndriver=\"bridge\"\n[volume.b]\ndriver=\"local\"",
        )
        .unwrap();
        assert_eq!((config.plugins["a"].len(), config.plugins["b"].len()), (2, 1));
    }

    #[test]
    fn snapshotters_have_sockets_where_docker_does_not_look() {
        let text = "[graph.a]\ndriver=\"overlay\"\n[snapshot.a]\ndriver=\"overlay\"";
        let config = resolve(text).unwrap();
        assert_eq!(config.plugins["a"].len(), 1);
        assert_eq!(config.snapshots, Path::new("/run/longshore"));
        let state = Path::new("/var/lib/longshore/graph/a");
        assert_eq!(config.snapshotters["a"].state, state);
        let socket = Path::new("/run/containerd/containerd.sock");
        assert_eq!(config.snapshotters["a"].containerd, socket);
        let other = resolve("[snapshot.a]\ndriver=\"overlay\"\ncontainerd=\"/c\"").unwrap();
        assert_eq!(other.snapshotters["a"].containerd, Path::new("/c"));
        assert_eq!(config.plugins["a"][0].state, state);
        let former = Path::new("/var/lib/longshore/snapshot/a");
        assert_eq!(config.snapshotters["a"].former.as_deref(), Some(former));
        let alone = resolve("[snapshot.a]\ndriver=\"overlay\"").unwrap();
        assert!(alone.plugins.is_empty());
        let told = resolve(&format!("snapshots = \"/run/docker/plugins\"\n{text}")).unwrap_err();
        assert!(told.to_string().contains("Docker would take"), "{told}");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            (
                "[graph.a]\ndriver=\"zfs\"",
                "driver \"zfs\" is not known; there is overlay, btrfs, vfs",
            ),
            ("[graph.\"../x\"]\ndriver=\"overlay\"", "socket's name"),
            ("state = \"/x\"", "no driver is configured"),
            (
                "[volume.a]\ndriver=\"local\"\ncontainerd=\"/c\"",
                "for snapshotters alone",
            ),
            (
                "[snapshot.a]\ndriver=\"overlay\"\ncontainerd=\"c\"",
                "absolute path",
            ),
        ] {
            let told = format!("{:#}", resolve(text).unwrap_err());
            assert!(told.contains(part), "{told}");
        }
    }
}
