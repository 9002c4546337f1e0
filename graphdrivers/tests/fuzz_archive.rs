//! Broken and odd archives never break the reader, never get out, and never leave a tree that cannot be read.
//!
//! Deterministic: the seed is fixed unless `LONGSHORE_FUZZ_SEED` says otherwise,
//! and `LONGSHORE_FUZZ_ITERATIONS` makes the run long.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;

use common::{Raw, alone, archive};
use graphdrivers::archive::apply::{Into, unpack};
use graphdrivers::archive::reader::Reader;
use graphdrivers::archive::{diff, walk};
use kernel::fsutil::{self, Folder};

const SEED: u64 = 0x0074_6172_6261_6c6c;

/// A small generator of our own, so that a seed means the same for ever.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = from_env("LONGSHORE_FUZZ_SEED", SEED);
        println!("LONGSHORE_FUZZ_SEED={seed}");
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit.max(1) as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Names that meet each other often, and some that mean something.
const NAMES: [&str; 20] = [
    "a",
    "a/b",
    "a/b/c",
    "a/l/x",
    "l",
    "l/x",
    "b",
    "./a",
    "a/",
    "b/",
    "l/",
    ".",
    "..",
    "a/../b",
    "/a",
    ".wh.a",
    "a/.wh.b",
    "a/.wh..wh..opq",
    ".wh..wh.plnk/1",
    "l/.wh.x",
];
const TARGETS: [&str; 8] = ["a", "a/b", "b", "..", "../victim", "/", "l", "a/../../victim"];
const EXTENSIONS: [&[(&str, &[u8])]; 8] = [
    &[],
    &[("size", b"3")],
    &[("path", b"a/b/c/d")],
    &[("linkpath", b"../victim")],
    &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"4096")],
    &[("GNU.sparse.size", b"8192"), ("GNU.sparse.map", b"0,3,4096,0")],
    &[("SCHILY.xattr.user.x", b"\0y"), ("mtime", b"-1.5")],
    &[("SCHILY.xattr.trusted.overlay.opaque", b"y")],
];

fn entry(dice: &mut Dice) -> Raw<'static> {
    let flag = dice.pick(b"000005552211346xLgS7");
    let content: &[u8] = if matches!(flag, b'0' | b'7' | b'S' | b'L') && dice.below(2) == 0 {
        b"abc"
    } else {
        b""
    };
    Raw {
        flag,
        path: dice.pick(&NAMES),
        link: dice.pick(&TARGETS),
        mode: dice.pick(&[0o644, 0o755, 0o4755, 0o1777, 0]),
        content,
        pax: dice.pick(&EXTENSIONS),
    }
}

fn made(dice: &mut Dice) -> Vec<u8> {
    let entries: Vec<Raw<'_>> = (0..=dice.below(8)).map(|_| entry(dice)).collect();
    archive(&entries)
}

/// Breaks the bytes of a header or two and mends their checksums, so that the reader gets further.
fn break_bytes(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..dice.below(4) {
        let block = dice.below(bytes.len() / 512) * 512;
        match dice.below(6) {
            0 => bytes.truncate(dice.below(bytes.len())),
            1 => {
                let rest = bytes[block..].to_vec();
                bytes.extend(rest);
            }
            _ if block + 512 <= bytes.len() => {
                let at = block
                    + dice.pick(&[
                        0, 1, 100, 108, 124, 125, 135, 136, 156, 157, 257, 265, 345, 386, 482, 483,
                    ]);
                bytes[at] = dice.pick(&[
                    0, 0xff, 0x80, b'0', b'7', b'9', b'/', b'.', b' ', b'S', b'x', b'1',
                ]);
                mend(&mut bytes[block..block + 512]);
            }
            _ => {}
        }
        if bytes.len() < 512 {
            return;
        }
    }
}

fn mend(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

#[test]
fn no_archive_breaks_the_reader() {
    let mut dice = Dice::new();
    let (mut items, mut refused) = (0_u64, 0_u64);
    let rounds = from_env("LONGSHORE_FUZZ_ITERATIONS", 20_000);
    for _ in 0..rounds {
        let mut bytes = made(&mut dice);
        break_bytes(&mut dice, &mut bytes);
        let mut stream = bytes.as_slice();
        let mut reader = Reader::new(&mut stream);
        loop {
            match reader.next_item() {
                Ok(Some(item)) => {
                    items += 1;
                    assert!(item.path.len() <= 4096 && item.mode <= 0o7777);
                    let pieces = item.pieces.unwrap_or_default();
                    assert!(pieces.iter().all(|(offset, length)| offset + length <= item.size));
                }
                Ok(None) => break,
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
    }
    println!("{rounds} archives, {items} entries, {refused} refused");
    assert!(
        items > rounds && refused > rounds / 100,
        "hardly anything was tried"
    );
}

/// Unpacks into a layer over another one, and upon a tree, and packs what came of it.
fn round(base: &Path, bytes: &[u8]) -> bool {
    let [lower, layer, tree] = ["lower", "layer", "tree"].map(|name| base.join("state").join(name));
    for path in [&layer, &tree] {
        fsutil::make_dir(path, 0o755).unwrap();
    }
    let lowers = [lower.clone()];
    let first = unpack(&layer, Into::Layer(&lowers), &mut &*bytes).is_ok();
    let before = archive(&[
        common::folder("a/"),
        common::file("a/b", "1"),
        common::file("b", "2"),
    ]);
    unpack(&tree, Into::Tree, &mut before.as_slice()).unwrap();
    let second = unpack(&tree, Into::Tree, &mut &*bytes).is_ok();
    assert_eq!(fs::read_to_string(base.join("victim")).unwrap(), "untouched");
    assert_eq!(
        fs::read_dir(base).unwrap().count(),
        2,
        "something appeared outside"
    );
    assert_eq!(fs::read_to_string(lower.join("a/b")).unwrap(), "below");
    // Half an archive is a tree too, and one that can be packed and unpacked to the same again.
    let mut out = Vec::new();
    diff::archive(&layer, (0, 0, 0), &mut out).unwrap();
    let mut whole = Vec::new();
    walk::archive(&Folder::open(&tree).unwrap(), None, &mut whole).unwrap();
    let copy = base.join("state/copy");
    fsutil::make_dir(&copy, 0o755).unwrap();
    unpack(&copy, Into::Tree, &mut whole.as_slice()).unwrap();
    assert_eq!(common::picture(&copy), common::picture(&tree));
    for path in [&layer, &tree, &copy] {
        fsutil::remove_tree(path).unwrap();
    }
    first || second
}

#[test]
fn no_archive_gets_out_and_every_tree_is_packed_and_unpacked_to_the_same() {
    alone(|state| {
        let base = state.parent().unwrap();
        fs::write(base.join("victim"), "untouched").unwrap();
        let lower = state.join("lower");
        fs::create_dir_all(lower.join("a")).unwrap();
        fs::write(lower.join("a/b"), "below").unwrap();
        let mut dice = Dice::new();
        let rounds = from_env("LONGSHORE_FUZZ_ITERATIONS", 20_000) / 50;
        let mut unpacked = 0;
        for _ in 0..rounds {
            let mut bytes = made(&mut dice);
            if dice.below(3) == 0 {
                break_bytes(&mut dice, &mut bytes);
            }
            unpacked += u64::from(round(base, &bytes));
        }
        println!("{rounds} archives, {unpacked} unpacked wholly");
        assert!(unpacked > rounds / 50, "hardly any was unpacked");
    });
}
