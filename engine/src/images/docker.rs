//! What `docker save` writes: `manifest.json` and the files it names.

use anyhow::{Context, Result, bail};

use super::{Bundle, Found, found};
use crate::state::{text, texts};

/// Every image of the archive.
pub(super) fn read(bundle: &Bundle) -> Result<Vec<Found>> {
    let manifest = bundle.json("manifest.json")?;
    let Some(rows) = manifest.as_array().filter(|rows| !rows.is_empty()) else {
        bail!("manifest.json lists no image");
    };
    rows.iter()
        .map(|row| {
            let config = text(row, "Config").context("manifest.json names no configuration")?;
            found(
                &bundle.json_bytes(&config)?,
                texts(&row["Layers"]),
                texts(&row["RepoTags"]),
            )
        })
        .collect()
}
