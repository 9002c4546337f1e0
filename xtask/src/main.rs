//! Chores of the project: `cargo xtask …`.
//!
//! **Invariant:** imports nothing of ours, so that it still runs when nothing else builds.

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
}

fn main() -> Result<()> {
    match Words::parse().chore {
        Chore::Tidy => tidy(),
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
