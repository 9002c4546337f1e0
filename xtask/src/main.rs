//! Chores of the project: `cargo xtask …`.
//!
//! **Invariant:** imports nothing of ours, so that it still runs when nothing else builds.

mod lanes;
mod run;
mod tidy;

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
    /// Run the tests: every lane, or the named ones.
    Test {
        /// Run only this lane; may be given several times.
        #[arg(long = "lane", value_name = "NAME")]
        lanes: Vec<lanes::Lane>,
    },
}

fn main() -> Result<()> {
    match Words::parse().chore {
        Chore::Tidy => tidy(),
        Chore::Test { lanes } => lanes::test(&lanes),
    }
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
