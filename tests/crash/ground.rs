//! A place of its own for one sweep: namespaces, a state directory, and longshore in them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use kernel::exec::Tool;
use kernel::process::Identity;
use plugin_api::client::Client;
use plugin_api::wire::Verb;
use plugin_api::{Fault, FaultKind};

/// How long something may take that is under way: a start, the emptying of a trash.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a verb that was answered may still work behind its caller's back.
const AFTERMATH: Duration = Duration::from_millis(100);

/// What the first process of the namespaces does; `box` is the namespace of a container to be.
const FIRST_PROCESS: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
ip link set lo up
ip netns add box
: > "$1/ready"
exec sleep infinity
"#;

/// What there is in the world, one line each.
pub(crate) type Shape = BTreeSet<String>;

pub(crate) struct Ground {
    /// Whether links, addresses and rules are looked at; asking for them takes longest.
    has_network: bool,
    root: tempfile::TempDir,
    holder: Child,
    longshore: Option<Child>,
    /// What drivers answered that a later call needs.
    memory: RefCell<BTreeMap<&'static str, String>>,
}

/// How a start ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The socket answers.
    Up,
    /// It killed itself before that.
    Died,
}

impl Ground {
    /// Makes the namespaces and a configuration with the given tables.
    pub(crate) fn new(drivers: &str) -> Self {
        // In memory: what is synced a thousand times is not what is looked at here.
        let root = tempfile::Builder::new()
            .prefix("crash-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let path = root.path().to_str().unwrap();
        for folder in ["state", "sockets"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        let head =
            format!("state = \"{path}/state\"\nruntime = \"{path}/runtime\"\nsockets = \"{path}/sockets\"\n");
        fs::write(root.path().join("longshore.toml"), head + drivers).unwrap();
        let unshare = ["unshare", "--net", "--mount", "--propagation", "private"];
        let holder = Tool::new("setpriv").args(["--pdeathsig", "KILL"]).args(unshare);
        let holder = holder.args(["sh", "-c", FIRST_PROCESS, "first", path]);
        let ground = Self {
            holder: holder.spawn_logging(log(root.path())).unwrap(),
            has_network: drivers.contains("[network."),
            longshore: None,
            memory: RefCell::default(),
            root,
        };
        let ready = ground.path("ready");
        eventually("the namespaces are ready", || ready.exists().then_some(()));
        ground
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The socket on which every driver answers.
    pub(crate) fn client(&self) -> Result<Client, Fault> {
        Client::connect(self.path("sockets/crash.sock"))
    }

    /// Keeps what an engine would keep.
    pub(crate) fn remember(&self, what: &'static str, value: impl Into<String>) {
        self.memory.borrow_mut().insert(what, value.into());
    }

    pub(crate) fn recall(&self, what: &'static str) -> String {
        self.memory.borrow()[what].clone()
    }

    /// A path of the namespaces, as seen from outside.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("paths of drivers are absolute"))
    }

    /// Runs a program in the namespaces and returns what it says.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.inside().args(words).run(PATIENCE);
        String::from_utf8(output.unwrap()).unwrap()
    }

    fn inside(&self) -> Tool {
        let pid = self.holder.id().to_string();
        let tool = Tool::new("setpriv").args(["--pdeathsig", "KILL"]);
        tool.args(["nsenter", "-t", &pid, "--net", "--mount", "--"])
    }

    // === longshore ===

    /// Starts longshore with a fault (`die:3`, `fail:3:28`), which counts while the ground is armed.
    pub(crate) fn start(&mut self, fault: &str) -> Start {
        self.kill();
        let fault = format!("{fault}:{}", self.path("armed").display());
        let tool = self.inside().env("LONGSHORE_FAULT", fault);
        let tool = tool
            .env("RUST_BACKTRACE", "1")
            .arg(env!("CARGO_BIN_EXE_longshore"));
        let tool = tool.args(["serve", "--config"]).arg(self.path("longshore.toml"));
        self.longshore = Some(tool.spawn_logging(log(self.root.path())).unwrap());
        let socket = self.path("sockets/crash.sock");
        eventually("longshore has started", || {
            if self.has_died() {
                return Some(Start::Died);
            }
            // A listening socket is not enough: connections wait in it before anybody serves.
            let client = Client::connect(&socket).ok()?;
            let answer = client.call(Verb::VolumeCapabilities, plugin_api::wire::no_fields());
            let is_broken = answer.is_err_and(|fault| fault.kind == FaultKind::Unavailable);
            (!is_broken).then_some(Start::Up)
        })
    }

    /// Whether longshore has killed itself; that it ended in another way fails the test.
    fn has_died(&mut self) -> bool {
        let Some(child) = &mut self.longshore else {
            return true;
        };
        let Some(status) = child.try_wait().unwrap() else {
            return false;
        };
        self.longshore = None;
        assert_eq!(status.signal(), Some(9), "longshore ended with {status}");
        true
    }

    /// Whether longshore has killed itself by the end of what it has to do.
    pub(crate) fn died(&mut self, answered: bool) -> bool {
        let patience = if answered { AFTERMATH } else { PATIENCE };
        let (mut quiet_since, mut counted) = (Instant::now(), self.counted());
        while quiet_since.elapsed() < patience {
            if self.has_died() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
            let now = self.counted();
            if now != counted {
                (quiet_since, counted) = (Instant::now(), now);
            }
        }
        false
    }

    /// The running longshore.
    pub(crate) fn pid(&self) -> Identity {
        let child = self.longshore.as_ref().expect("longshore runs");
        let pid = i32::try_from(child.id()).unwrap();
        Identity::of(pid).unwrap().expect("longshore runs")
    }

    /// Ends longshore as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.longshore.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends longshore as an administrator would.
    pub(crate) fn stop(&mut self) {
        let mut child = self.longshore.take().expect("longshore runs");
        Tool::new("kill")
            .arg(child.id().to_string())
            .run(PATIENCE)
            .unwrap();
        let status = eventually("longshore has stopped", || child.try_wait().unwrap());
        assert!(status.success(), "longshore ended with {status}");
    }

    // === faults ===

    /// From now on changes of the world are counted.
    pub(crate) fn arm(&self) {
        let _ = fs::remove_file(self.path("armed.count"));
        File::create(self.path("armed")).unwrap();
    }

    pub(crate) fn disarm(&self) {
        let _ = fs::remove_file(self.path("armed"));
    }

    /// How many changes were counted, and what the last one was: `7 rename /x`.
    pub(crate) fn counted(&self) -> (u64, String) {
        let text = fs::read_to_string(self.path("armed.count")).unwrap_or_default();
        let number = text.split(' ').next().and_then(|word| word.parse().ok());
        (number.unwrap_or(0), text.trim().to_owned())
    }

    // === what there is ===

    /// Mounts, links, addresses, rules and files.
    pub(crate) fn shape(&self) -> Shape {
        let mut shape = Shape::new();
        let mounts = fs::read(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        for mount in kernel::mount::parse(&mounts).iter() {
            add(
                &mut shape,
                format!("mount {} {}", mount.target.display(), mount.kind),
            );
        }
        if self.has_network {
            self.network(&mut shape);
        }
        files(&self.path("state"), &mut shape);
        shape
    }

    fn network(&self, shape: &mut Shape) {
        for (place, words) in [("host", &["ip"][..]), ("box", &["ip", "-n", "box"])] {
            let list = |what: &[&str]| self.run(&[words, what].concat());
            let links = list(&["-o", "link"]);
            let links = links.lines().filter_map(|line| line.split(": ").nth(1));
            shape.extend(links.map(|link| format!("link in {place}: {}", plain(link))));
            for line in list(&["-o", "-4", "address"]).lines() {
                let words: Vec<&str> = line.split_whitespace().skip(1).take(3).collect();
                shape.insert(format!("address in {place}: {}", words.join(" ")));
            }
        }
        rules(&self.run(&["nft", "--stateless", "list", "ruleset"]), shape);
    }

    /// Waits until the world has one of these shapes; if it never does, says what differs.
    #[track_caller]
    pub(crate) fn assert_becomes(&self, when: &str, shapes: &[&Shape]) {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let now = self.shape();
            if shapes.contains(&&now) {
                return;
            }
            if Instant::now() > until {
                let differs: Vec<String> = shapes.iter().map(|shape| difference(shape, &now)).collect();
                panic!("{when}: the world is neither\n{}", differs.join("\nnor\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Table and key of every record, read behind longshore's back while it does not run.
    pub(crate) fn records(&self) -> Shape {
        assert!(self.longshore.is_none(), "longshore has its records open");
        let mut all = Shape::new();
        stores(&self.path("state"), &mut all);
        stores(&self.path("runtime"), &mut all);
        all
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = fs::read_to_string(self.path("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            eprintln!("--- the end of longshore's log\n{}", tail.join("\n"));
            let (_, point) = self.counted();
            eprintln!("--- the last change counted: {point}");
        }
        self.kill();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn log(root: &Path) -> File {
    let path = root.join("log");
    File::options().create(true).append(true).open(path).unwrap()
}

/// Tries until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `veth1@if6` without the number, which differs each time.
fn plain(link: &str) -> &str {
    link.split('@').next().unwrap_or(link)
}

/// Lines of a ruleset, each with its table and chain or set.
fn rules(text: &str, shape: &mut Shape) {
    let (mut table, mut chain) = ("", "");
    for line in text.lines() {
        let level = line.len() - line.trim_start().len();
        let line = line.trim().trim_end_matches(" {");
        match level {
            0 if line != "}" => (table, chain) = (line, ""),
            1 if line != "}" => chain = line,
            _ => {}
        }
        if !line.is_empty() && line != "}" {
            shape.insert(format!("nft {table} / {chain} / {}", without_mac(line)));
        }
    }
}

/// Hardware addresses are chosen by dice, anew each time.
fn without_mac(line: &str) -> String {
    let is_mac = |word: &str| {
        word.trim_end_matches(',')
            .parse::<plugin_api::id::MacAddr>()
            .is_ok()
    };
    let words = line
        .split(' ')
        .map(|word| if is_mac(word) { "MAC" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Every file and folder below.
fn files(folder: &Path, shape: &mut Shape) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let kind = if is_folder { "folder" } else { "file" };
        add(shape, format!("{kind} {}", without_number(&entry.path())));
        // The kernel keeps folders of its own in an overlay's work folder.
        if is_folder && entry.file_name() != "work" {
            files(&entry.path(), shape);
        }
    }
}

/// A layer's folder has a number that differs each time: `layers/7/fs` becomes `layers/N/fs`.
fn without_number(path: &Path) -> String {
    let mut shown: Vec<String> = Vec::new();
    for part in path {
        let is_number = shown.last().is_some_and(|last| last == "layers");
        let part = if is_number {
            "N".into()
        } else {
            part.to_string_lossy()
        };
        shown.push(part.into_owned());
    }
    shown.join("/")
}

/// Adds a line that may be there already, once more.
fn add(shape: &mut Shape, mut line: String) {
    while shape.contains(&line) {
        line.push_str(" (again)");
    }
    shape.insert(line);
}

fn difference(wanted: &Shape, now: &Shape) -> String {
    let missing = wanted.difference(now).map(|line| format!("  missing: {line}"));
    let left = now.difference(wanted).map(|line| format!("  too much: {line}"));
    missing.chain(left).collect::<Vec<_>>().join("\n")
}

fn stores(folder: &Path, all: &mut Shape) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            stores(&entry.path(), all);
        } else if entry.path().extension().is_some_and(|ending| ending == "redb") {
            read_records(&entry.path(), all);
        }
    }
}

/// Numbers that only grow; they belong to the driver, not to anything it keeps.
const COUNTERS: [&str; 2] = ["counter", "epoch"];

fn read_records(path: &Path, all: &mut Shape) {
    use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

    let database = redb::Database::open(path).unwrap();
    let read = database.begin_read().unwrap();
    for table in read.list_tables().unwrap() {
        if COUNTERS.contains(&table.name()) {
            continue;
        }
        let definition = TableDefinition::<&str, &[u8]>::new(table.name());
        let rows = read.open_table(definition).unwrap();
        for row in rows.iter().unwrap() {
            let (key, _) = row.unwrap();
            let store = path.display();
            all.insert(format!("record {store} {} {}", table.name(), key.value()));
        }
    }
}
