//! Volumes on a real NFS server: the kernel's own, in the same guest, with the kernel's own client.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plugin_api::client::{Client, RemoteVolume};
use plugin_api::id::{HolderId, VolumeName};
use plugin_api::volume::VolumeDriver;
use plugin_api::{EnginePeer, Fault, FaultKind, Options};

use crate::in_guest;

const EXPORT: &str = "/srv/longshore-export";

/// Runs a program of the guest to its end; a failure fails the test.
#[expect(
    clippy::disallowed_methods,
    reason = "the guest's own tools set up its server"
)]
fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {complaint}");
}

/// The server, started once for all tests of the guest.
fn serve_nfs() {
    if Path::new(EXPORT).is_dir() {
        return;
    }
    for module in ["nfsd", "nfs", "nfsv4", "nf_tables"] {
        run(&["modprobe", module]);
    }
    run(&["ip", "link", "set", "lo", "up"]);
    for folder in [EXPORT, "/var/lib/nfs"] {
        std::fs::create_dir_all(folder).unwrap();
        run(&["mount", "-t", "tmpfs", "tmpfs", folder]);
    }
    run(&["mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
    for folder in ["v4recovery", "rpc_pipefs"] {
        std::fs::create_dir(Path::new("/var/lib/nfs").join(folder)).unwrap();
    }
    run(&[
        "mount",
        "-t",
        "rpc_pipefs",
        "rpc_pipefs",
        "/var/lib/nfs/rpc_pipefs",
    ]);
    for file in ["etab", "rmtab"] {
        std::fs::write(Path::new("/var/lib/nfs").join(file), "").unwrap();
    }
    // Ten seconds are the least: a new server lets old clients reclaim before it lets others write.
    for file in ["nfsv4leasetime", "nfsv4gracetime"] {
        std::fs::write(Path::new("/proc/fs/nfsd").join(file), "10").unwrap();
    }
    std::fs::write(
        "/etc/exports",
        format!("{EXPORT} *(rw,fsid=0,no_root_squash,no_subtree_check,insecure)\n"),
    )
    .unwrap();
    run(&["exportfs", "-ra"]);
    run(&["rpc.mountd", "-N", "2", "-N", "3", "--no-tcp", "--no-udp"]);
    run(&["rpc.nfsd", "-N", "3", "2"]);
}

/// A running `longshore serve` with one volume driver.
struct Longshore {
    folder: tempfile::TempDir,
    process: Child,
}

impl Longshore {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "state = \"{0}/state\"\nsockets = \"{0}/plugins\"\n[volume.nfs]\ndriver = \"local\"\n",
            folder.path().display(),
        );
        std::fs::write(folder.path().join("longshore.toml"), text).unwrap();
        let process = spawn(folder.path());
        let started = Self { folder, process };
        started.wait();
        started
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("plugins/nfs.sock")
    }

    fn volumes(&self) -> RemoteVolume {
        Client::connect(self.socket()).unwrap().volume()
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        let answers = |client: Client| client.volume().list().is_ok();
        while !Client::connect(self.socket()).is_ok_and(answers) {
            assert!(Instant::now() < until, "longshore does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.folder.path());
        self.wait();
    }

    fn create(&self, volume: &str, path: &str, o: &str) {
        let options = [("type", "nfs"), ("device", path), ("o", o)];
        let options: Options = options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        self.volumes().create(&name(volume), &options).unwrap();
    }

    fn mount(&self, volume: &str) -> Result<PathBuf, Fault> {
        self.volumes().mount(&name(volume), &holder(), EnginePeer::own())
    }

    fn unmount(&self, volume: &str) {
        self.volumes().unmount(&name(volume), &holder()).unwrap();
    }
}

impl Drop for Longshore {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test kills what it started")]
fn spawn(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["serve", "--config"])
        .arg(folder.join("longshore.toml"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn holder() -> HolderId {
    HolderId::new("c1").unwrap()
}

fn mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// Lets the server fall silent: no packet reaches it, none is refused.
fn silence() {
    run(&["nft", "add", "table", "inet", "silence"]);
    run(&[
        "nft",
        "add",
        "chain",
        "inet",
        "silence",
        "in",
        "{ type filter hook input priority 0; }",
    ]);
    run(&[
        "nft",
        "add",
        "rule",
        "inet",
        "silence",
        "in",
        "tcp dport 2049 drop",
    ]);
}

fn speak() {
    run(&["nft", "delete", "table", "inet", "silence"]);
}

#[test]
fn a_share_follows_from_mount_to_mount() {
    in_guest!();
    serve_nfs();
    std::fs::create_dir_all(Path::new(EXPORT).join("home")).unwrap();
    let mut longshore = Longshore::start();
    longshore.create("home", ":/home", "addr=127.0.0.1,rw");
    let path = longshore.mount("home").unwrap();
    std::fs::write(path.join("file"), "text").unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(path.to_str().unwrap()))
        .unwrap();
    assert!(line.contains(" nfs4 ") && line.contains("vers=4.2"), "{line}");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    longshore.kill_and_start();
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "text");
    longshore.unmount("home");
    assert!(!mounted(&path));
    // The server has it, and the next host would.
    let file = Path::new(EXPORT).join("home/file");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(
        longshore
            .mount("home")
            .unwrap()
            .join("file")
            .metadata()
            .unwrap()
            .size(),
        4
    );
    longshore.unmount("home");
    longshore.volumes().remove(&name("home")).unwrap();
    assert!(file.exists(), "removing the volume removed the share's files");
}

#[test]
fn a_share_that_is_not_there_is_told() {
    in_guest!();
    serve_nfs();
    let longshore = Longshore::start();
    longshore.create("none", ":/no/such/share", "addr=127.0.0.1");
    let refused = longshore.mount("none").unwrap_err();
    let told = refused.sentence();
    assert!(
        told.contains("mount volume none") && told.contains("No such file"),
        "{told}"
    );
    longshore.volumes().remove(&name("none")).unwrap();
}

#[test]
fn a_silent_server_costs_its_own_volume_only() {
    in_guest!();
    serve_nfs();
    std::fs::create_dir_all(Path::new(EXPORT).join("quiet")).unwrap();
    let longshore = Longshore::start();
    longshore.create("held", ":/quiet", "addr=127.0.0.1");
    longshore.create("late", ":/quiet", "addr=127.0.0.1,retrans=1");
    longshore
        .volumes()
        .create(&name("near"), &Options::new())
        .unwrap();
    let path = longshore.mount("held").unwrap();
    std::fs::write(path.join("file"), "text").unwrap();
    silence();
    std::thread::scope(|scope| {
        let start = Instant::now();
        let longshore = &longshore;
        let late = scope.spawn(move || (longshore.mount("late"), start.elapsed()));
        std::thread::sleep(Duration::from_secs(1));
        for _ in 0..10 {
            let asked = Instant::now();
            assert_eq!(longshore.volumes().list().unwrap().len(), 3);
            longshore.mount("near").unwrap();
            longshore.unmount("near");
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(2), "another volume waited {took:?}");
        }
        let (outcome, took) = late.join().unwrap();
        assert!(
            took < Duration::from_secs(20),
            "the mount answered after {took:?}"
        );
        // The client of the kernel shares one connection, so the attempt may succeed from what it knows.
        if let Err(fault) = outcome {
            assert_eq!(fault.kind, FaultKind::Internal, "{}", fault.sentence());
            assert!(
                fault.sentence().contains("no answer within"),
                "{}",
                fault.sentence()
            );
        }
    });
    let start = Instant::now();
    longshore.unmount("held");
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(15),
        "the unmount answered after {took:?}"
    );
    assert!(!mounted(&path));
    speak();
}
