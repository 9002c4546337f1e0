//! What files look like through the mounts: what was below, what was changed, what was committed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kernel::mount;
use plugin_api::FaultKind;
use plugin_api::snapshot::{Labels, Snapshotter};

use crate::common::BackEnd;
use crate::shop::{Shop, k, mode, names, option, refused, upper};

pub(crate) fn files_and_folders_of_lower_layers_are_changed_and_removed(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir_all(at.join("dir1")).unwrap();
        fs::write(at.join("dir1/one"), "1").unwrap();
        fs::write(at.join("passwd"), "old").unwrap();
    });
    s.layer("l2", "l1", |at| {
        fs::remove_dir_all(at.join("dir1")).unwrap();
        fs::write(at.join("passwd"), "new").unwrap();
    });
    s.layer("l3", "l2", |at| {
        fs::create_dir(at.join("dir1")).unwrap();
        fs::write(at.join("dir1/two"), "2").unwrap();
    });
    s.look("l2", |at| assert_eq!(names(at), ["passwd"]));
    s.look("l3", |at| {
        assert_eq!(names(&at.join("dir1")), ["two"]);
        assert_eq!(fs::read_to_string(at.join("passwd")).unwrap(), "new");
    });
    s.layer("l4", "l3", |at| fs::remove_file(at.join("dir1/two")).unwrap());
    s.look("l4", |at| assert_eq!(names(&at.join("dir1")), [""; 0]));
}

pub(crate) fn owners_and_modes_survive_a_commit(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir_all(at.join("opt")).unwrap();
        fs::write(at.join("opt/x"), "x").unwrap();
        symlink("x", at.join("opt/l")).unwrap();
    });
    s.layer("l2", "l1", |at| {
        for name in ["opt", "opt/x"] {
            std::os::unix::fs::chown(at.join(name), Some(7), Some(8)).unwrap();
        }
        std::os::unix::fs::lchown(at.join("opt/l"), Some(9), None).unwrap();
        fs::set_permissions(at.join("opt"), PermissionsExt::from_mode(0o1770)).unwrap();
    });
    s.layer("l3", "l2", |at| {
        fs::write(at.join("opt/y"), "").unwrap();
        fs::set_permissions(at.join("opt/x"), PermissionsExt::from_mode(0o4711)).unwrap();
    });
    s.look("l3", |at| {
        let owner = |name: &str| {
            let meta = fs::symlink_metadata(at.join(name)).unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(
            (owner("opt"), owner("opt/x"), owner("opt/l")),
            ((7, 8), (7, 8), (9, 0))
        );
        assert_eq!((mode(&at.join("opt")), mode(&at.join("opt/x"))), (0o1770, 0o4711));
    });
}

pub(crate) fn the_root_folder_is_open_to_all_and_keeps_what_was_set(s: &mut Shop) {
    let mounts = s.prepare("p", "");
    s.within(&mounts, |at| assert_eq!(mode(at), 0o755));
    let mounts = s.view("v", "");
    s.within(&mounts, |at| assert_eq!((mode(at), names(at)), (0o755, vec![])));
    s.layer("l", "", |at| {
        fs::set_permissions(at, PermissionsExt::from_mode(0o711)).unwrap();
    });
    s.look("l", |at| assert_eq!(mode(at), 0o711));
    let mounts = s.prepare("q", "l");
    s.within(&mounts, |at| assert_eq!(mode(at), 0o711));
}

pub(crate) fn files_move_from_lower_layers_and_folders_are_renamed_by_copies(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir(at.join("dir")).unwrap();
        fs::write(at.join("dir/f"), "f").unwrap();
        fs::write(at.join("g"), "g").unwrap();
    });
    s.layer("l2", "l1", |at| {
        fs::rename(at.join("dir/f"), at.join("dir/h")).unwrap();
        fs::rename(at.join("g"), at.join("dir/g")).unwrap();
        match fs::rename(at.join("dir"), at.join("new")) {
            Ok(()) => fs::rename(at.join("new"), at.join("dir")).unwrap(),
            // A folder of a lower layer is on another file system to overlay, and tools copy then.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::CrossesDevices);
                assert_eq!(s.back_end, BackEnd::Overlay);
            }
        }
        fs::create_dir(at.join("own")).unwrap();
        fs::rename(at.join("own"), at.join("named")).unwrap();
    });
    s.look("l2", |at| {
        assert_eq!(names(at), ["dir", "named"]);
        assert_eq!(names(&at.join("dir")), ["g", "h"]);
        assert_eq!(fs::read_to_string(at.join("dir/h")).unwrap(), "f");
    });
}

pub(crate) fn a_view_takes_no_writes_and_is_never_committed(s: &mut Shop) {
    s.layer("l1", "", |at| fs::write(at.join("f"), "f").unwrap());
    s.layer("l2", "l1", |at| fs::write(at.join("g"), "g").unwrap());
    for (key, parent) in [("v0", ""), ("v1", "l1"), ("v2", "l2")] {
        let mounts = s.view(key, parent);
        assert_eq!(s.client.mounts(&k(key)).unwrap(), mounts);
        s.within(&mounts, |at| {
            let error = fs::write(at.join("new"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
        let committed = s.client.commit(&k("n"), &k(key), &Labels::new());
        assert_eq!(refused(committed), FaultKind::WrongState);
    }
}

fn all_are_there(at: &Path) {
    assert_eq!(names(at).len(), 129);
    assert_eq!(fs::read_to_string(at.join("same")).unwrap(), "127");
}

pub(crate) fn a_hundred_and_twenty_eight_layers_are_mounted(s: &mut Shop) {
    let mut parent = String::new();
    for number in 0..128 {
        let name = format!("layer {number}");
        let mounts = s.prepare("making", &parent);
        // Written where containerd's own differ writes: 128 layers are too long for one page of options.
        fs::write(upper(&mounts).join(format!("f{number:03}")), number.to_string()).unwrap();
        fs::write(upper(&mounts).join("same"), number.to_string()).unwrap();
        s.commit(&name, "making");
        parent = name;
    }
    let mounts = s.prepare("top", &parent);
    if mounts[0].kind == "bind" {
        s.within(&mounts, all_are_there);
        return;
    }
    let lowers = option(&mounts, "lowerdir=");
    let lowers: Vec<PathBuf> = lowers.split(':').map(PathBuf::from).collect();
    // All below one folder, so that clients can shorten them.
    let layers = s.base.join("state/layers");
    assert!(lowers.iter().all(|lower| lower.starts_with(&layers)));
    let overlay = mount::Overlay {
        lowers: &lowers,
        upper: None,
        label: None,
    };
    let target = s.base.join("mnt");
    kernel::fsutil::make_dir(&target, 0o755).unwrap();
    mount::mount_overlay(&overlay, &target).unwrap();
    all_are_there(&target);
    mount::unmount(&target).unwrap();
}

pub(crate) fn sockets_and_open_files_live_on_through_copies(s: &mut Shop) {
    s.layer("l1", "", |at| {
        drop(std::os::unix::net::UnixListener::bind(at.join("s")).unwrap());
        fs::write(at.join("f"), "lower").unwrap();
    });
    let mounts = s.prepare("p", "l1");
    s.within(&mounts, |at| {
        assert!(
            fs::symlink_metadata(at.join("s"))
                .unwrap()
                .file_type()
                .is_socket()
        );
        let open = fs::File::open(at.join("f")).unwrap();
        let inode = fs::metadata(at.join("f")).unwrap().ino();
        fs::write(at.join("f"), "upper").unwrap();
        assert_eq!(open.metadata().unwrap().ino(), inode);
        fs::set_permissions(at.join("f"), PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(mode(&at.join("f")), 0o600);
    });
    s.commit("l2", "p");
    s.look("l2", |at| {
        assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "upper");
    });
}

pub(crate) fn a_file_deleted_in_one_layer_stays_deleted_in_the_next(s: &mut Shop) {
    s.layer("l1", "", |at| {
        for name in ["a", "b", "c"] {
            fs::write(at.join(name), name).unwrap();
        }
    });
    s.layer("l2", "l1", |at| fs::remove_file(at.join("a")).unwrap());
    s.layer("l3", "l2", |at| {
        fs::remove_file(at.join("b")).unwrap();
        fs::write(at.join("d"), "d").unwrap();
    });
    s.layer("l4", "l3", |at| fs::write(at.join("a"), "again").unwrap());
    s.look("l3", |at| assert_eq!(names(at), ["c", "d"]));
    s.look("l4", |at| {
        assert_eq!(names(at), ["a", "c", "d"]);
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "again");
    });
    s.look("l1", |at| assert_eq!(names(at), ["a", "b", "c"]));
}

pub(crate) fn folders_keep_their_inode_while_they_are_written_into(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir_all(at.join("dir/sub")).unwrap();
        fs::write(at.join("dir/f"), "f").unwrap();
    });
    let mounts = s.prepare("p", "l1");
    s.within(&mounts, |at| {
        let inode = |name: &str| fs::metadata(at.join(name)).unwrap().ino();
        let before = (inode("dir"), inode("dir/sub"));
        fs::write(at.join("dir/sub/new"), "").unwrap();
        fs::set_permissions(at.join("dir"), PermissionsExt::from_mode(0o711)).unwrap();
        assert_eq!((inode("dir"), inode("dir/sub")), before);
        fs::rename(at.join("dir/f"), at.join("dir/sub/f")).unwrap();
        assert_eq!((inode("dir"), inode("dir/sub")), before);
    });
}

pub(crate) fn a_file_kept_open_for_writing_is_the_file_that_is_read(s: &mut Shop) {
    s.layer("l1", "", |at| fs::write(at.join("log"), "lower ").unwrap());
    let mounts = s.prepare("p", "l1");
    s.within(&mounts, |at| {
        let path = at.join("log");
        let mut log = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let inode = log.metadata().unwrap().ino();
        log.write_all(b"one ").unwrap();
        let mut reader = fs::File::open(&path).unwrap();
        log.write_all(b"two").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "lower one two");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        fs::rename(&path, at.join("log.1")).unwrap();
        log.write_all(b" three").unwrap();
        let moved = fs::read_to_string(at.join("log.1")).unwrap();
        assert_eq!(moved, "lower one two three");
    });
}

pub(crate) fn the_folder_one_stands_in_keeps_its_name(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("a/b/f"), "f").unwrap();
    });
    let mounts = s.prepare("p", "l1");
    s.within(&mounts, |at| {
        // The folder of this thread alone: a mount namespace of one's own brings it.
        std::env::set_current_dir(at.join("a/b")).unwrap();
        fs::write("f", "changed").unwrap();
        fs::write("g", "new").unwrap();
        assert_eq!(std::env::current_dir().unwrap(), at.join("a/b"));
        fs::rename("g", "../g").unwrap();
        assert_eq!(fs::read_to_string("../g").unwrap(), "new");
        assert_eq!(std::env::current_dir().unwrap(), at.join("a/b"));
        std::env::set_current_dir("/").unwrap();
    });
}

pub(crate) fn modes_are_changed_by_name_and_through_open_files(s: &mut Shop) {
    s.layer("l1", "", |at| {
        fs::create_dir(at.join("dir")).unwrap();
        for name in ["dir/f", "dir/g"] {
            fs::write(at.join(name), name).unwrap();
            fs::set_permissions(at.join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
    });
    s.layer("l2", "l1", |at| {
        fs::set_permissions(at.join("dir"), PermissionsExt::from_mode(0o2750)).unwrap();
        fs::set_permissions(at.join("dir/f"), PermissionsExt::from_mode(0o4755)).unwrap();
        let open = fs::OpenOptions::new().write(true).open(at.join("dir/g")).unwrap();
        open.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(mode(&at.join("dir/g")), 0o600);
    });
    s.look("l2", |at| {
        let found = ["dir", "dir/f", "dir/g"].map(|name| mode(&at.join(name)));
        assert_eq!(found, [0o2750, 0o4755, 0o600]);
        assert_eq!(fs::read_to_string(at.join("dir/g")).unwrap(), "dir/g");
    });
    s.look("l1", |at| assert_eq!(mode(&at.join("dir/f")), 0o644));
}
