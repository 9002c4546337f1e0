//! Layers of images at the graph plugin: made from archives, shared by content, dropped when unused.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use plugin_api::Options;
use plugin_api::graph::{GraphPlugin, NewLayer};
use plugin_api::id::LayerId;
use sha2::{Digest, Sha256};

use crate::images::sha256;
use crate::plugins::Told;
use crate::state::image::Layer;
use crate::state::{Locked, Store, fresh_id, hex, short};

/// The id of a layer on top of others, as OCI says.
pub(crate) fn chain_id(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.to_owned(),
        Some(parent) => sha256(format!("sha256:{parent} sha256:{diff_id}").as_bytes()),
    }
}

/// SHA-256 of everything a reader gives.
pub(crate) fn digest_of(mut bytes: impl Read) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// A writer that keeps the digest of what passes through.
pub(crate) struct Digesting<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Digesting<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }

    /// The writer and the digest as 64 digits.
    pub(crate) fn finish(self) -> (W, String) {
        (self.inner, hex(&self.hasher.finalize()))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A request for a layer without label and options.
pub(crate) fn new_layer(id: &str, parent: Option<&str>) -> Result<NewLayer> {
    Ok(NewLayer {
        id: LayerId::new(id)?,
        parent: parent.map(LayerId::new).transpose()?,
        mount_label: String::new(),
        options: Options::new(),
    })
}

/// Makes the layer `diff_id` on top of `parent` (a chain id) unless it is there, and returns its chain
/// id. The bytes are uncompressed and were found to have that digest.
pub(crate) fn add(
    store: &Store,
    graph: &dyn GraphPlugin,
    parent: Option<&str>,
    diff_id: &str,
    bytes: &mut dyn Read,
) -> Result<String> {
    let lock = store.lock()?;
    let chain = chain_id(parent, diff_id);
    let known = store.layer(&chain)?;
    if let Some(known) = &known {
        let id = LayerId::new(&known.cache)?;
        if known.ready
            && graph
                .exists(&id)
                .told(|| format!("look for layer {}", short(&chain)))?
        {
            return Ok(chain);
        }
        graph
            .remove(&id)
            .told(|| format!("remove unfinished layer {}", short(&chain)))?;
    }
    let below = match parent {
        None => None,
        Some(parent) => {
            let layer = store.layer(parent)?;
            Some(layer.context("the layer below is missing")?.cache)
        }
    };
    let mut layer = Layer {
        chain_id: chain.clone(),
        cache: fresh_id()?,
        parent: parent.map(str::to_owned),
        size: 0,
        ready: false,
    };
    store.put_layer(&lock, &layer)?;
    match fill(graph, &layer.cache, below.as_deref(), bytes) {
        Ok(size) => {
            layer.size = size;
            layer.ready = true;
            store.put_layer(&lock, &layer)?;
            Ok(chain)
        }
        Err(error) => {
            drop_layer(store, &lock, graph, &layer)?;
            Err(error)
        }
    }
}

fn fill(graph: &dyn GraphPlugin, cache: &str, below: Option<&str>, bytes: &mut dyn Read) -> Result<u64> {
    let request = new_layer(cache, below)?;
    graph
        .create(&request)
        .told(|| format!("create layer {}", short(cache)))?;
    graph
        .apply_diff(&request.id, request.parent.as_ref(), bytes)
        .told(|| format!("fill layer {}", short(cache)))
}

fn drop_layer(store: &Store, lock: &Locked, graph: &dyn GraphPlugin, layer: &Layer) -> Result<()> {
    graph
        .remove(&LayerId::new(&layer.cache)?)
        .told(|| format!("remove layer {}", short(&layer.chain_id)))?;
    store.remove(lock, crate::state::Kind::Layer, &layer.chain_id)
}

/// Removes every layer that no image has, children before parents. Returns their chain ids.
pub(crate) fn collect(store: &Store, lock: &Locked, graph: &dyn GraphPlugin) -> Result<Vec<String>> {
    let images = store.images()?;
    let mut unused = store.layers()?;
    unused.retain(|layer| !images.iter().any(|image| image.chain.contains(&layer.chain_id)));
    let mut gone = Vec::new();
    while !unused.is_empty() {
        let free = |one: &Layer| {
            !unused
                .iter()
                .any(|other| other.parent.as_ref() == Some(&one.chain_id))
        };
        let Some(at) = unused.iter().position(free) else {
            bail!("records of layers go in circles");
        };
        let layer = unused.remove(at);
        drop_layer(store, lock, graph, &layer)?;
        gone.push(layer.chain_id);
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_oci() {
        let (a, b) = (sha256(b"a"), sha256(b"b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(
            chain_id(Some(&a), &b),
            sha256(format!("sha256:{a} sha256:{b}").as_bytes())
        );
    }

    #[test]
    fn digests_agree_however_they_are_taken() {
        let bytes = vec![7u8; 200_000];
        assert_eq!(digest_of(&bytes[..]).unwrap(), sha256(&bytes));
        let mut through = Digesting::new(Vec::new());
        through.write_all(&bytes).unwrap();
        assert_eq!(through.finish(), (bytes.clone(), sha256(&bytes)));
    }
}
