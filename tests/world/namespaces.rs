//! A world: mount, network and process namespaces with a directory.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;

use super::command::{Out, Process, child_of, program};
use super::leftovers::Leftovers;
use super::suite::Suite;

/// Makes the root of another suite the root of the world. `$1` is the world's directory, `$2` the suite's
/// root, `$3` the folder of our own programs; both folders keep their paths.
///
/// The suite's folder is shared by all tests, so what is written goes to a layer above it.
const ENTER_SUITE: &str = r#"
set -e
mkdir "$1/root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
for tree in /proc /sys /dev; do mount --rbind "$tree" "$1/root$tree"; done
for tree in "$1" "$3"; do
    mkdir -p "$1/root$tree"
    mount --bind "$tree" "$1/root$tree"
done
cd "$1/root"
pivot_root . .
umount -l .
cd /
"#;

/// What the first process of a world does. `$1` is the world's directory.
///
/// A private /run keeps the engines' fixed paths off the machine's; /sys is mounted anew because sysfs
/// shows the network namespace it was mounted in, and the control groups are moved over; `wait` makes
/// bash the reaper of orphans, for an engine takes a dead containerd that nobody reaped for a living one.
const FIRST_PROCESS: &str = r#"
set -e
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins /run/lock "$1/plugins" "$1/cgroup"
mount --bind "$1/plugins" /run/docker/plugins
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --move "$1/cgroup" /sys/fs/cgroup
rmdir "$1/cgroup"
ip netns add outside
ip link add uplink type veth peer name eth0 netns outside
ip address add 192.0.2.1/24 dev uplink
ip link set uplink up
ip -n outside address add 192.0.2.2/24 dev eth0
ip -n outside link set lo up
ip -n outside link set eth0 up
echo ready
sleep infinity &
while :; do wait || :; done
"#;

/// Fetches file `$2` from port `$1` of the world's own address.
const FETCH: &str = r#"
exec 3<>"/dev/tcp/192.0.2.1/$1" || exit 1
printf 'GET /%s HTTP/1.0\r\n\r\n' "$2" >&3
cat <&3
"#;

/// A private mount, network and process namespace, and a directory that both sides see.
///
/// Beyond a veth pair lives a neighbour (`outside`, 192.0.2.2), so that published ports can be reached
/// from another host than the one that publishes them.
pub(crate) struct World {
    name: String,
    root: PathBuf,
    holder: Child,
    first: u32,
    before: Mutex<Leftovers>,
}

impl World {
    /// Makes a world; `name` is shown in its directory's name.
    pub(crate) fn new(name: &str) -> Self {
        Self::of(Suite::Own, name)
    }

    /// Makes a world whose programs are those of a suite.
    pub(crate) fn of(suite: Suite, name: &str) -> Self {
        let prefix = format!("longshore-{name}-");
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        let root = dir.keep();
        let mut words = Vec::new();
        if !keep() {
            words.extend(["--pdeathsig", "KILL"]);
        }
        words.extend(["--", "unshare", "--kill-child=KILL", "--mount", "--net"]);
        words.extend(["--pid", "--fork", "--mount-proc", "--propagation", "private"]);
        let suites = suite.root();
        let script = match suites {
            Some(_) => [ENTER_SUITE, FIRST_PROCESS].concat(),
            None => FIRST_PROCESS.to_owned(),
        };
        words.extend(["--", "bash", "-c", &script, "first"]);
        let mut command = program("setpriv");
        command.args(words).arg(&root).stdin(Stdio::null());
        command.arg(suites.unwrap_or_default()).arg(programs());
        command.stderr(File::create(root.join("world.log")).unwrap());
        let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let why = fs::read_to_string(root.join("world.log")).unwrap();
            panic!("the world {name} could not be made: {why}");
        }
        let first = child_of(holder.id()).expect("unshare has a child");
        let before = Mutex::default();
        let name = root.file_name().unwrap().to_str().unwrap().to_owned();
        let world = Self {
            name,
            root,
            holder,
            first,
            before,
        };
        world.remember();
        world
    }

    /// A path in the world's directory, the same on both sides.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path in the world's directory as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The folder that is `/run/docker/plugins` inside.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    /// A control group of the world's own, for engines.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// A path that only the inside has, seen from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// The words that enter the world, followed by `words`.
    fn enter<'a>(pid: &'a str, words: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["nsenter", "-t", pid, "-m", "-n", "-p", "--"];
        all.extend(words);
        all
    }

    /// Runs a program inside to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Out {
        self.run_with(words, &[])
    }

    /// Runs a program inside to its end, with more environment.
    pub(crate) fn run_with(&self, words: &[&str], envs: &[(&str, &str)]) -> Out {
        Out::of(&Self::enter(&self.first.to_string(), words), envs)
    }

    /// Fetches a file by HTTP from the world's own address, as the host itself does.
    pub(crate) fn fetch(&self, port: u16, file: &str) -> Option<String> {
        body(&self.run(&[
            "timeout",
            "5",
            "bash",
            "-c",
            FETCH,
            "fetch",
            &port.to_string(),
            file,
        ]))
    }

    /// Fetches as the neighbour does, which reaches this world only through its uplink.
    pub(crate) fn fetch_outside(&self, port: u16, file: &str) -> Option<String> {
        let port = port.to_string();
        let mut words = vec!["nsenter", "--net=/run/netns/outside", "--"];
        words.extend(["timeout", "5", "bash", "-c", FETCH, "fetch", &port, file]);
        body(&self.run(&words))
    }

    /// Starts a program inside; its outputs are appended to the file `log`.
    pub(crate) fn start(&self, words: &[&str], envs: &[(&str, &str)], log: &str) -> Process {
        self.start_with(words, envs, Stdio::null(), log)
    }

    /// Starts a program inside with a standard input.
    pub(crate) fn start_with(
        &self,
        words: &[&str],
        envs: &[(&str, &str)],
        stdin: Stdio,
        log: &str,
    ) -> Process {
        let pid = self.first.to_string();
        Process::start(&Self::enter(&pid, words), envs, stdin, &self.path(log))
    }

    /// Takes what is there now for what may be there later.
    pub(crate) fn remember(&self) {
        *self.before.lock().unwrap() = Leftovers::of(self);
    }

    /// What is there now and was not there when last [remembered](Self::remember), one line each.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        Leftovers::of(self).beyond(&self.before.lock().unwrap())
    }

    /// Fails unless nothing is left; processes and the kernel get a moment for their own endings.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        for _ in 0..100 {
            if self.leftovers().is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let left = self.leftovers();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// The process that is number one inside.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    fn remove_cgroups(&self) {
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        for controller in controllers.flatten() {
            // Two engines choose groups of their own. Only an empty group can be removed at all.
            for top in
                [&self.name, "libpod_parent", "longshore-engine"].map(|name| controller.path().join(name))
            {
                let groups = fs::read_dir(&top).into_iter().flatten().flatten();
                for group in groups.filter(|group| group.path().is_dir()) {
                    let _ = fs::remove_dir(group.path());
                }
                let _ = fs::remove_dir(top);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let tail = &lines[lines.len().saturating_sub(60)..];
                    eprintln!("--- {}\n{}", entry.path().display(), tail.join("\n"));
                }
            }
            if keep() {
                let (pid, root) = (self.first, self.root.display());
                eprintln!("kept: nsenter -t {pid} -m -n -p   (files in {root}; end it: kill {pid})");
                return;
            }
        }
        // The first process ends when all others of its namespace have, and `unshare` with it.
        let killed = Out::of(&["kill", "-s", "KILL", &self.first.to_string()], &[]);
        if !killed.succeeded() {
            let _ = self.holder.kill();
        }
        let _ = self.holder.wait();
        self.remove_cgroups();
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("remove {}: {error}", self.root.display());
        }
    }
}

/// The body of a reply with code 200.
fn body(out: &Out) -> Option<String> {
    let (head, body) = out.stdout.split_once("\r\n\r\n")?;
    let good = out.succeeded() && head.contains(" 200 ");
    good.then(|| body.trim().to_owned())
}

/// The folder of the workspace's own programs.
fn programs() -> &'static Path {
    let longshore = Path::new(env!("CARGO_BIN_EXE_longshore"));
    longshore.parent().expect("a program lies in a folder")
}

fn keep() -> bool {
    std::env::var_os("LONGSHORE_KEEP").is_some_and(|value| value == "1")
}
