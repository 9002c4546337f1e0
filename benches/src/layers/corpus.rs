//! Layers to measure with, made by dice that always fall alike; nothing is downloaded.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::ground::{program, run};

const BLOCK: usize = 512;
/// Folders of the layer of small files, and files in each.
const FOLDERS: usize = 800;
const FILES: usize = 50;
/// Files of the large layer, and bytes of each.
const PARTS: usize = 4;
const PART: usize = 267 << 20;
/// Text that contents are cut from.
const TEXT: usize = 16 << 20;

/// Marsaglia's xorshift.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from(self.throw() % limit).unwrap_or_default()
    }
}

/// Words of a small language: it shrinks like configuration and code do, to a third or so.
fn text(dice: &mut Dice) -> Vec<u8> {
    let word = |dice: &mut Dice| {
        let length = 2 + dice.below(9);
        (0..length)
            .map(|_| b"etaoinshrdlucmfwypvbgk"[dice.below(22)])
            .collect()
    };
    let words: Vec<Vec<u8>> = (0..6_000).map(|_| word(dice)).collect();
    let mut text = Vec::with_capacity(TEXT + 16);
    while text.len() < TEXT {
        // Some words are common, most are rare.
        let common = dice.below(words.len()) * dice.below(words.len()) / words.len();
        text.extend(&words[common]);
        text.push(if dice.below(9) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(TEXT);
    text
}

/// Bytes of a small file: 300 to 20 000, most of them short, 6 000 on average.
fn size(dice: &mut Dice) -> usize {
    let part = dice.below(1_000) * dice.below(1_000) / 1_000;
    300 + part * 22 + dice.below(60)
}

/// One header of a POSIX archive.
fn header(name: &str, size: usize, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "14227461600");
    put(148, "        ");
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn entry(out: &mut impl Write, name: &str, content: &[u8]) -> std::io::Result<()> {
    out.write_all(&header(name, content.len(), b'0'))?;
    out.write_all(content)?;
    out.write_all(padding(content.len()))
}

/// What fills the last block.
fn padding(length: usize) -> &'static [u8] {
    &[0; BLOCK][..(BLOCK - length % BLOCK) % BLOCK]
}

/// An archive being written.
fn archive(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let what = || format!("write {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).with_context(what)?);
    fill(&mut out)
        .and_then(|()| out.write_all(&[0; 2 * BLOCK]))
        .and_then(|()| out.flush())
        .with_context(what)
}

/// A layer as a file, and its digest.
pub(super) struct Layer {
    pub(super) path: PathBuf,
    /// `sha256:…` of the archive, not of what is compressed.
    pub(super) digest: String,
}

impl Layer {
    fn of(path: PathBuf) -> Result<Self> {
        let text = run(program("sha256sum").arg(&path), "")?;
        let digest = text.split_whitespace().next().context("a digest")?;
        Ok(Self {
            digest: format!("sha256:{digest}"),
            path,
        })
    }

    /// Like a layer of a distribution: 40 000 files in 800 folders, 266 MB.
    pub(super) fn small(home: &Path) -> Result<Self> {
        let path = home.join("small.tar");
        let mut dice = Dice(0x5eed);
        let text = text(&mut dice);
        archive(&path, |out| {
            for folder in 0..FOLDERS {
                let folder = format!("usr/share/package{folder:03}/");
                out.write_all(&header(&folder, 0, b'5'))?;
                for file in 0..FILES {
                    let size = size(&mut dice);
                    let from = dice.below(text.len() - size);
                    let name = format!("{folder}file{file:02}.conf");
                    entry(out, &name, &text[from..from + size])?;
                }
            }
            Ok(())
        })?;
        Self::of(path)
    }

    /// Four files, 1.1 GB.
    pub(super) fn large(home: &Path) -> Result<Self> {
        let path = home.join("large.tar");
        let mut dice = Dice(0xface);
        let text = text(&mut dice);
        archive(&path, |out| {
            for part in 0..PARTS {
                out.write_all(&header(&format!("model{part}.bin"), PART, b'0'))?;
                let mut left = PART;
                while left > 0 {
                    let from = dice.below(TEXT / 2);
                    let length = left.min(TEXT / 2);
                    out.write_all(&text[from..from + length])?;
                    left -= length;
                }
                out.write_all(padding(PART))?;
            }
            Ok(())
        })?;
        Self::of(path)
    }

    /// The same layer, compressed as most registries hold it.
    pub(super) fn gzipped(&self, home: &Path) -> Result<Self> {
        let path = home.join("layer.tar.gz");
        let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let mut command = program("gzip");
        command
            .args(["-6", "--no-name", "--stdout"])
            .arg(&self.path)
            .stdout(file);
        let status = command.status().context("run gzip")?;
        anyhow::ensure!(status.success(), "gzip ended with {status}");
        Ok(Self {
            path,
            digest: self.digest.clone(),
        })
    }

    /// What stands before and behind the layer in an archive of `docker save` that holds nothing else.
    pub(super) fn image_around(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let length = std::fs::metadata(&self.path).context("look at a layer")?.len();
        let length = usize::try_from(length).context("a length")?;
        let name = "layer.tar";
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
                            "rootfs": {"type": "layers", "diff_ids": [self.digest]}});
        let manifest =
            json!([{"Config": "config.json", "RepoTags": ["example.org/bench:1"], "Layers": [name]}]);
        let head = header(name, length, b'0').to_vec();
        let mut tail = padding(length).to_vec();
        entry(&mut tail, "config.json", config.to_string().as_bytes())?;
        entry(&mut tail, "manifest.json", manifest.to_string().as_bytes())?;
        tail.extend([0; 2 * BLOCK]);
        Ok((head, tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_of_the_size_that_was_promised() {
        let mut dice = Dice(0x5eed);
        let sizes: Vec<usize> = (0..40_000).map(|_| size(&mut dice)).collect();
        assert!(sizes.iter().all(|size| (300..23_000).contains(size)));
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((5_400..6_400).contains(&mean), "{mean}");
    }

    #[test]
    fn tar_reads_what_we_write() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.tar");
        archive(&path, |out| {
            out.write_all(&header("a/", 0, b'5'))?;
            entry(out, "a/b", b"ahoy")
        })
        .unwrap();
        let listed = run(program("tar").arg("-tf").arg(&path), "").unwrap();
        assert_eq!(listed, "a/\na/b\n");
        let read = run(program("tar").arg("-xOf").arg(&path).arg("a/b"), "").unwrap();
        assert_eq!(read, "ahoy");
    }
}
