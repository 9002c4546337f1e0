//! containerd's door over a store that waits, breaks and refuses: what its callers hear.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_api::graph::Usage;
use plugin_api::server::{Plugin, bind, serve};
use plugin_api::snapshot::{LabelChange, Labels, SnapshotInfo, SnapshotKey, SnapshotMount, Snapshotter};
use plugin_api::snapshot_client::SnapshotClient;
use plugin_api::{Fault, FaultKind};
use tokio::sync::oneshot;

/// A store whose answers depend on the key.
struct Moody;

const KINDS: [FaultKind; 12] = [
    FaultKind::NotFound,
    FaultKind::AlreadyExists,
    FaultKind::Invalid,
    FaultKind::InUse,
    FaultKind::WrongState,
    FaultKind::Unsupported,
    FaultKind::Exhausted,
    FaultKind::Unavailable,
    FaultKind::Timeout,
    FaultKind::Conflict,
    FaultKind::Corrupt,
    FaultKind::Internal,
];

impl Snapshotter for Moody {
    fn prepare(
        &self,
        _: &SnapshotKey,
        _: Option<&SnapshotKey>,
        _: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        panic!("a defect")
    }

    fn view(
        &self,
        _: &SnapshotKey,
        _: Option<&SnapshotKey>,
        _: &Labels,
    ) -> Result<Vec<SnapshotMount>, Fault> {
        Ok(vec![SnapshotMount {
            kind: "bind".to_owned(),
            source: "/s".to_owned(),
            options: vec!["ro".to_owned()],
        }])
    }

    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<SnapshotMount>, Fault> {
        Err(Fault::not_found(format!("snapshot {key} does not exist")))
    }

    fn commit(&self, _: &SnapshotKey, _: &SnapshotKey, _: &Labels) -> Result<(), Fault> {
        Ok(())
    }

    fn remove(&self, key: &SnapshotKey) -> Result<(), Fault> {
        let kind = KINDS.iter().find(|kind| kind.label() == key.as_str());
        Err(Fault::new(*kind.unwrap(), "as asked for"))
    }

    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo, Fault> {
        Err(Fault::not_found(key.as_str()))
    }

    fn update(&self, key: &SnapshotKey, _: &LabelChange) -> Result<SnapshotInfo, Fault> {
        self.stat(key)
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>, Fault> {
        Ok(Vec::new())
    }

    fn usage(&self, _: &SnapshotKey) -> Result<Usage, Fault> {
        std::thread::sleep(Duration::from_millis(400));
        Ok(Usage { bytes: 7, inodes: 1 })
    }

    fn cleanup(&self) -> Result<(), Fault> {
        Ok(())
    }
}

struct Served {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    _home: tempfile::TempDir,
}

fn served() -> Served {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s.sock");
    let bound = bind(&socket).unwrap();
    let plugin = Plugin {
        snapshot: Some(Arc::new(Moody)),
        ..Plugin::default()
    };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let shutdown = async { drop(stopped.await) };
        runtime
            .block_on(serve(vec![(bound, plugin)], shutdown, Duration::from_secs(10)))
            .unwrap();
    });
    Served {
        socket,
        stop,
        thread,
        _home: home,
    }
}

fn key(text: &str) -> SnapshotKey {
    SnapshotKey::new(text).unwrap()
}

#[test]
fn every_kind_of_fault_has_a_code_of_its_own_but_two() {
    let served = served();
    let client = SnapshotClient::connect(&served.socket, None).unwrap();
    for kind in KINDS {
        let fault = client.remove(&key(kind.label())).unwrap_err();
        let expected = if kind == FaultKind::InUse {
            FaultKind::WrongState
        } else {
            kind
        };
        assert_eq!(fault.kind, expected);
        assert_eq!(fault.message, "as asked for");
    }
}

#[test]
fn a_panic_is_told_and_the_connection_lives_on() {
    let served = served();
    let client = SnapshotClient::connect(&served.socket, Some("moby")).unwrap();
    let fault = client.prepare(&key("a"), None, &Labels::new()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Internal);
    assert_eq!(client.view(&key("a"), None, &Labels::new()).unwrap().len(), 1);
    let fault = client.mounts(&key("a\nb")).unwrap_err();
    assert_eq!(fault.message, "snapshot \"a\\nb\" does not exist");
}

#[test]
fn a_call_under_way_is_answered_when_the_server_stops() {
    let served = served();
    let client = SnapshotClient::connect(&served.socket, None).unwrap();
    client.cleanup().unwrap();
    let call = std::thread::spawn(move || client.usage(&key("slow")));
    std::thread::sleep(Duration::from_millis(150));
    served.stop.send(()).unwrap();
    assert_eq!(call.join().unwrap().unwrap().bytes, 7);
    served.thread.join().unwrap();
    assert!(!served.socket.exists());
}

#[test]
fn who_speaks_no_grpc_is_hung_up_on_and_the_next_one_is_served() {
    let served = served();
    for words in [
        &b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 300],
    ] {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(words).unwrap();
        let mut answer = Vec::new();
        // Reset or ended, but not kept waiting.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    let client = SnapshotClient::connect(&served.socket, None).unwrap();
    assert_eq!(client.list().unwrap(), []);
}
