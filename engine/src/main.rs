//! A small container engine that drives plugins, for tests and demonstrations.
//!
//! It has no daemon: every command reads and changes files below its root, and each running container
//! has a monitor process of its own. Layers, networks, addresses and volumes are made by plugins.
//!
//! Look first at [`commands`] for what a command does, at [`monitor`] for the life of a container, and
//! at [`endpoints`] for how it comes into a network.
//!
//! **Invariant:** drivers are known by their sockets only; no driver crate is a dependency.
//! **Invariant:** what the engine takes from the world is written down before, so that whoever finds a
//! dead monitor can give it back.

// Runtimes and the monitor are programs that live as long as a container: no deadline fits them.
#![allow(clippy::disallowed_methods)]

mod bundle;
mod cli;
mod commands;
mod copy;
mod endpoints;
mod engine;
mod images;
mod layers;
mod links;
mod log;
mod monitor;
mod mounts;
mod plugins;
mod ports;
mod resolver;
mod runtime;
mod sandbox;
mod state;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use kernel::netns::Namespace;

use crate::cli::Cli;
use crate::engine::Engine;
use crate::plugins::Plugins;
use crate::state::Store;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("longshore-engine: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Runs the command in the namespace that counts as the host's. All threads and processes of the
/// command begin there.
fn dispatch(cli: Cli) -> Result<u8> {
    let Some(path) = cli.netns.clone() else {
        return perform(cli);
    };
    let host = Namespace::open(&path).context("enter the host's network namespace")?;
    host.run(|| perform(cli))?
}

fn perform(cli: Cli) -> Result<u8> {
    let root = std::path::absolute(&cli.root).context("find the root")?;
    let folder = std::path::absolute(&cli.plugins).context("find the plugins")?;
    let mut flags: Vec<OsString> = vec!["--root".into(), root.clone().into()];
    flags.extend(["--plugins".into(), folder.clone().into()]);
    flags.extend(["--volume-driver".into(), cli.volume_driver.clone().into()]);
    if let Some(netns) = &cli.netns {
        flags.extend(["--netns".into(), std::path::absolute(netns)?.into()]);
    }
    for (flag, value) in [("--graph", &cli.graph), ("--runtime", &cli.runtime)] {
        if let Some(value) = value {
            flags.extend([flag.into(), value.into()]);
        }
    }
    let engine = Engine {
        store: Store::open(&root)?,
        plugins: Plugins { folder },
        graph_name: cli.graph,
        runtime: cli.runtime,
        volume_driver: cli.volume_driver,
        flags,
    };
    commands::perform(&engine, cli.command)
}
