//! `cargo xtask test`: the test command, in lanes.
//!
//! Everything is built once, with one set of features; a lane is then a filter
//! over the same binaries, run one process per test.

mod machine;
mod skips;
mod suites;
mod unpacked;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use machine::{Need, provide};
use skips::Skips;
pub(crate) use suites::{Suite, root as root_of};

use crate::{run, tidy};

/// The features of every build of the test command: one set, so nothing is built twice.
const FEATURES: &[&str] = &["--workspace", "--features", "longshore/fault,cluster/contract"];
/// Every lane that is a part of the tests, as nextest's filters; what none of them names is `unit`'s.
const CONTRACT: &str = "binary(/^contract/)";
const CRASH: &str = "binary(/crash$/)";
const ENGINES: &str = "package(longshore) & binary(=suite)";
const VM: &str = "package(longshore) & binary(=vm)";
/// What is tested in namespaces of its own: the drivers from outside, and the cellar's system calls.
const NETNS: &str = "((package(/drivers$/) & kind(test)) + (package(kernel) & test(/^(mount|netns|netlink)::/))) \
                     - binary(/^contract/) - binary(/crash$/)";

/// The last suite that has it is older than what the other tests want.
const CONSUL: Need = Need::Unpacked {
    program: "consul",
    package: "consul",
    suite: "bullseye",
    any: true,
};

/// The first that asks others for its differences; the other tests drive the one that is installed.
const CONTAINERD: Need = Need::Unpacked {
    program: "containerd",
    package: "containerd",
    suite: "trixie",
    any: false,
};

/// Stores that tests run on loopback, and what makes certificates for them.
const STORES: [Need; 6] = [
    CONSUL,
    Need::Program("etcd", "etcd-server"),
    Need::Program("etcdctl", "etcd-client"),
    Need::Program("openssl", "openssl"),
    Need::Program("java", "default-jre-headless"),
    Need::File("/usr/share/java/zookeeper.jar", "zookeeper"),
];

/// Suites with newer engines than this machine's own.
const SUITES: [Need; 2] = [Need::Suite(Suite::Trixie), Need::Suite(Suite::Forky)];

/// A named part of the test command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lane {
    /// Formatting, clippy with and without faults, the rules of the house.
    Lint,
    /// Tests of single crates, and the examples in the documentation.
    Unit,
    /// The contract suites over every driver, in process and over the socket.
    Contract,
    /// Drivers from outside and the cellar's system calls, in namespaces of their own.
    Netns,
    /// Faults and kill -9 at every step.
    Crash,
    /// Real dockerd, Podman and containerd, and the reference engine.
    Engines,
    /// What this machine's kernel may lack, on Debian's own in a guest.
    Vm,
    /// The long runs, shortened.
    SoakShort,
}

impl Lane {
    const ALL: [Self; 8] = [
        Self::Lint,
        Self::Unit,
        Self::Contract,
        Self::Netns,
        Self::Crash,
        Self::Engines,
        Self::Vm,
        Self::SoakShort,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Contract => "contract",
            Self::Netns => "netns",
            Self::Crash => "crash",
            Self::Engines => "engines",
            Self::Vm => "vm",
            Self::SoakShort => "soak-short",
        }
    }

    fn needs(self) -> Vec<Need> {
        let namespaces = [
            Need::Root,
            Need::Program("ip", "iproute2"),
            Need::Program("nft", "nftables"),
            Need::Program("unshare", "util-linux"),
            Need::Program("mkfs.ext4", "e2fsprogs"),
            Need::Program("mkfs.xfs", "xfsprogs"),
        ];
        let disks = [
            Need::Program("losetup", "mount"),
            Need::Program("mkfs.ext4", "e2fsprogs"),
            Need::Program("mkfs.btrfs", "btrfs-progs"),
        ];
        let engines = [
            Need::Program("dockerd", "docker.io"),
            Need::Program("docker", "docker.io"),
            Need::Program("podman", "podman"),
            Need::Program("containerd", "containerd"),
            Need::Program("ctr", "containerd"),
            Need::Program("runc", "runc"),
            Need::Program("crun", "crun"),
            Need::Program("iptables", "iptables"),
            Need::Program("busybox", "busybox-static"),
            Need::Program("newuidmap", "uidmap"),
            Need::Program("tc", "iproute2"),
            // In no folder of PATH; runtimes know where.
            Need::Program("/usr/lib/cni/portmap", "containernetworking-plugins"),
            Need::Program("strace", "strace"),
            Need::Program("zstd", "zstd"),
        ];
        match self {
            Self::Lint => vec![Need::Program("git", "git")],
            Self::SoakShort => vec![Need::Nextest, Need::Root],
            Self::Vm => [&[Need::Nextest][..], crate::vm::NEEDS].concat(),
            Self::Unit => [&[Need::Nextest][..], &namespaces].concat(),
            Self::Netns => [&[Need::Nextest][..], &namespaces, &disks].concat(),
            Self::Contract => [&[Need::Nextest][..], &namespaces, &disks, &STORES].concat(),
            Self::Crash => [&[Need::Nextest][..], &namespaces, &engines, &disks].concat(),
            Self::Engines => [
                &[Need::Nextest][..],
                &namespaces,
                &engines,
                &SUITES,
                &[CONTAINERD],
            ]
            .concat(),
        }
    }

    /// The longest that the lane may take once it is built.
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Lint | Self::Unit | Self::Contract | Self::Netns => 900,
            Self::Crash | Self::Engines => 1800,
            Self::SoakShort => 600,
            Self::Vm => 180,
        })
    }

    /// Which tests are the lane's, as nextest's filter; none for lanes that filter nothing.
    fn filter(self) -> Option<String> {
        Some(match self {
            Self::Lint => return None,
            Self::Unit => format!("not (({CONTRACT}) + ({CRASH}) + ({ENGINES}) + ({VM}) + ({NETNS}))"),
            Self::Contract => CONTRACT.to_owned(),
            Self::Netns => NETNS.to_owned(),
            Self::Crash => CRASH.to_owned(),
            Self::Engines => ENGINES.to_owned(),
            Self::Vm => VM.to_owned(),
            Self::SoakShort => "binary(=fuzz_wire) + binary(=fuzz_archive)".to_owned(),
        })
    }
}

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One line of the closing table.
struct Row {
    lane: Lane,
    outcome: Outcome,
    seconds: f64,
    skips: usize,
}

/// Runs `chosen` lanes, or all; an error when anything failed, or was skipped where skips are refused.
pub(crate) fn test(chosen: &[Lane]) -> Result<()> {
    let lanes: Vec<Lane> = Lane::ALL
        .into_iter()
        .filter(|l| chosen.is_empty() || chosen.contains(l))
        .collect();
    let mut skips = Skips::open(&run::target_dir()?.join("longshore-skips.txt"))?;
    let needs = needs(&lanes);
    let missing = provide(&needs)?;
    if lanes.iter().any(|lane| lane.filter().is_some()) && !missing.contains(&Need::Nextest) {
        build()?;
    }
    let mut rows = Vec::new();
    for lane in lanes {
        rows.push(one(lane, &missing, &mut skips)?);
    }
    close(&rows, &skips)
}

/// The long forms: the fuzz tests, optimised, since they are to read as much as they can; the crash sweep
/// with every change of every repair, and every power cut, of which the test command takes a share; five
/// minutes of writers and deaths.
pub(crate) fn soak(iterations: u64, seed: Option<u64>) -> Result<()> {
    for (package, test) in [("plugin-api", "fuzz_wire"), ("graphdrivers", "fuzz_archive")] {
        let mut command = run::cargo();
        command.args([
            "test",
            "--release",
            "-p",
            package,
            "--test",
            test,
            "--",
            "--nocapture",
        ]);
        command.env("LONGSHORE_FUZZ_ITERATIONS", iterations.to_string());
        if let Some(seed) = seed {
            command.env("LONGSHORE_FUZZ_SEED", seed.to_string());
        }
        run::must(&mut command)?;
    }
    let mut sweep = nextest("run")?;
    sweep.args(FEATURES).args(["--profile", "soak", "-E", CRASH]);
    sweep
        .env("LONGSHORE_SWEEP", "full")
        .env("LONGSHORE_KILLS", "1000");
    run::must(sweep.env("LONGSHORE_WRITERS_SECONDS", "300"))
}

/// Everything that `lanes` need, each once, printed lane by lane.
fn needs(lanes: &[Lane]) -> Vec<Need> {
    let mut all = Vec::new();
    for lane in lanes {
        let needs = lane.needs();
        let spoken: Vec<&str> = needs.iter().map(|need| need.spoken()).collect();
        println!("{:10} needs {}", lane.name(), spoken.join(", "));
        all.extend(needs);
    }
    let mut seen = Vec::new();
    all.retain(|need| {
        !seen.contains(need) && {
            seen.push(*need);
            true
        }
    });
    all
}

fn build() -> Result<()> {
    println!("\n=== build");
    run::must(run::cargo().args(["build", "--bins"]).args(FEATURES))?;
    run::must(nextest("run")?.arg("--no-run").args(FEATURES))
}

fn one(lane: Lane, missing: &[Need], skips: &mut Skips) -> Result<Row> {
    println!("\n=== {}", lane.name());
    let start = Instant::now();
    let absent: Vec<&str> = lane
        .needs()
        .into_iter()
        .filter(|need| missing.contains(need))
        .map(Need::spoken)
        .collect();
    let outcome = if absent.is_empty() {
        outcome_of(lane, skips.file())
    } else {
        skips.add(&format!("lane {}: missing {}", lane.name(), absent.join(", ")))?;
        Ok(Outcome::Skipped)
    };
    let outcome = outcome.unwrap_or_else(|error| {
        eprintln!("{}: {error:#}", lane.name());
        Outcome::Failed
    });
    Ok(Row {
        lane,
        outcome,
        seconds: start.elapsed().as_secs_f64(),
        skips: skips.new_lines()?,
    })
}

fn outcome_of(lane: Lane, skips: &Path) -> Result<Outcome> {
    match lane.filter() {
        None => lint(lane.limit())?,
        Some(filter) if lane == Lane::Vm => vm::run(&filter, lane.limit())?,
        Some(filter) => {
            let mut command = bounded(&nextest_program()?, lane.limit());
            command
                .args(["nextest", "run"])
                .args(FEATURES)
                .args(["-E", &filter]);
            command.env("LONGSHORE_SKIPS", skips);
            if lane == Lane::SoakShort {
                command.env("LONGSHORE_FUZZ_ITERATIONS", "200000");
            }
            passed(&mut command)?;
            if lane == Lane::Unit {
                passed(
                    bounded(&cargo_program(), lane.limit())
                        .args(["test", "--doc", "--quiet"])
                        .args(FEATURES),
                )?;
            }
        }
    }
    Ok(Outcome::Passed)
}

fn lint(limit: Duration) -> Result<()> {
    let cargo = cargo_program();
    let clippy = ["clippy", "--workspace", "--all-targets"];
    passed(bounded(&cargo, limit).args(["fmt", "--all", "--check"]))?;
    passed(bounded(&cargo, limit).args(clippy).args(["--", "-D", "warnings"]))?;
    passed(bounded(&cargo, limit).args(clippy).args([
        "--features",
        "longshore/fault,cluster/contract",
        "--",
        "-D",
        "warnings",
    ]))?;
    let complaints = tidy::complaints(&run::root())?;
    if !complaints.is_empty() {
        bail!("{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    }
    Ok(())
}

/// `program` under a time limit, after which it is asked to end, and then made to.
fn bounded(program: &Path, limit: Duration) -> Command {
    // In the foreground, so that Ctrl-C reaches the tests and not only us.
    let mut command = run::program("timeout");
    command
        .args(["--foreground", "--kill-after=30"])
        .arg(limit.as_secs().to_string())
        .arg(program);
    command
}

fn passed(command: &mut Command) -> Result<()> {
    let spoken = run::spoken(command);
    let status: ExitStatus = command.status().with_context(|| format!("start {spoken}"))?;
    match status.code() {
        Some(0) => Ok(()),
        // What timeout answers when the limit has passed.
        Some(124 | 137) => bail!("{spoken}: out of time"),
        _ => bail!("{spoken}: {status}"),
    }
}

fn nextest_program() -> Result<PathBuf> {
    let in_home = std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin/cargo-nextest"));
    run::which("cargo-nextest")
        .or(in_home)
        .context("cargo-nextest is not on this machine")
}

fn nextest(verb: &str) -> Result<Command> {
    let mut command = run::program(nextest_program()?);
    command.args(["nextest", verb]);
    Ok(command)
}

fn cargo_program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn close(rows: &[Row], skips: &Skips) -> Result<()> {
    println!("\n{:10} {:8} {:>8} {:>6}", "lane", "outcome", "seconds", "skips");
    for Row {
        lane,
        outcome,
        seconds,
        skips,
    } in rows
    {
        let outcome = match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        println!("{:10} {outcome:8} {seconds:8.1} {skips:6}", lane.name());
    }
    let all = skips.all()?;
    for skip in &all {
        println!("skipped: {skip}");
    }
    let failed = rows.iter().filter(|row| row.outcome == Outcome::Failed).count();
    let passed = rows.iter().filter(|row| row.outcome == Outcome::Passed).count();
    println!("lanes: {passed} passed, {failed} failed, {} skips", all.len());
    if failed > 0 {
        bail!("{failed} lanes failed");
    }
    if !all.is_empty() && skips::refused() {
        bail!("{} skips, and LONGSHORE_REQUIRE refuses them", all.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_own_name() {
        let mut names: Vec<&str> = Lane::ALL.iter().map(|lane| lane.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Lane::ALL.len());
    }

    #[test]
    fn a_lane_name_on_the_command_line_is_the_name_in_the_table() {
        for lane in Lane::ALL {
            assert_eq!(lane.to_possible_value().unwrap().get_name(), lane.name());
        }
    }

    #[test]
    fn a_program_past_its_limit_is_out_of_time() {
        let error = passed(bounded(Path::new("sleep"), Duration::from_secs(1)).arg("20")).unwrap_err();
        assert!(format!("{error:#}").ends_with("out of time"), "{error:#}");
    }

    #[test]
    fn a_failing_program_fails_its_lane() {
        assert!(passed(&mut bounded(Path::new("false"), Duration::from_secs(5))).is_err());
    }
}
