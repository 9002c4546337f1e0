//! containerd's way: prepare, write where the mounts say, commit, view, remove.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::mount::{self, Limits};
use plugin_api::FaultKind;
use plugin_api::snapshot::{Labels, SnapshotKey, SnapshotKind, SnapshotMount, Snapshotter};

use crate::Scene;
use crate::common::{BackEnd, left_in, picture};
use crate::cuts::{Ledger, Outcome};
use crate::disk::Disk;

pub(crate) struct Containerd;

fn k(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

/// Mounts as containerd does, beside the state.
fn within<T>(state: &Path, mounts: &[SnapshotMount], work: impl FnOnce(&Path) -> T) -> T {
    let target = state.parent().unwrap().with_file_name("mnt");
    kernel::fsutil::make_dir(&target, 0o755).unwrap();
    let one = &mounts[0];
    if one.kind == "bind" {
        mount::bind(Path::new(&one.source), &target, Limits::default()).unwrap();
    } else {
        let data = one.options.join(",");
        mount::mount_filesystem(&one.kind, &one.source, &target, Limits::default(), &data).unwrap();
    }
    let result = work(&target);
    assert!(mount::unmount(&target).unwrap());
    result
}

fn upper(mounts: &[SnapshotMount]) -> PathBuf {
    let upper = mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(upper.unwrap_or(&mounts[0].source))
}

fn look(store: &dyn Snapshotter, state: &Path, name: &str) -> Outcome {
    match store.stat(&k(name)) {
        Err(fault) if fault.kind == FaultKind::NotFound => return Outcome::Absent,
        other => assert_eq!(other.unwrap().kind, SnapshotKind::Committed),
    }
    let mounts = store.view(&k("looking"), Some(&k(name)), &Labels::new()).unwrap();
    let tree = within(state, &mounts, picture);
    store.remove(&k("looking")).unwrap();
    Outcome::Whole(tree)
}

/// One containerd at work, and the ledger in which it is written down.
struct Client<'a> {
    store: Arc<dyn Snapshotter>,
    state: PathBuf,
    disk: &'a Disk,
    ledger: &'a mut Ledger,
}

impl Client<'_> {
    /// `by_mount`: as a container writes; else as containerd's differ does, behind the mount's back.
    fn layer(&mut self, name: &str, parent: &str, by_mount: bool, work: impl FnOnce(&Path)) {
        let (store, key) = (Arc::clone(&self.store), k(&format!("making {name}")));
        let below = (!parent.is_empty()).then(|| k(parent));
        let mounts = store.prepare(&key, below.as_ref(), &Labels::new()).unwrap();
        if by_mount {
            within(&self.state, &mounts, work);
        } else {
            work(&upper(&mounts));
        }
        let commit = || store.commit(&k(name), &key, &Labels::new()).unwrap();
        let seen = || look(&*store, &self.state, name);
        self.ledger.say_and_look(self.disk, name, commit, seen);
    }

    fn remove(&mut self, name: &str) {
        let store = Arc::clone(&self.store);
        self.ledger.say(self.disk, name, || {
            store.remove(&k(name)).unwrap();
            Outcome::Absent
        });
    }
}

impl Scene for Containerd {
    fn act(&self, back_end: BackEnd, state: &Path, disk: &Disk, ledger: &mut Ledger) {
        let store = back_end.snapshots(state).unwrap();
        let state = state.to_owned();
        let mut client = Client {
            store,
            state,
            disk,
            ledger,
        };
        for round in 0..4 {
            let [base, next] = ["b", "n"].map(|name| format!("{name}{round}"));
            client.layer(&base, "", false, |at| {
                fs::create_dir(at.join("dir")).unwrap();
                for n in 0..30 {
                    fs::write(at.join(format!("dir/{n}")), vec![b'x'; n * 700]).unwrap();
                }
            });
            client.layer(&next, &base, round < 2, |at| {
                fs::create_dir_all(at.join("dir")).unwrap();
                fs::write(at.join("dir/2"), "changed").unwrap();
                if round < 2 {
                    fs::remove_file(at.join("dir/1")).unwrap();
                }
                fs::create_dir(at.join("new")).unwrap();
                fs::write(at.join("new/large"), vec![7; 300_000]).unwrap();
            });
            if round % 2 == 1 {
                client.remove(&next);
                client.remove(&base);
                client.store.cleanup().unwrap();
            }
        }
    }

    fn judge(&self, back_end: BackEnd, state: &Path, ledger: &Ledger, cut: usize) -> Result<(), String> {
        let store = back_end.snapshots(state).map_err(|fault| fault.sentence())?;
        // The cut may have come while somebody looked.
        let _ = store.remove(&k("looking"));
        for name in ledger.names() {
            ledger.check(name, cut, &look(&*store, state, name))?;
        }
        let mut left = store.list().map_err(|fault| fault.sentence())?;
        // Those that nothing stands upon first, until none is left.
        while !left.is_empty() {
            let before = left.len();
            for info in &left {
                let _ = store.remove(&info.key);
            }
            left = store.list().map_err(|fault| fault.sentence())?;
            if left.len() == before {
                return Err(format!("cannot be removed: {left:?}"));
            }
        }
        store.cleanup().map_err(|fault| fault.sentence())?;
        let fresh = state.with_file_name("fresh");
        kernel::fsutil::make_dir(&fresh, 0o700).unwrap();
        drop(back_end.snapshots(&fresh).unwrap());
        let count = |state: &Path| fs::read_dir(state.join("layers")).unwrap().count();
        if count(state) != count(&fresh) {
            return Err(format!("{} folders are left of no snapshot", count(state)));
        }
        for folder in ["staging", "trash"] {
            let left = left_in(&state.join(folder));
            if !left.is_empty() {
                return Err(format!("left behind: {left:?}"));
            }
        }
        Ok(())
    }
}
