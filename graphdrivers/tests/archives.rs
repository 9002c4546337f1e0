//! Archives from outside: the hostile ones stay in their layer, the honest ones come out as GNU tar has
//! them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{Raw, alone, archive, diff, file, fill, folder, id, layer, link, open, picture};
use plugin_api::FaultKind;
use plugin_api::graph::GraphPlugin;

fn upper(plugin: &dyn GraphPlugin, name: &str) -> PathBuf {
    PathBuf::from(&plugin.metadata(&id(name)).unwrap()["UpperDir"])
}

/// Applies over a small base and gives the layer's own tree; nothing outside may have changed.
fn try_apply(state: &Path, entries: &[Raw<'_>]) -> Result<PathBuf, plugin_api::Fault> {
    let outside = state.parent().unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    fs::set_permissions(outside.join("victim"), fs::Permissions::from_mode(0o600)).unwrap();
    let plugin = open(state);
    fill(
        &*plugin,
        "base",
        "",
        &archive(&[folder("etc/"), file("etc/passwd", "root")]),
    )
    .unwrap();
    let result = fill(&*plugin, "x", "base", &archive(entries));
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    let meta = fs::metadata(outside.join("victim")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.nlink()), (0o600, 0, 1));
    let names = fs::read_dir(outside).unwrap().count();
    assert_eq!(names, 2, "something appeared outside");
    let base = upper(&*plugin, "base");
    assert_eq!(fs::read_to_string(base.join("etc/passwd")).unwrap(), "root");
    let tree = upper(&*plugin, "x");
    if result.is_err() {
        assert_eq!(
            fs::read_dir(&tree).unwrap().count(),
            0,
            "a refused archive left something"
        );
    }
    result.map(|_| tree)
}

#[test]
fn names_that_lead_upwards_are_refused() {
    for path in ["../victim", "a/../../victim", "/../victim", "a/..", ".."] {
        alone(|state| {
            let fault = try_apply(state, &[file("a", ""), file(path, "owned")]).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid, "{path}");
        });
    }
}

#[test]
fn an_absolute_name_is_one_of_the_layer() {
    alone(|state| {
        let path = state
            .parent()
            .unwrap()
            .join("victim")
            .to_string_lossy()
            .into_owned();
        let tree = try_apply(state, &[file(&path, "mine")]).unwrap();
        assert_eq!(fs::read_to_string(tree.join(&path[1..])).unwrap(), "mine");
    });
}

#[test]
fn links_lead_nowhere_outside() {
    alone(|state| {
        let outside = state.parent().unwrap().to_string_lossy().into_owned();
        let entries = [link(b'2', "way", &outside), file("way/victim", "owned")];
        let fault = try_apply(state, &entries).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid, "{}", fault.sentence());
    });
    alone(|state| {
        let entries = [
            link(b'2', "up", "../../../../../../.."),
            folder("etc/"),
            file("up/etc/new", "inside"),
        ];
        let tree = try_apply(state, &entries).unwrap();
        assert_eq!(fs::read_to_string(tree.join("etc/new")).unwrap(), "inside");
    });
    alone(|state| {
        // A file written over a link replaces the link, and its mode goes to the file.
        let victim = state
            .parent()
            .unwrap()
            .join("victim")
            .to_string_lossy()
            .into_owned();
        let entries = [
            link(b'2', "f", &victim),
            Raw {
                mode: 0o777,
                ..file("f", "mine")
            },
        ];
        let tree = try_apply(state, &entries).unwrap();
        assert!(fs::symlink_metadata(tree.join("f")).unwrap().is_file());
    });
    alone(|state| {
        // Neither does a folder's late time or mode follow a link that took its place.
        let outside = state.parent().unwrap().to_string_lossy().into_owned();
        let entries = [
            Raw {
                mode: 0o777,
                ..folder("d/")
            },
            link(b'2', "d", &outside),
        ];
        let tree = try_apply(state, &entries).unwrap();
        assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_symlink());
        assert_ne!(fs::metadata(state.parent().unwrap()).unwrap().mtime(), 10);
    });
    alone(|state| {
        let entries = [link(b'2', "me", "/proc/self/root"), file("me/victim", "owned")];
        assert!(try_apply(state, &entries).is_err());
    });
}

#[test]
fn hard_links_reach_only_files_of_the_layer() {
    for target in [
        "../victim",
        "/etc/shadow",
        "../../../../../etc/shadow",
        "etc",
        ".",
        "nothing",
    ] {
        alone(|state| {
            let entries = [folder("etc/"), link(b'1', "hard", target)];
            let fault = try_apply(state, &entries).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid, "{target}: {}", fault.sentence());
        });
    }
    alone(|state| {
        // Through a link: the link itself gets a second name, and no mode follows it.
        let victim = state
            .parent()
            .unwrap()
            .join("victim")
            .to_string_lossy()
            .into_owned();
        let hard = Raw {
            mode: 0o777,
            ..link(b'1', "hard", "soft")
        };
        let tree = try_apply(state, &[link(b'2', "soft", &victim), hard]).unwrap();
        assert!(fs::symlink_metadata(tree.join("hard")).unwrap().is_symlink());
    });
}

#[test]
fn a_hard_link_to_a_file_below_copies_it_up() {
    alone(|state| {
        let tree = try_apply(state, &[link(b'1', "hard", "etc/passwd")]).unwrap();
        assert_eq!(fs::read_to_string(tree.join("hard")).unwrap(), "root");
        let ino = |path| fs::metadata(tree.join(path)).unwrap().ino();
        assert_eq!(ino("hard"), ino("etc/passwd"));
    });
}

#[test]
fn whiteouts_hide_what_lies_below_and_nothing_else() {
    alone(|state| {
        let entries = [
            file("etc/.wh.passwd", ""),
            file(".wh.nothing", ""),
            file("kept", "k"),
            file(".wh.kept", ""),
            file(".wh.back", ""),
            folder("back/"),
            folder("also/"),
            file(".wh.also", ""),
            folder("opq/"),
            file("opq/.wh..wh..opq", ""),
            file(".wh..wh.plnk/1", "aufs"),
            file(".wh..wh.aufs", ""),
        ];
        let tree = try_apply(state, &entries).unwrap();
        let gone = fs::symlink_metadata(tree.join("etc/passwd")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(fs::read_to_string(tree.join("kept")).unwrap(), "k");
        for opaque in ["back", "also", "opq"] {
            let value = kernel::fsutil::get_xattr(&tree.join(opaque), "trusted.overlay.opaque".as_ref());
            assert_eq!(value.unwrap().as_deref(), Some(&b"y"[..]), "{opaque}");
        }
        let mut names: Vec<String> = fs::read_dir(&tree)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["also", "back", "etc", "kept", "nothing", "opq"]);
    });
    for path in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.dir/file"] {
        alone(|state| {
            let fault = try_apply(state, &[file(path, "")]).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid, "{path}");
        });
    }
    alone(|state| {
        let fault = try_apply(state, &[link(b'2', ".wh.etc", "/")]).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
    });
}

#[test]
fn the_kernels_own_marks_do_not_come_from_archives() {
    alone(|state| {
        let entries = [Raw {
            pax: &[
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.selinux", b"x"),
                ("SCHILY.xattr.user.kept", b"yes"),
            ],
            ..folder("etc/")
        }];
        let tree = try_apply(state, &entries).unwrap();
        assert_eq!(
            kernel::fsutil::list_xattrs(&tree.join("etc")).unwrap(),
            ["user.kept"]
        );
    });
    alone(|state| {
        let fault = try_apply(
            state,
            &[Raw {
                flag: b'3',
                ..file("zero", "")
            }],
        )
        .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
    });
}

#[test]
fn damaged_archives_are_refused() {
    let good = archive(&[folder("d/"), file("d/f", &"x".repeat(600))]);
    let mut sum = good.clone();
    sum[0] ^= 1;
    let mut kind = good.clone();
    kind[156] = b'Q';
    let cut_header = good[..700].to_vec();
    let cut_content = good[..1300].to_vec();
    let huge = Raw {
        pax: &[("size", b"18446744073709551615")],
        ..file("f", "")
    };
    for bytes in [sum, kind, cut_header, cut_content, archive(&[huge])] {
        alone(|state| {
            let plugin = open(state);
            assert!(fill(&*plugin, "x", "", &bytes).is_err());
            assert_eq!(fs::read_dir(upper(&*plugin, "x")).unwrap().count(), 0);
        });
    }
}

#[test]
fn a_pax_size_wins_so_that_nothing_is_smuggled_in() {
    // The header says no content, the extension says one block, which looks like an entry.
    let hidden = archive(&[file("smuggled", "")]);
    let outer = Raw {
        path: "outer",
        pax: &[("size", b"512")],
        ..Raw::default()
    };
    let mut bytes = archive(&[outer]);
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(&hidden[..512]);
    bytes.extend([0; 1024]);
    alone(|state| {
        let plugin = open(state);
        assert_eq!(fill(&*plugin, "x", "", &bytes).unwrap(), 512);
        assert!(!upper(&*plugin, "x").join("smuggled").exists());
    });
}

#[test]
fn half_an_archive_at_a_death_leaves_an_empty_layer() {
    /// Copies what a death would leave, in the midst of the archive.
    struct Death<'a> {
        bytes: &'a [u8],
        state: &'a Path,
        copy: &'a Path,
    }
    impl std::io::Read for Death<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.bytes.len() < 2048 && !self.copy.exists() {
                run(
                    "cp",
                    &["-a", self.state.to_str().unwrap(), self.copy.to_str().unwrap()],
                );
            }
            let length = buffer.len().min(self.bytes.len()).min(512);
            buffer[..length].copy_from_slice(&self.bytes[..length]);
            self.bytes = &self.bytes[length..];
            Ok(length)
        }
    }
    alone(|state| {
        let copy = state.with_file_name("copy");
        let plugin = open(state);
        plugin.create(&layer("x", "")).unwrap();
        let bytes = archive(&[file("a", "a"), file("b", "b"), file("c", "c")]);
        let mut death = Death {
            bytes: &bytes,
            state,
            copy: &copy,
        };
        plugin.apply_diff(&id("x"), None, &mut death).unwrap();
        drop(plugin);
        let plugin = open(&copy);
        assert!(plugin.exists(&id("x")).unwrap());
        assert_eq!(fs::read_dir(upper(&*plugin, "x")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(copy.join("staging")).unwrap().count(), 0);
        assert_eq!(fill(&*plugin, "x", "", &bytes).unwrap(), 3);
    });
}

#[expect(clippy::disallowed_methods, reason = "a test compares with another program")]
fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn honest_tree(root: &Path) {
    fs::create_dir_all(root.join("bin/deep/er")).unwrap();
    fs::create_dir_all(root.join("l".repeat(120)).join("m".repeat(120))).unwrap();
    fs::write(root.join("l".repeat(120)).join("m".repeat(120)).join("f"), "long").unwrap();
    fs::write(root.join("bin/su"), vec![1; 70_000]).unwrap();
    std::os::unix::fs::chown(root.join("bin/su"), Some(12), Some(3_000_000)).unwrap();
    fs::set_permissions(root.join("bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("bin/deep"), fs::Permissions::from_mode(0o2570)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::hard_link(root.join("bin/su"), root.join("zu")).unwrap();
    std::os::unix::fs::symlink("../..//etc", root.join("bin/out")).unwrap();
    std::os::unix::fs::symlink("k".repeat(150), root.join("longlink")).unwrap();
    let folder = kernel::fsutil::Folder::open(root).unwrap();
    folder
        .make_node("fifo".as_ref(), kernel::fsutil::Kind::Fifo, 0)
        .unwrap();
    let device = kernel::fsutil::device(259, 300_000);
    folder
        .make_node("disk".as_ref(), kernel::fsutil::Kind::BlockDevice, device)
        .unwrap();
    let holes = fs::File::create(root.join("holes")).unwrap();
    for number in 0..40_u64 {
        let at = number * (1 << 18);
        std::os::unix::fs::FileExt::write_all_at(&holes, b"data", at).unwrap();
    }
    holes.set_len(11 << 20).unwrap();
    kernel::fsutil::set_xattr(&root.join("empty"), "user.binary".as_ref(), b"a\n\0=b").unwrap();
    let old = kernel::fsutil::Time {
        seconds: 86_400,
        nanos: 500,
    };
    folder.set_times("bin".as_ref(), old, old).unwrap();
}

#[test]
fn gnu_archives_come_out_as_gnu_tar_has_them() {
    let forms: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--xattrs", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
    ];
    for form in forms {
        alone(|state| {
            let base = state.parent().unwrap();
            let path = |name: &str| base.join(name).to_string_lossy().into_owned();
            let (tree, tar, theirs) = (path("tree"), path("a.tar"), path("theirs"));
            fs::create_dir(&tree).unwrap();
            fs::create_dir(&theirs).unwrap();
            honest_tree(Path::new(&tree));
            run("tar", &[form, &["-C", &tree, "-cf", &tar, "."]].concat());
            run("tar", &["--xattrs", "-C", &theirs, "-xpf", &tar]);
            let plugin = open(state);
            let size = fill(&*plugin, "x", "", &fs::read(&tar).unwrap()).unwrap();
            let ours = upper(&*plugin, "x");
            assert_eq!(picture(&ours), picture(Path::new(&theirs)), "{form:?}");
            assert!(size >= (11 << 20) + 70_000);
            // And GNU tar reads what we write.
            let again = path("again");
            fs::create_dir(&again).unwrap();
            fs::write(&tar, diff(&*plugin, "x", "")).unwrap();
            run("tar", &["--xattrs", "-C", &again, "-xpf", &tar]);
            assert_eq!(picture(Path::new(&again)), picture(&ours), "{form:?}");
        });
    }
}
