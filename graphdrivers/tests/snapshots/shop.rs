//! A snapshotter behind its socket, and containerd's part beside it: the one who executes mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::mount::{self, Limits};
use plugin_api::server::{Plugin, bind, serve};
use plugin_api::snapshot::{Labels, SnapshotInfo, SnapshotKey, SnapshotMount, Snapshotter};
use plugin_api::snapshot_client::SnapshotClient;
use plugin_api::{Fault, FaultKind};
use tokio::sync::oneshot;

use crate::common::BackEnd;

/// A snapshotter behind its socket, and a connection to it.
pub(crate) struct Shop {
    pub(crate) back_end: BackEnd,
    pub(crate) client: SnapshotClient,
    /// containerd's collector of garbage names no namespace.
    pub(crate) collector: SnapshotClient,
    pub(crate) base: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shop {
    pub(crate) fn open(back_end: BackEnd, state: &Path) -> Self {
        let base = state.parent().unwrap().to_owned();
        let store = back_end.snapshots(state).unwrap();
        let plugin = Plugin {
            snapshot: Some(store),
            ..Plugin::default()
        };
        let socket = base.join("run/s.sock");
        let bound = bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(serve(vec![(bound, plugin)], shutdown, Duration::from_secs(5)))
                .unwrap();
        });
        Self {
            back_end,
            client: SnapshotClient::connect(&socket, Some("default")).unwrap(),
            collector: SnapshotClient::connect(&socket, None).unwrap(),
            base,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn close(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }

    /// Ends the snapshotter and begins it anew over what it kept.
    pub(crate) fn reopen(&mut self) {
        self.close();
        *self = Self::open(self.back_end, &self.base.join("state"));
    }

    /// Mounts what is described, works there, unmounts.
    pub(crate) fn within<T>(&self, mounts: &[SnapshotMount], work: impl FnOnce(&Path) -> T) -> T {
        let target = self.base.join("mnt");
        kernel::fsutil::make_dir(&target, 0o755).unwrap();
        let [one] = mounts else {
            panic!("one mount was due, not {mounts:?}");
        };
        execute(one, &target);
        let result = work(&target);
        assert!(mount::unmount(&target).unwrap());
        result
    }

    pub(crate) fn prepare(&self, key: &str, parent: &str) -> Vec<SnapshotMount> {
        self.client
            .prepare(&k(key), maybe(parent).as_ref(), &Labels::new())
            .unwrap()
    }

    pub(crate) fn view(&self, key: &str, parent: &str) -> Vec<SnapshotMount> {
        self.client
            .view(&k(key), maybe(parent).as_ref(), &Labels::new())
            .unwrap()
    }

    pub(crate) fn commit(&self, name: &str, key: &str) {
        self.client.commit(&k(name), &k(key), &Labels::new()).unwrap();
    }

    /// A committed snapshot with what `work` did.
    pub(crate) fn layer(&self, name: &str, parent: &str, work: impl FnOnce(&Path)) {
        let mounts = self.prepare("making", parent);
        self.within(&mounts, work);
        self.commit(name, "making");
    }

    /// Looks at a committed snapshot.
    pub(crate) fn look<T>(&self, name: &str, work: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.view("looking", name);
        let result = self.within(&mounts, work);
        self.client.remove(&k("looking")).unwrap();
        result
    }

    pub(crate) fn remove(&self, key: &str) {
        self.collector.remove(&k(key)).unwrap();
    }

    pub(crate) fn stat(&self, key: &str) -> SnapshotInfo {
        self.client.stat(&k(key)).unwrap()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.close();
    }
}

/// As mount(8) would read the words.
fn execute(one: &SnapshotMount, target: &Path) {
    let has = |word: &str| one.options.iter().any(|option| option == word);
    let limits = Limits {
        read_only: has("ro"),
        ..Limits::default()
    };
    if one.kind == "bind" {
        mount::bind(Path::new(&one.source), target, limits).unwrap();
    } else {
        let data = one.options.join(",");
        mount::mount_filesystem(&one.kind, &one.source, target, limits, &data).unwrap();
    }
}

pub(crate) fn k(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

pub(crate) fn maybe(parent: &str) -> Option<SnapshotKey> {
    (!parent.is_empty()).then(|| k(parent))
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> FaultKind {
    outcome.unwrap_err().kind
}

pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn one(key: &str, value: &str) -> Labels {
    [(key.to_owned(), value.to_owned())].into()
}

pub(crate) fn option(mounts: &[SnapshotMount], key: &str) -> String {
    let mut options = mounts[0].options.iter();
    options
        .find_map(|option| option.strip_prefix(key))
        .unwrap()
        .to_owned()
}

/// Where a differ writes without a mount: the upper folder of an overlay, or the folder that is bound.
pub(crate) fn upper(mounts: &[SnapshotMount]) -> PathBuf {
    match mounts[0].kind.as_str() {
        "bind" => PathBuf::from(&mounts[0].source),
        _ => option(mounts, "upperdir=").into(),
    }
}
