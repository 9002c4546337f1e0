//! Measures ours and a peer in the same run, on the same machine, interleaved.
//!
//! Prints one JSON object per row on standard output; `cargo xtask bench` makes
//! the table. Run it in namespaces of its own: the drivers are real.

mod bridge;
mod client;
mod row;
mod rpc;
mod server;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(name = "longshore-bench", about = "Measures longshore beside a peer")]
struct Words {
    /// The longshore binary to measure.
    #[arg(long)]
    longshore: PathBuf,
    /// What to measure; everything if none is named.
    rooms: Vec<Room>,
}

/// A field of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Room {
    /// The protocol itself: round trips, calls a second, memory, start.
    Rpc,
    /// Making, mounting and removing layers.
    Layers,
    /// Endpoints of the bridge driver.
    Bridge,
    /// Networks that span hosts.
    Overlay,
    /// Volumes.
    Volumes,
    /// Thin pools.
    Thin,
}

fn main() -> Result<()> {
    let words = Words::parse();
    let rooms = if words.rooms.is_empty() {
        Room::value_variants()
    } else {
        &words.rooms
    };
    for room in rooms {
        match room {
            Room::Rpc => rpc::measure(&words.longshore, &mut |row| println!("{}", row.json()))?,
            Room::Bridge => bridge::measure(&words.longshore, &mut |row| println!("{}", row.json()))?,
            other => {
                let name = other.to_possible_value().map(|value| value.get_name().to_owned());
                eprintln!("{}: no rows yet", name.unwrap_or_default());
            }
        }
    }
    Ok(())
}
