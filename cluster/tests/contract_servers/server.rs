//! Real servers on loopback, each in a folder of its own.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Error, Event, Expect, Store, Watch};

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

pub(crate) fn skip(line: &str) {
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

/// A running server; ends with the value.
pub(crate) struct Running(Child);

impl Running {
    /// Starts `command` in `folder`, where its log is written.
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Self {
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log));
        Self(child.spawn().unwrap())
    }

    /// Stops it where it stands, until [`Running::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let number = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &number]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a row can be written, and answers how long that took.
pub(crate) fn wait_ready(store: &dyn Store, folder: &Path) -> Duration {
    let begin = Instant::now();
    while let Err(error) = store.put_if("ready", b"", Expect::Any, None) {
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "the server does not get ready: {error:?}\n{}",
            log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    begin.elapsed()
}

/// Follows `watch` until it has told of `key`; answers how many resyncs came before.
pub(crate) fn told(watch: &mut Watch, key: &str, limit: Duration) -> usize {
    let begin = Instant::now();
    let mut resyncs = 0;
    loop {
        assert!(begin.elapsed() < limit, "{key} was not told in {limit:?}");
        match watch.next(Duration::from_millis(500)) {
            Ok(Some(Event::Change(change))) if change.key == key => return resyncs,
            Ok(Some(Event::Resync(snapshot))) => {
                resyncs += 1;
                if snapshot.rows.iter().any(|row| row.key == key) {
                    return resyncs;
                }
            }
            Ok(_) | Err(Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Writes `key` as its caller would, who looks when nobody answered; answers how long it took.
pub(crate) fn write(store: &dyn Store, key: &str) -> Duration {
    let begin = Instant::now();
    loop {
        match store.put_if(key, b"x", Expect::Absent, None) {
            Ok(_) | Err(Error::Conflict { .. }) => return begin.elapsed(),
            Err(Error::Unavailable { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert!(
            begin.elapsed() < Duration::from_secs(40),
            "{key} cannot be written"
        );
    }
}
