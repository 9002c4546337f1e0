//! Real servers on loopback, each in a folder of its own.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::Store;
use cluster::consul::{Consul, Secret};

/// The program, or nothing: then the skip is reported.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Where the test command unpacks what is in no suite of this machine.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    folders.push(target.join("servers/usr/bin"));
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test without a name").to_owned();
        skip(&format!("{test}: needs the program {name}"));
    }
    found
}

fn skip(line: &str) {
    assert!(
        std::env::var("LONGSHORE_REQUIRE").as_deref() != Ok("all"),
        "{line}, and LONGSHORE_REQUIRE=all forbids to skip it"
    );
    eprintln!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("LONGSHORE_SKIPS") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Ports that nobody listens on now.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A server of one node that keeps nothing; ends with the value.
pub(crate) struct Agent {
    child: Child,
    _folder: tempfile::TempDir,
    pub(crate) address: String,
}

impl Agent {
    /// Starts one whose HTTP port is `port`, with more configuration, and waits until it can write.
    pub(crate) fn start(program: &Path, port: u16, more: &str, token: Option<&Secret>) -> Self {
        let [server, lan, wan] = ports();
        let folder = tempfile::tempdir().unwrap();
        let configuration = format!(
            "ports {{ http = {port} server = {server} serf_lan = {lan} serf_wan = {wan} dns = -1 grpc = -1 }} {more}"
        );
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"])
            .args(["-hcl", &configuration])
            .current_dir(folder.path())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let agent = Self {
            child,
            _folder: folder,
            address: format!("127.0.0.1:{port}"),
        };
        let client = Consul::new(&agent.address, token.cloned());
        let begin = Instant::now();
        while client.put_if("ready", b"", cluster::Expect::Any, None).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "consul does not get ready"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
