//! An OCI image layout: `index.json` and blobs by digest.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Bundle, Found, digest, found, sha256};
use crate::state::{maybe_text, text};

/// How deep an index may point to another one.
const DEPTH: u8 = 3;

/// Every image of the layout that runs on this machine.
pub(super) fn read(bundle: &Bundle) -> Result<Vec<Found>> {
    let index = bundle.json("index.json")?;
    let rows = index["manifests"].as_array().into_iter().flatten();
    let mut images = Vec::new();
    for row in rows {
        let names = row["annotations"].as_object();
        let name = names.and_then(|all| {
            let full = all.get("io.containerd.image.name");
            full.or_else(|| all.get("org.opencontainers.image.ref.name"))?
                .as_str()
        });
        images.push(image(bundle, row, name, DEPTH)?);
    }
    if images.is_empty() {
        bail!("index.json lists no image");
    }
    Ok(images)
}

fn checked(bundle: &Bundle, descriptor: &Value) -> Result<Vec<u8>> {
    let typed = text(descriptor, "digest").context("a descriptor has no digest")?;
    let wanted = digest(&typed)?;
    let bytes = bundle.json_bytes(&blob_name(wanted))?;
    if sha256(&bytes) != wanted {
        bail!("blob {wanted} holds other bytes than its name says");
    }
    Ok(bytes)
}

fn blob_name(hex: &str) -> String {
    format!("blobs/sha256/{hex}")
}

fn image(bundle: &Bundle, descriptor: &Value, name: Option<&str>, depth: u8) -> Result<Found> {
    let manifest: Value =
        serde_json::from_slice(&checked(bundle, descriptor)?).context("a manifest is no JSON")?;
    if let Some(rows) = manifest["manifests"].as_array() {
        if depth == 0 {
            bail!("an index points to an index too often");
        }
        let fits = |row: &&Value| {
            let platform = &row["platform"];
            platform["os"] == "linux" && platform["architecture"] == architecture()
        };
        let row = rows
            .iter()
            .find(fits)
            .or_else(|| rows.first().filter(|row| row["platform"].is_null()))
            .with_context(|| format!("the image has no variant for linux/{}", architecture()))?;
        return image(bundle, row, name, depth - 1);
    }
    let config = checked(bundle, &manifest["config"])?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let blobs = layers.map(|layer| {
        Ok(blob_name(digest(
            &maybe_text(layer, "digest").unwrap_or_default(),
        )?))
    });
    let names = name.map(str::to_owned).into_iter().collect();
    found(&config, blobs.collect::<Result<_>>()?, names)
}

/// This machine in the words of OCI.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
