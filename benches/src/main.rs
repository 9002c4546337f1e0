//! Measures ours and a peer in the same run, on the same machine, interleaved.
//!
//! Prints one JSON object per row on standard output; `cargo xtask bench` makes
//! the table. Run it in namespaces of its own: the drivers are real.

mod bridge;
mod client;
mod engine;
mod ground;
mod layers;
mod row;
mod rpc;
mod server;
mod wishes;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use row::Row;
use wishes::Wishes;

#[derive(Parser)]
#[command(name = "longshore-bench", about = "Measures longshore beside a peer")]
struct Words {
    /// The longshore binary to measure.
    #[arg(long)]
    longshore: PathBuf,
    /// Measure these rows of the rooms only; their names are told on the way.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Two rounds of what takes long: a glance, no measurement.
    #[arg(long)]
    quick: bool,
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
        Room::value_variants().to_vec()
    } else {
        words.rooms
    };
    let wishes = Wishes {
        longshore: words.longshore,
        only: words.only,
        quick: words.quick,
    };
    let mut tell = |row: &Row| println!("{}", row.json());
    if rooms
        .iter()
        .any(|room| matches!(room, Room::Layers | Room::Bridge))
    {
        ground::make_private()?;
    }
    let mut broken = Vec::new();
    for room in rooms {
        let outcome = match room {
            Room::Rpc => rpc::measure(&wishes.longshore, &mut tell),
            Room::Layers => layers::measure(&wishes, &mut tell),
            Room::Bridge => bridge::measure(&wishes, &mut tell),
            other => {
                let name = other.to_possible_value().map(|value| value.get_name().to_owned());
                eprintln!("{}: no rows yet", name.unwrap_or_default());
                Ok(())
            }
        };
        // The other rooms have rows too.
        broken.extend(outcome.err().map(|error| format!("{error:#}")));
    }
    anyhow::ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}
