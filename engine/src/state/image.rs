//! Images and their layers.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Kind, Locked, Store, maybe_text, options, text, texts};

/// What an image says about running it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ImageConfig {
    pub(crate) env: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: String,
    /// `80/tcp`.
    pub(crate) exposed: Vec<String>,
    pub(crate) labels: plugin_api::Options,
}

impl ImageConfig {
    /// Reads the `config` object of an OCI or Docker image configuration.
    pub(crate) fn read(value: &Value) -> Self {
        let exposed = value["ExposedPorts"].as_object().into_iter().flatten();
        Self {
            env: texts(&value["Env"]),
            cmd: texts(&value["Cmd"]),
            entrypoint: texts(&value["Entrypoint"]),
            working_dir: maybe_text(value, "WorkingDir").unwrap_or_default(),
            user: maybe_text(value, "User").unwrap_or_default(),
            exposed: exposed.map(|(port, _)| port.clone()).collect(),
            labels: options(&value["Labels"]),
        }
    }

    /// As OCI writes it.
    pub(crate) fn to_json(&self) -> Value {
        let exposed: serde_json::Map<String, Value> = self
            .exposed
            .iter()
            .map(|port| (port.clone(), json!({})))
            .collect();
        json!({
            "Env": self.env,
            "Cmd": self.cmd,
            "Entrypoint": self.entrypoint,
            "WorkingDir": self.working_dir,
            "User": self.user,
            "ExposedPorts": exposed,
            "Labels": self.labels,
        })
    }
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HistoryLine {
    pub(crate) created: String,
    pub(crate) created_by: String,
    /// Whether no layer belongs to it.
    pub(crate) empty: bool,
}

/// An image: a stack of layers and how to run them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// SHA-256 of its configuration, 64 digits.
    pub(crate) id: String,
    /// `name:tag`, any number.
    pub(crate) names: Vec<String>,
    pub(crate) created: String,
    /// Chain ids, bottom first.
    pub(crate) chain: Vec<String>,
    /// Digests of the uncompressed archives, bottom first.
    pub(crate) diff_ids: Vec<String>,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryLine>,
}

impl Image {
    fn to_json(&self) -> Value {
        let history: Vec<Value> = self
            .history
            .iter()
            .map(|line| json!({"created": line.created, "by": line.created_by, "empty": line.empty}))
            .collect();
        json!({
            "id": self.id, "names": self.names, "created": self.created, "chain": self.chain,
            "diff_ids": self.diff_ids, "config": self.config.to_json(), "history": history,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let lines = value["history"].as_array().into_iter().flatten();
        Ok(Self {
            id: text(value, "id")?,
            names: texts(&value["names"]),
            created: text(value, "created")?,
            chain: texts(&value["chain"]),
            diff_ids: texts(&value["diff_ids"]),
            config: ImageConfig::read(&value["config"]),
            history: lines
                .map(|line| HistoryLine {
                    created: maybe_text(line, "created").unwrap_or_default(),
                    created_by: maybe_text(line, "by").unwrap_or_default(),
                    empty: line["empty"].as_bool().unwrap_or(false),
                })
                .collect(),
        })
    }

    /// The topmost chain id.
    pub(crate) fn top(&self) -> Option<&str> {
        self.chain.last().map(String::as_str)
    }

    /// `name:tag`, or the short id where it has none.
    pub(crate) fn shown(&self) -> &str {
        self.names
            .first()
            .map_or_else(|| super::short(&self.id), String::as_str)
    }
}

/// A layer of images as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// SHA-256 over the chain of digests, as OCI says.
    pub(crate) chain_id: String,
    /// Its id at the graph plugin.
    pub(crate) cache: String,
    /// Chain id of the layer below.
    pub(crate) parent: Option<String>,
    /// Bytes the plugin counted.
    pub(crate) size: u64,
    /// False from before it is made until its archive is applied.
    pub(crate) ready: bool,
}

impl Layer {
    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            chain_id: text(value, "chain_id")?,
            cache: text(value, "cache")?,
            parent: maybe_text(value, "parent"),
            size: value["size"].as_u64().unwrap_or(0),
            ready: value["ready"].as_bool().unwrap_or(false),
        })
    }
}

impl Store {
    /// Every image.
    pub(crate) fn images(&self) -> Result<Vec<Image>> {
        let all = self.list(Kind::Image)?;
        all.iter().map(|(_, value)| Image::from_json(value)).collect()
    }

    /// The image of a name, a name without its tag, or the beginning of an id.
    pub(crate) fn image(&self, typed: &str) -> Result<Image> {
        let mut all = self.images()?;
        if let Ok(reference) = reference(typed)
            && let Some(at) = all.iter().position(|image| image.names.contains(&reference))
        {
            return Ok(all.swap_remove(at));
        }
        let bare = typed.strip_prefix("sha256:").unwrap_or(typed);
        super::pick("image", bare, all, |image| (image.id.as_str(), ""))
    }

    /// Writes an image and takes its names away from others.
    pub(crate) fn put_image(&self, lock: &Locked, image: &Image) -> Result<()> {
        for mut other in self.images()? {
            let before = other.names.len();
            other.names.retain(|name| !image.names.contains(name));
            if other.id != image.id && other.names.len() != before {
                self.write(lock, Kind::Image, &other.id, &other.to_json())?;
            }
        }
        self.write(lock, Kind::Image, &image.id, &image.to_json())
    }

    /// Every layer record.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>> {
        let all = self.list(Kind::Layer)?;
        all.iter().map(|(_, value)| Layer::from_json(value)).collect()
    }

    /// The layer of a chain id.
    pub(crate) fn layer(&self, chain_id: &str) -> Result<Option<Layer>> {
        self.read(Kind::Layer, chain_id)?
            .map(|value| Layer::from_json(&value))
            .transpose()
    }

    /// Writes a layer record.
    pub(crate) fn put_layer(&self, lock: &Locked, layer: &Layer) -> Result<()> {
        let value = json!({
            "chain_id": layer.chain_id, "cache": layer.cache, "parent": layer.parent,
            "size": layer.size, "ready": layer.ready,
        });
        self.write(lock, Kind::Layer, &layer.chain_id, &value)
    }
}

/// Reads `name[:tag]` and completes the tag.
pub(crate) fn reference(typed: &str) -> Result<String> {
    let tag_at = typed.rfind(':').filter(|at| !typed[*at..].contains('/'));
    let (name, tag) = match tag_at {
        Some(at) => (&typed[..at], &typed[at + 1..]),
        None => (typed, "latest"),
    };
    let word = |word: &str| {
        word.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    // Only the first of several parts is a host, which may have a port.
    let (host, rest) = name
        .split_once('/')
        .map_or(("", name), |(host, rest)| (host, rest));
    let host_fits = match host.split_once(':') {
        Some((host, port)) => word(host) && port.parse::<u16>().is_ok(),
        None => host.is_empty() && !name.starts_with('/') || word(host),
    };
    let fits = host_fits && rest.split('/').all(word) && word(tag) && tag.len() <= 128;
    if typed.len() > 255 || !fits {
        bail!("{} is no image name", plugin_api::id::quoted(typed));
    }
    Ok(format!("{name}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_get_a_tag() {
        assert_eq!(reference("busybox").unwrap(), "busybox:latest");
        assert_eq!(reference("host:5000/a/b").unwrap(), "host:5000/a/b:latest");
        assert_eq!(reference("host:5000/a/b:v1").unwrap(), "host:5000/a/b:v1");
        for bad in ["", "../x", "a//b", "a:", "/a", "a b", "a:../b", &"x".repeat(300)] {
            assert!(reference(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_name_moves_to_the_newer_image() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let image = |id: &str| Image {
            id: id.repeat(64),
            names: vec!["web:latest".into()],
            created: "2026-01-01T00:00:00Z".into(),
            chain: vec!["c".repeat(64)],
            diff_ids: vec!["d".repeat(64)],
            config: ImageConfig {
                env: vec!["A=b".into()],
                exposed: vec!["80/tcp".into()],
                ..ImageConfig::default()
            },
            history: vec![],
        };
        let lock = store.lock().unwrap();
        store.put_image(&lock, &image("a")).unwrap();
        store.put_image(&lock, &image("b")).unwrap();
        assert_eq!(store.image("web").unwrap(), image("b"));
        assert_eq!(store.image("aaaa").unwrap().names, [] as [String; 0]);
    }
}
