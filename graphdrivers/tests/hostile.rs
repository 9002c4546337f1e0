//! Archives made to break out: one for each way that engines and libraries were broken by, each unpacked into
//! a layer of ours and upon a tree of somebody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use common::{Raw, alone, archive, file, folder, link};
use plugin_api::FaultKind;
use plugin_api::differ::Differ;
use plugin_api::id::LayerId;
use plugin_api::snapshot::{Labels, SnapshotKey, SnapshotMount};

/// Whether an archive is to be refused, or may be unpacked as long as nothing outside changes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Refused,
    Harmless,
}
use Fate::{Harmless, Refused};

struct Case {
    name: &'static str,
    fate: Fate,
    bytes: Vec<u8>,
}

fn case(name: &'static str, fate: Fate, entries: &[Raw<'_>]) -> Case {
    let bytes = archive(entries);
    Case { name, fate, bytes }
}

fn open_mode(raw: Raw<'_>) -> Raw<'_> {
    Raw { mode: 0o777, ..raw }
}

/// `outside` is the absolute path of a folder in which lies the file `victim`.
fn links(outside: &str) -> Vec<Case> {
    let victim = format!("{outside}/victim");
    let below = format!("{}/victim", &outside[1..]);
    let through = format!("l/{below}");
    vec![
        case(
            "CVE-2014-6407 a link leads out",
            Refused,
            &[link(b'2', "x", outside), file("x/victim", "owned")],
        ),
        case(
            "CVE-2014-6407 a hard link leads out",
            Refused,
            &[link(b'1', "h", &victim), file("h", "owned")],
        ),
        case(
            "CVE-2014-9356 a link to the root",
            Harmless,
            &[link(b'2', "l", "/"), file(&through, "mine")],
        ),
        case(
            "CVE-2018-15664 a folder becomes a link",
            Refused,
            &[
                folder("d/"),
                file("d/a", ""),
                link(b'2', "d", outside),
                file("d/victim", "owned"),
            ],
        ),
        case(
            "CVE-2021-32760 the mode of a hard link to a link",
            Harmless,
            &[link(b'2', "s", &victim), open_mode(link(b'1', "h", "s"))],
        ),
    ]
}

fn modes(outside: &str) -> Vec<Case> {
    let victim = format!("{outside}/victim");
    vec![
        case(
            "CVE-2021-41089 a folder of a link's name",
            Harmless,
            &[link(b'2', "s", outside), open_mode(folder("s/"))],
        ),
        case(
            "CVE-2018-20990 a link is written over",
            Harmless,
            &[link(b'2', "f", &victim), open_mode(file("f", "mine"))],
        ),
        case(
            "CVE-2021-38511 a folder is made through a link",
            Refused,
            &[link(b'2', "d", outside), folder("d/new/")],
        ),
        case(
            "CVE-2026-33056 a mode through a link with a dot",
            Harmless,
            &[
                link(b'2', "x", outside),
                open_mode(folder("x/.")),
                open_mode(file("x/./victim", "owned")),
            ],
        ),
        case(
            "a late time of a folder that became a link",
            Harmless,
            &[open_mode(folder("d/")), link(b'2', "d", outside)],
        ),
        case(
            "a link upwards that is relative",
            Refused,
            &[
                link(b'2', "up", "../../../../../../../.."),
                file("up/victim/x", ""),
                link(b'1', "h", "up/../victim"),
            ],
        ),
    ]
}

fn whiteouts() -> Vec<Case> {
    let names = [
        "a/.wh.",
        "a/.wh..",
        "a/.wh...",
        ".wh..",
        ".wh...",
        ".wh.a/x",
        "a/.wh.b/../../x",
    ];
    let refused = names.map(|name| {
        case(
            "a whiteout that names no name",
            Refused,
            &[folder("a/"), file(name, "")],
        )
    });
    let full = case("a whiteout with content", Refused, &[file(".wh.a", "x")]);
    let upwards = case("a whiteout above the root", Refused, &[file("../.wh.victim", "")]);
    refused.into_iter().chain([full, upwards]).collect()
}

/// A header of that kind and size with nothing behind it.
fn bomb(flag: u8, size: &[u8; 12]) -> Vec<u8> {
    let mut bytes = archive(&[Raw {
        flag,
        path: "x",
        ..Raw::default()
    }]);
    bytes[124..136].copy_from_slice(size);
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    bytes
}

fn sizes() -> Vec<Case> {
    let inner = archive(&[file("smuggled", "owned")]);
    let told = inner.len().to_string();
    let hidden = Raw {
        pax: &[("size", told.as_bytes())],
        content: &inner,
        ..file("outer", "")
    };
    // The header says nothing, the extension tells: who believes the header meets the inner entry.
    let mut desync = archive(&[hidden]);
    desync[1024 + 124..1024 + 136].copy_from_slice(b"00000000000\0");
    desync[1024 + 148..1024 + 156].copy_from_slice(b"        ");
    let sum: u32 = desync[1024..1536].iter().map(|byte| u32::from(*byte)).sum();
    desync[1024 + 148..1024 + 154].copy_from_slice(format!("{sum:06o}").as_bytes());
    let bytes = |name, fate, bytes| Case { name, fate, bytes };
    vec![
        bytes("CVE-2025-62518 a size told twice", Harmless, desync),
        bytes(
            "CVE-2017-14992 an extension of a terabyte",
            Refused,
            bomb(b'x', b"17777777777\0"),
        ),
        bytes(
            "CVE-2020-1702 a name of a gigabyte",
            Refused,
            bomb(b'L', b"10000000000\0"),
        ),
        bytes(
            "CVE-2023-25153 a link's name of a gigabyte",
            Refused,
            bomb(b'K', b"10000000000\0"),
        ),
        bytes(
            "CVE-2026-32766 a global extension of a gigabyte",
            Refused,
            bomb(b'g', b"10000000000\0"),
        ),
        bytes(
            "CVE-2014-9357 an archive for a helper",
            Refused,
            [&b"\xfd7zXZ\0"[..], &[7; 1024]].concat(),
        ),
        bytes("a size below nothing", Refused, bomb(b'0', &[0xff; 12])),
        bytes(
            "a file larger than its archive",
            Refused,
            bomb(b'0', b"07777777777\0"),
        ),
    ]
}

fn marks() -> Vec<Case> {
    let with = |pax| Raw { pax, ..folder("d/") };
    vec![
        case(
            "CVE-2023-0386 marks of overlays",
            Harmless,
            &[with(&[
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/victim"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.ima", b"x"),
            ])],
        ),
        case(
            "CVE-2019-14271 a library of the image",
            Harmless,
            &[folder("lib/"), file("lib/libnss_files.so.2", "not loaded")],
        ),
        case(
            "a device that means a deletion",
            Refused,
            &[Raw {
                flag: b'3',
                ..file("dev", "")
            }],
        ),
    ]
}

fn cases(outside: &Path) -> Vec<Case> {
    let outside = outside.to_str().unwrap();
    [links(outside), modes(outside), whiteouts(), sizes(), marks()]
        .into_iter()
        .flatten()
        .collect()
}

fn bind(path: &Path) -> Vec<SnapshotMount> {
    vec![SnapshotMount {
        kind: "bind".to_owned(),
        source: path.to_str().unwrap().to_owned(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
    }]
}

/// A differ, a fresh snapshot of ours, and a tree of somebody else.
fn places(state: &Path) -> (Arc<dyn Differ>, Vec<Vec<SnapshotMount>>) {
    let store = graphdrivers::open_store(state, "overlay").unwrap();
    let rooms = graphdrivers::snapshot_door(&store).unwrap();
    let key = SnapshotKey::new("n/1/x").unwrap();
    let ours = rooms.prepare(&key, None, &Labels::new()).unwrap();
    let other = state.parent().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    (graphdrivers::differ(&store).unwrap(), vec![ours, bind(&other)])
}

fn tree_of(mounts: &[SnapshotMount]) -> &Path {
    let upper = mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    Path::new(upper.unwrap_or(&mounts[0].source))
}

fn try_out(state: &Path, number: usize) -> bool {
    let outside = state.parent().unwrap().to_owned();
    let victim = outside.join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let Some(case) = cases(&outside).into_iter().nth(number) else {
        return false;
    };
    let (differ, places) = places(state);
    let before = fs::metadata(&outside).unwrap();
    for mounts in places {
        let tree = tree_of(&mounts).to_owned();
        let name = format!("{} ({})", case.name, tree.display());
        let outcome = differ.apply(&mut case.bytes.as_slice(), None, &mounts);
        match (case.fate, outcome) {
            (Refused, Err(fault)) => {
                assert_eq!(fault.kind, FaultKind::Invalid, "{name}: {}", fault.sentence());
            }
            (Refused, Ok(_)) => panic!("{name}: it was unpacked"),
            (Harmless, outcome) => {
                outcome.unwrap_or_else(|fault| panic!("{name}: {}", fault.sentence()));
            }
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{name}");
        let meta = fs::metadata(&victim).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.nlink()),
            (0o600, 0, 1),
            "{name}"
        );
        let now = fs::metadata(&outside).unwrap();
        let seen = |meta: &fs::Metadata| (meta.mode(), meta.mtime(), meta.mtime_nsec());
        assert_eq!(
            seen(&now),
            seen(&before),
            "{name}: the folder outside was touched"
        );
        assert!(!tree.join("smuggled").exists(), "{name}");
        no_marks(&tree, &name);
    }
    true
}

/// The kernel's own attributes never come from an archive.
fn no_marks(tree: &Path, name: &str) {
    let keys = kernel::fsutil::list_xattrs(&tree.join("d")).unwrap_or_default();
    assert!(
        keys.iter().all(|key| !key.to_string_lossy().contains("overlay")),
        "{name}: {keys:?}"
    );
}

#[test]
fn every_archive_that_is_made_to_break_out_is_contained() {
    let mut number = 0;
    loop {
        let mut more = false;
        alone(|state| more = try_out(state, number));
        if !more {
            break;
        }
        number += 1;
    }
    assert_eq!(number, 31, "how many archives were tried");
}

#[test]
fn ids_from_outside_name_no_files() {
    for id in ["", "..", "../x", "a/b", "/etc", "a\0b"] {
        assert!(LayerId::new(id).is_err(), "CVE-2014-9358: {id:?}");
    }
}

/// A blob that looks around while it is read.
struct Spy<'a> {
    bytes: &'a [u8],
    below: &'a Path,
    seen: usize,
}

impl Read for Spy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for entry in fs::read_dir("/proc/self/fd")?.flatten() {
            let number = entry.file_name().into_string().unwrap();
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            if target.starts_with(self.below) {
                let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
                    continue;
                };
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(
                    flags & 0o2_000_000 != 0,
                    "CVE-2015-3627: {} is inherited",
                    target.display()
                );
                self.seen += 1;
            }
        }
        let length = buffer.len().min(4096);
        self.bytes.read(&mut buffer[..length])
    }
}

#[test]
fn no_descriptor_is_left_to_a_program_that_is_started_meanwhile() {
    alone(|state| {
        let (differ, places) = places(state);
        let content = "x".repeat(2 << 20);
        let bytes = archive(&[folder("d/"), file("d/f", &content), file("g", &content)]);
        let mut spy = Spy {
            bytes: &bytes,
            below: state,
            seen: 0,
        };
        differ.apply(&mut spy, None, &places[0]).unwrap();
        assert!(spy.seen > 0, "nothing was looked at");
    });
}
