//! `cargo xtask demo`: the main job from an empty folder, on a host that is gone afterwards.
//!
//! The outer process builds, starts the inner one in namespaces of its own and
//! checks that the machine is as it was. The inner one makes the hosts and tells
//! the story, step by step with its time; whatever happens, it tears down.

mod host;
mod image;
pub(crate) mod signal;
mod story;
mod traces;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use signal::Interrupted;

use crate::lanes::{Need, provide};
use crate::run;
use host::{Host, ip};
use signal::Interrupt;
use traces::Traces;

/// Names of the story's objects, which must not be found afterwards.
const OBJECTS: [&str; 3] = ["web", "mate", "cargo"];
const NEEDS: [Need; 7] = [
    Need::Root,
    Need::Program("ip", "iproute2"),
    Need::Program("nft", "nftables"),
    Need::Program("runc", "runc"),
    Need::Program("busybox", "busybox-static"),
    Need::Program("nsenter", "util-linux"),
    Need::Program("kill", "procps"),
];
const SEA: &str = "sea";

/// What the command line asks for.
pub(crate) struct Wishes<'a> {
    /// An archive of `docker save` to use as image.
    pub(crate) image: Option<&'a Path>,
    /// Leave everything standing at the end, until Ctrl-C.
    pub(crate) keep: bool,
}

/// Builds, then runs the inner part and checks the machine.
pub(crate) fn demo(wishes: &Wishes<'_>) -> Result<()> {
    let missing = provide(&NEEDS)?;
    if !missing.is_empty() {
        let spoken: Vec<&str> = missing.into_iter().map(Need::spoken).collect();
        bail!("demo: missing {}", spoken.join(", "));
    }
    let interrupt = Interrupt::listen()?;
    println!("building");
    run::must(run::cargo().args(["build", "-p", "longshore", "-p", "engine", "--bins"]))?;
    interrupt.check()?;
    let before = machine()?;
    let home = std::env::temp_dir().join(format!("longshore-demo-{}", std::process::id()));
    std::fs::create_dir(&home).with_context(|| format!("make {}", home.display()))?;
    let outcome = inner(&home, wishes, &interrupt);
    std::fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))?;
    let left: Vec<String> = machine()?.difference(&before).cloned().collect();
    ensure!(
        left.is_empty(),
        "the machine is not as it was: {}",
        left.join(", ")
    );
    outcome?;
    println!("nothing is left on this machine");
    Ok(())
}

/// Links, mounts and namespaces of the machine itself.
fn machine() -> Result<BTreeSet<String>> {
    let links = run::read_words("ip", &["-o", "link"])?;
    let mut all: BTreeSet<String> = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .map(|link| format!("link {link}"))
        .collect();
    all.extend(traces::mounts(Path::new("/"))?);
    Ok(all)
}

fn inner(home: &Path, wishes: &Wishes<'_>, interrupt: &Interrupt) -> Result<()> {
    let mut command = run::program("unshare");
    command.args(["--mount", "--net", "--propagation", "private"]);
    command.arg(std::env::current_exe().context("find our own program")?);
    command.args(["demo", "--inside"]).arg(home);
    if let Some(image) = wishes.image {
        command
            .arg("--image")
            .arg(std::fs::canonicalize(image).with_context(|| format!("find {}", image.display()))?);
    }
    if wishes.keep {
        command.arg("--keep");
    }
    // In a group of its own: the terminal's Ctrl-C reaches us alone, and we pass it on once.
    let mut child = command.process_group(0).spawn().context("start unshare")?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("wait for the demo")? {
            return match status.code() {
                Some(0) => Ok(()),
                Some(130) => Err(Interrupted.into()),
                _ => bail!("the demo failed: {status}"),
            };
        }
        if interrupt.asked() && !told {
            run::read_words("kill", &["-INT", &child.id().to_string()])?;
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The part that runs inside the namespaces, with everything below `home`.
pub(crate) fn inside(home: &Path, wishes: &Wishes<'_>) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    run::read_words("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    ip(&["link", "set", "lo", "up"])?;
    let mut stage = Stage {
        hosts: Vec::new(),
        before: Vec::new(),
        clock: Clock::start(),
        image: String::new(),
    };
    let told = stage
        .build(home, &interrupt)
        .and_then(|()| story::tell(&mut stage, home, wishes, &interrupt));
    if let Err(error) = &told
        && !error.is::<Interrupted>()
    {
        eprintln!("failed: {error:#}");
        stage
            .hosts
            .iter()
            .for_each(|host| eprintln!("--- log of {}\n{}", host.name, host.log()));
    }
    if wishes.keep && told.is_ok() {
        stage.linger(&interrupt);
    }
    let torn = stage.tear_down();
    told.and(torn)
}

/// Prints what happened and how long it took.
struct Clock {
    start: Instant,
    last: Instant,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        println!("{:>9} {:>9}", "at ms", "took ms");
        Self {
            start: now,
            last: now,
        }
    }

    /// Marks the end of a step.
    fn mark(&mut self, what: &str) {
        let now = Instant::now();
        let (at, took) = (
            (now - self.start).as_secs_f64() * 1e3,
            (now - self.last).as_secs_f64() * 1e3,
        );
        println!("{at:9.1} {took:9.1}  {what}");
        self.last = now;
    }
}

/// The sea and the hosts in it.
struct Stage {
    hosts: Vec<Host>,
    before: Vec<Traces>,
    clock: Clock,
    /// The image that the story was told with.
    image: String,
}

impl Stage {
    fn build(&mut self, home: &Path, interrupt: &Interrupt) -> Result<()> {
        let programs: PathBuf = std::env::current_exe()?
            .parent()
            .context("our program has no folder")?
            .to_owned();
        ip(&["link", "add", SEA, "type", "bridge"])?;
        ip(&["link", "set", SEA, "up"])?;
        ip(&["address", "add", "198.51.100.1/24", "dev", SEA])?;
        for number in 1..=1 {
            let mut host = Host::make(number, home, &programs, SEA)?;
            self.before.push(Traces::of(&host)?);
            self.clock
                .mark(&format!("{}: a host at {}", host.name, host.address()));
            let served = host.serve(interrupt);
            self.hosts.push(host);
            served?;
            self.clock
                .mark("longshore serves layers, networks, addresses and volumes");
        }
        Ok(())
    }

    fn linger(&self, interrupt: &Interrupt) {
        for host in &self.hosts {
            println!(
                "kept: nsenter --target {} --mount nsenter --net=/run/netns/{}; Ctrl-C ends it",
                std::process::id(),
                host.name
            );
        }
        while !interrupt.asked() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Takes everything down and tells what was left; goes on after a failure.
    fn tear_down(&mut self) -> Result<()> {
        let mut wrong = Vec::new();
        for (host, before) in self.hosts.iter_mut().zip(&self.before) {
            wrong.extend(story::undo(host, &self.image));
            self.clock.mark(&format!(
                "{}: containers, networks, volumes and images removed",
                host.name
            ));
            wrong.extend(host.stop().err().map(|error| format!("{error:#}")));
            self.clock.mark("longshore drained and ended");
            match Traces::of(host) {
                Ok(after) => wrong.extend(
                    after
                        .beyond(before)
                        .into_iter()
                        .map(|trace| format!("left behind: {trace}")),
                ),
                Err(error) => wrong.push(format!("{error:#}")),
            }
            wrong.extend(host.remove().err().map(|error| format!("{error:#}")));
        }
        wrong.extend(
            ip(&["link", "delete", SEA])
                .err()
                .map(|error| format!("{error:#}")),
        );
        self.clock.mark("hosts removed");
        ensure!(wrong.is_empty(), "tear down:\n  {}", wrong.join("\n  "));
        println!("no link, rule, route, mount, namespace, layer or volume was left behind");
        Ok(())
    }
}
