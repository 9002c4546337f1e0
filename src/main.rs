//! longshore: storage and network drivers for any container engine, in one binary.
//!
//! The front desk: parse arguments, load the configuration, assemble drivers, serve, drain. The only
//! crate that knows every driver.

mod assemble;
mod config;
mod doors;
mod observe;
mod serve;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use graphdrivers::adopt::Fate;

use config::{Config, Instance, Kind, resolve::Flags};

/// Storage and network drivers for any container engine.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the configured drivers until SIGTERM
    Serve(Where),
    /// Check the configuration and show what it means
    Check(Where),
    /// Take over the layers of Docker's driver overlay2 without copying them, while neither engine nor
    /// longshore runs
    Adopt {
        /// The table `[graph.NAME]` whose store gets them
        name: String,
        /// Docker's folder of layers, such as /var/lib/docker/overlay2
        folder: PathBuf,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Configuration file [default: /etc/longshore/longshore.toml if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Folder of the drivers' state [default: /var/lib/longshore]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Show networks, published ports, addresses, volumes and layers of a running longshore
    Status(status::Arguments),
    /// Be a CNI plugin: what `longshore-cni`, a link to this program, is
    Cni,
    /// Be a netavark plugin: what `longshore-netavark`, a link to this program, is
    Netavark {
        /// create, setup NETNS, teardown NETNS or info
        words: Vec<std::ffi::OsString>,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Mount or unmount for the volume drivers, as its standard input says
    #[command(name = voldrivers::local::HELPER, hide = true)]
    VolumeHelper,
}

#[derive(Debug, clap::Args)]
struct Where {
    /// Configuration file [default: /etc/longshore/longshore.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the drivers' state [default: /var/lib/longshore]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Folder of the sockets, NAME.sock [default: /run/docker/plugins]
    #[arg(long, value_name = "DIR")]
    sockets: Option<PathBuf>,
    /// Log filter: error, warn, info, debug, or by module [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How a line of the log looks
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: observe::Format,
    /// Serve only these kinds of drivers
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Kind>,
}

impl From<Where> for Flags {
    fn from(given: Where) -> Self {
        let Where {
            config,
            state,
            sockets,
            log,
            log_format: _,
            only,
        } = given;
        Self {
            config,
            state,
            sockets,
            log,
            only,
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(door) = doors::by_name(words.first()) {
        return door(&words[1..]);
    }
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("longshore: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(given) => {
            let format = given.log_format;
            let config = Config::load(&given.into())?;
            observe::start(&config.log, format)?;
            serve::serve(&config)?;
        }
        Command::Adopt {
            name,
            folder,
            dry_run,
            config,
            state,
        } => {
            let flags = Flags {
                config,
                state,
                ..Flags::default()
            };
            adopt(&Config::load(&flags)?, &name, &folder, dry_run)?;
        }
        Command::Check(given) => check(&Config::load(&given.into())?),
        Command::Status(given) => return status::show(given),
        Command::Cni => return Ok(doors::cni()),
        Command::Netavark { words } => return Ok(doors::netavark(&words)),
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            clap_mangen::generate_to(Arguments::command(), &folder)
                .with_context(|| format!("write manual pages into {}", folder.display()))?;
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "longshore",
                &mut std::io::stdout(),
            );
        }
        Command::VolumeHelper => {
            return Ok(match voldrivers::local::help(std::io::stdin()) {
                Ok(()) => ExitCode::SUCCESS,
                Err((code, complaint)) => {
                    eprintln!("{complaint}");
                    ExitCode::from(code)
                }
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn adopt(config: &Config, name: &str, folder: &Path, dry: bool) -> anyhow::Result<()> {
    let found = assemble::adopt_layers(config, name, folder, dry)?;
    let verb = if dry { "would be moved" } else { "moved" };
    for (layer, fate) in &found {
        let kind = if layer.writable { "container" } else { "image" };
        let parent = layer.parent.as_ref().map_or("-", |parent| parent.as_str());
        let fate = match fate {
            Fate::Moved => verb,
            Fate::AlreadySo => "in the store",
        };
        println!("{} {kind} upon {parent}: {fate}", layer.id.as_str());
    }
    println!("{} layers", found.len());
    Ok(())
}

fn check(config: &Config) {
    println!("sockets in {}, logs at {}", config.sockets.display(), config.log);
    for (name, instances) in &config.plugins {
        println!("{name}.sock");
        instances.iter().for_each(show);
    }
    for (name, instance) in &config.snapshotters {
        println!("{}", config.snapshots.join(format!("{name}.sock")).display());
        show(instance);
    }
}

fn show(instance: &Instance) {
    println!(
        "  {:<8} {:<8} state in {}",
        instance.kind.as_str(),
        instance.driver,
        instance.state.display()
    );
}
