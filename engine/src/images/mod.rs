//! Images from files: what is in them, without unpacking anything.
//!
//! Three shapes are told apart by looking inside: a root tree, an OCI layout (folder or tar) and what
//! `docker save` writes.
//!
//! **Invariant:** names found in an archive are only looked up in its own index or, for a folder, opened
//! below it without links.

mod docker;
mod oci;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernel::fsutil::Folder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::state::image::{HistoryLine, ImageConfig};
use crate::state::{hex, maybe_text, text, texts};

/// Largest manifest, index or configuration that is read.
const JSON_BYTES: u64 = 8 << 20;

/// An image as a file describes it.
#[derive(Debug)]
pub(crate) struct Found {
    /// Digest of the configuration, 64 digits.
    pub(crate) id: String,
    /// Names the file gives it.
    pub(crate) names: Vec<String>,
    pub(crate) created: Option<String>,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryLine>,
    /// Names of the layers' blobs and the digests of their uncompressed bytes, bottom first.
    pub(crate) layers: Vec<(String, String)>,
}

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) enum Content {
    /// One tree of files, to become one layer.
    Tree,
    /// Images with their blobs.
    Images(Vec<Found>),
}

/// A file or folder with images.
#[derive(Debug)]
pub(crate) enum Bundle {
    Folder(Folder),
    Tar {
        file: File,
        index: BTreeMap<String, Place>,
    },
}

/// Where an entry of a tar lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Bytes { offset: u64, length: u64 },
    Link(String),
}

impl Bundle {
    /// Opens a folder or a tar, gzip'd or not. `scratch` takes what must be unpacked to be searched.
    pub(crate) fn open(path: &Path, scratch: impl FnOnce() -> Result<File>) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(Folder::open(path)?));
        }
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Self::from_file(file, scratch)
    }

    /// As [`Bundle::open`], from an open file that can be rewound.
    pub(crate) fn from_file(mut file: File, scratch: impl FnOnce() -> Result<File>) -> Result<Self> {
        let mut magic = [0; 2];
        let length = file.read(&mut magic)?;
        file.rewind()?;
        if length == 2 && magic == GZIP {
            let mut plain = scratch()?;
            std::io::copy(
                &mut flate2::read::MultiGzDecoder::new(BufReader::new(file)),
                &mut plain,
            )
            .context("unpack gzip")?;
            plain.rewind()?;
            file = plain;
        }
        let index = index(&file).context("read tar")?;
        Ok(Self::Tar { file, index })
    }

    /// What is inside.
    pub(crate) fn content(&self) -> Result<Content> {
        if self.has("manifest.json") && (!self.has("oci-layout") || self.has("repositories")) {
            return docker::read(self).map(Content::Images);
        }
        if self.has("oci-layout") && self.has("index.json") {
            return oci::read(self).map(Content::Images);
        }
        match self {
            Self::Folder(_) => bail!("the folder is no OCI layout: it has no oci-layout and index.json"),
            Self::Tar { .. } => Ok(Content::Tree),
        }
    }

    /// The bytes of the whole tar.
    pub(crate) fn whole(&self) -> Result<Box<dyn Read + '_>> {
        match self {
            Self::Folder(_) => bail!("a folder has no bytes"),
            Self::Tar { file, .. } => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(Box::new(BufReader::new(file)))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.blob(name).is_ok()
    }

    /// The bytes of one entry.
    pub(crate) fn blob(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        let name = plain(name)?;
        match self {
            Self::Folder(folder) => {
                let path = Path::new(&name);
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let last = path.file_name().expect("a plain name has a last part");
                let file = match parent {
                    Some(parent) => folder.descend(parent)?.read_file(last)?,
                    None => folder.read_file(last)?,
                };
                Ok(Box::new(BufReader::new(file)))
            }
            Self::Tar { file, index } => {
                let (offset, length) = find(index, &name)?;
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(BufReader::new(file).take(length)))
            }
        }
    }

    /// A layer's uncompressed bytes.
    pub(crate) fn layer(&self, name: &str) -> Result<Box<dyn Read + '_>> {
        unpacked(self.blob(name)?)
    }

    fn json_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.blob(name)?.take(JSON_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > JSON_BYTES {
            bail!("{name:?} is larger than {JSON_BYTES} bytes");
        }
        Ok(bytes)
    }

    fn json(&self, name: &str) -> Result<Value> {
        let bytes = self.json_bytes(name)?;
        serde_json::from_slice(&bytes).with_context(|| format!("{name:?} is no JSON"))
    }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Takes gzip off, if it is there.
fn unpacked<'a>(bytes: Box<dyn Read + 'a>) -> Result<Box<dyn Read + 'a>> {
    let mut bytes = bytes;
    let mut magic = Vec::new();
    bytes.by_ref().take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&GZIP);
    if magic == ZSTD {
        bail!("layer is compressed with zstd, which this engine cannot read");
    }
    let whole = std::io::Cursor::new(magic).chain(bytes);
    if gzip {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)));
    }
    Ok(Box::new(whole))
}

/// A relative name without `.` and `..`.
fn plain(name: &str) -> Result<String> {
    let mut parts = Vec::new();
    for part in Path::new(name).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => bail!("{} leads out of the image", plugin_api::id::quoted(name)),
        }
    }
    if parts.is_empty() {
        bail!("a blob has no name");
    }
    Ok(parts.join("/"))
}

fn find(index: &BTreeMap<String, Place>, name: &str) -> Result<(u64, u64)> {
    let mut name = name.to_owned();
    // `docker save` writes a layer once and points to it; a chain of pointers is no such thing.
    for _ in 0..4 {
        match index.get(&name) {
            Some(Place::Bytes { offset, length }) => return Ok((*offset, *length)),
            Some(Place::Link(target)) => name.clone_from(target),
            None => bail!("the image has no {}", plugin_api::id::quoted(&name)),
        }
    }
    bail!("links of {} go in circles", plugin_api::id::quoted(&name))
}

fn index(file: &File) -> Result<BTreeMap<String, Place>> {
    let mut archive = tar::Archive::new(file);
    let mut index = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(name) = path.to_str().and_then(|name| plain(name).ok()) else {
            continue;
        };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (offset, length) = (entry.raw_file_position(), entry.size());
            index.insert(name, Place::Bytes { offset, length });
        } else if (kind.is_symlink() || kind.is_hard_link())
            && let Some(target) = entry.link_name()?
        {
            let base = if kind.is_symlink() { path.parent() } else { None };
            if let Some(target) = lexically(base, &target) {
                index.insert(name, Place::Link(target));
            }
        }
    }
    Ok(index)
}

/// Where a link in an archive leads, as a name of the archive.
fn lexically(base: Option<&Path>, target: &Path) -> Option<String> {
    let joined: PathBuf = base.unwrap_or(Path::new("")).join(target);
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// `sha256:<64 digits>` without its first word.
pub(crate) fn digest(text: &str) -> Result<&str> {
    match text.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Ok(hex)
        }
        _ => bail!("{} is no sha256 digest", plugin_api::id::quoted(text)),
    }
}

/// SHA-256 as 64 digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Makes an image of a configuration and the blobs of its layers.
fn found(config_bytes: &[u8], blobs: Vec<String>, names: Vec<String>) -> Result<Found> {
    let config: Value = serde_json::from_slice(config_bytes).context("the configuration is no JSON")?;
    let diff_ids = texts(&config["rootfs"]["diff_ids"]);
    if diff_ids.len() != blobs.len() {
        bail!(
            "the configuration has {} layers and the manifest {}",
            diff_ids.len(),
            blobs.len()
        );
    }
    let diff_ids = diff_ids.iter().map(|id| digest(id).map(str::to_owned));
    let diff_ids: Vec<String> = diff_ids.collect::<Result<_>>()?;
    let lines = config["history"].as_array().into_iter().flatten();
    Ok(Found {
        id: sha256(config_bytes),
        names,
        created: text(&config, "created").ok(),
        history: lines
            .map(|line| HistoryLine {
                created: maybe_text(line, "created").unwrap_or_default(),
                created_by: maybe_text(line, "created_by").unwrap_or_default(),
                empty: line["empty_layer"].as_bool().unwrap_or(false),
            })
            .collect(),
        config: ImageConfig::read(&config["config"]),
        layers: blobs.into_iter().zip(diff_ids).collect(),
    })
}

#[cfg(test)]
mod tests;
