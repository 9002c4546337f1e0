//! Chores of the project: `cargo xtask …`.
//!
//! **Invariant:** imports nothing of ours, so that it still runs when nothing else builds.

mod bench;
mod demo;
mod dist;
mod lanes;
mod proto;
mod record;
mod run;
mod tidy;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Chores of the project")]
struct Words {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the rules of the house that no compiler knows.
    Tidy,
    /// Run the main job from an empty folder, in namespaces of its own, with a timeline.
    Demo {
        /// Use this archive of `docker save` instead of a small image of our own.
        #[arg(long, value_name = "TAR")]
        image: Option<PathBuf>,
        /// Leave everything standing until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// We are inside the namespaces already.
        #[arg(long, hide = true, value_name = "HOME")]
        inside: Option<PathBuf>,
    },
    /// Measure ours and a peer in the same run.
    Bench(bench::Wishes),
    /// Build what is installed: static binaries, manual pages, completions, units; in target/dist.
    Dist,
    /// Make the code of gRPC interfaces anew.
    Proto,
    /// Write down what a real engine says to a plugin.
    Record {
        /// Which engine.
        #[arg(long)]
        engine: record::Engine,
        /// The Debian suite whose engine it is, if not this machine's own.
        #[arg(long)]
        suite: Option<lanes::Suite>,
        /// We are inside the namespaces already.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Run the long form of the tests that take as much time as they are given.
    Soak {
        /// How many broken requests to read.
        #[arg(long, default_value_t = 10_000_000)]
        iterations: u64,
        /// Where the dice start.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run the tests: every lane, or the named ones.
    Test {
        /// Run only this lane; may be given several times.
        #[arg(long = "lane", value_name = "NAME")]
        lanes: Vec<lanes::Lane>,
    },
    /// Work with guests: Debian's own kernel, emulated by QEMU.
    Vm {
        #[command(subcommand)]
        verb: Vm,
    },
}

#[derive(Subcommand)]
enum Vm {
    /// Run a program in a guest that sees this machine's files, read only; its exit code is ours.
    Run(vm::Wishes),
}

fn main() -> ExitCode {
    match chore(Words::parse().chore) {
        // A code above 255 is none that a program ends with.
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) if error.is::<demo::Interrupted>() => {
            eprintln!("xtask: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does it, and answers the exit code.
fn chore(chore: Chore) -> Result<i32> {
    let outcome = match chore {
        Chore::Vm {
            verb: Vm::Run(wishes),
        } => return vm::chore(&wishes),
        Chore::Tidy => tidy(),
        Chore::Record {
            engine, inside: true, ..
        } => record::inside(engine),
        Chore::Record { engine, suite, .. } => record::record(engine, suite),
        Chore::Demo { image, keep, inside } => {
            let wishes = demo::Wishes {
                image: image.as_deref(),
                keep,
            };
            match inside {
                Some(home) => demo::inside(&home, &wishes),
                None => demo::demo(&wishes),
            }
        }
        Chore::Dist => dist::dist(),
        Chore::Proto => proto::write(),
        Chore::Bench(wishes) => bench::bench(&wishes),
        Chore::Soak { iterations, seed } => lanes::soak(iterations, seed),
        Chore::Test { lanes } => lanes::test(&lanes),
    };
    outcome.map(|()| 0)
}

fn tidy() -> Result<()> {
    let all = tidy::complaints(&run::root())?;
    for complaint in &all {
        eprintln!("{complaint}");
    }
    if !all.is_empty() {
        bail!("{} complaints", all.len());
    }
    println!("tidy");
    Ok(())
}
