//! The server's own promises, over real sockets: panics, deadlines, draining, callers that hang up.

#![allow(clippy::unwrap_used)] // a test may stop where it stumbles

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use plugin_api::client::Client;
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::server::{Plugin, bind, serve};
use plugin_api::volume::{Scope, VolumeDriver, VolumeInfo};
use plugin_api::{Done, EnginePeer, Fault, Options};

/// A driver whose volumes' names say how it behaves.
#[derive(Default)]
struct Moody {
    mounts: AtomicU64,
    unmounts: AtomicU64,
}

impl VolumeDriver for Moody {
    fn scope(&self) -> Scope {
        Scope::Local
    }
    fn create(&self, name: &VolumeName, _options: &Options) -> Result<Done, Fault> {
        assert!(name.as_str() != "panics", "the driver stumbled");
        Ok(Done::Changed)
    }
    fn remove(&self, _name: &VolumeName) -> Result<Done, Fault> {
        Ok(Done::Changed)
    }
    fn mount(&self, name: &VolumeName, _holder: &HolderId, _peer: EnginePeer) -> Result<PathBuf, Fault> {
        self.mounts.fetch_add(1, Ordering::SeqCst);
        if name.as_str() == "slow" {
            thread::sleep(Duration::from_millis(300));
        }
        Ok("/mnt/x".into())
    }
    fn unmount(&self, _name: &VolumeName, _holder: &HolderId) -> Result<Done, Fault> {
        self.unmounts.fetch_add(1, Ordering::SeqCst);
        Ok(Done::Changed)
    }
    fn get(&self, name: &VolumeName) -> Result<VolumeInfo, Fault> {
        Ok(VolumeInfo {
            name: name.clone(),
            mountpoint: None,
            created: None,
            status: BTreeMap::new(),
        })
    }
    fn list(&self) -> Result<Vec<VolumeInfo>, Fault> {
        Ok(Vec::new())
    }
}

struct Served {
    path: PathBuf,
    driver: Arc<Moody>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moody.sock");
        let bound = bind(&path).unwrap();
        let driver = Arc::new(Moody::default());
        let plugin = Plugin {
            volume: Some(driver.clone()),
            ..Plugin::default()
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let shutdown = async { drop(stopped.await) };
            runtime
                .block_on(serve(vec![(bound, plugin)], shutdown, Duration::from_secs(5)))
                .unwrap();
        });
        Self {
            path,
            driver,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn holder() -> HolderId {
    HolderId::new("abc").unwrap()
}

#[test]
fn a_panic_is_answered_and_the_rest_goes_on() {
    let mut served = Served::start();
    let volumes = Client::connect(&served.path).unwrap().volume();
    let fault = volumes.create(&name("panics"), &Options::new()).unwrap_err();
    assert!(
        fault.sentence().contains("the driver stumbled"),
        "{}",
        fault.sentence()
    );
    volumes.create(&name("fine"), &Options::new()).unwrap();
    served.stop();
}

#[test]
fn a_mount_whose_caller_hung_up_is_taken_back() {
    let mut served = Served::start();
    let mut stream = UnixStream::connect(&served.path).unwrap();
    let body = r#"{"Name":"slow","ID":"abc"}"#;
    write!(
        stream,
        "POST /VolumeDriver.Mount HTTP/1.1\r\nHost: \r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let begun = Instant::now();
    while served.driver.mounts.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the mount never began");
        thread::sleep(Duration::from_millis(5));
    }
    drop(stream);
    while served.driver.unmounts.load(Ordering::SeqCst) == 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the hold stayed for ever"
        );
        thread::sleep(Duration::from_millis(5));
    }
    served.stop();
}

#[test]
fn a_mount_that_was_heard_of_is_not_taken_back() {
    let mut served = Served::start();
    let volumes = Client::connect(&served.path).unwrap().volume();
    volumes
        .mount(&name("slow"), &holder(), EnginePeer::own())
        .unwrap();
    served.stop();
    assert_eq!(served.driver.unmounts.load(Ordering::SeqCst), 0);
}

#[test]
fn draining_finishes_what_is_under_way_and_removes_the_socket() {
    let mut served = Served::start();
    let (ready, is_ready) = mpsc::channel();
    let path = served.path.clone();
    let caller = thread::spawn(move || {
        let volumes = Client::connect(&path).unwrap().volume();
        ready.send(()).unwrap();
        volumes.mount(&name("slow"), &holder(), EnginePeer::own())
    });
    is_ready.recv().unwrap();
    while served.driver.mounts.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    served.stop();
    assert_eq!(caller.join().unwrap().unwrap(), PathBuf::from("/mnt/x"));
    assert!(!served.path.exists());
}

/// Sends a request head whose socket closes later, and returns the status line's number.
fn status_of(served: &Served, request: &[u8]) -> u16 {
    let mut stream = UnixStream::connect(&served.path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply)
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

#[test]
fn hostile_requests_are_refused_and_the_next_is_served() {
    let mut served = Served::start();
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let huge = format!(r#"{{"Name":"{}"}}"#, "x".repeat(2 << 20));
    for (request, status) in [
        (post("/VolumeDriver.Nothing", "{}"), 404),
        (post("/NetworkDriver.Join", "{}"), 404),
        (post("/VolumeDriver.Create", ""), 500),
        (post("/VolumeDriver.Create", "{"), 500),
        (post("/VolumeDriver.Create", r#"{"Name":7}"#), 500),
        (post("/VolumeDriver.Create", r#"{"Name":"../../etc"}"#), 500),
        (post("/VolumeDriver.Create", &huge), 413),
        (
            "GET /VolumeDriver.List HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".into(),
            405,
        ),
        ("no http at all\r\n\r\n".into(), 400),
        (post("/VolumeDriver.List", ""), 200),
    ] {
        assert_eq!(status_of(&served, request.as_bytes()), status, "{request:.60}");
    }
    served.stop();
}
