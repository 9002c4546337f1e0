//! The command line, word for word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use plugin_api::id::MacAddr;

/// A small container engine that drives plugins, for tests and demonstrations.
#[derive(Debug, Parser)]
#[command(name = "longshore-engine", version)]
pub(crate) struct Cli {
    /// Folder of the engine's state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/longshore-engine")]
    pub(crate) root: PathBuf,
    /// Folder of the plugins' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/docker/plugins")]
    pub(crate) plugins: PathBuf,
    /// Network namespace that counts as this host's own
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: Option<PathBuf>,
    /// Graph plugin that keeps the layers; fixed at first use [default: longshore]
    #[arg(long, value_name = "NAME")]
    pub(crate) graph: Option<String>,
    /// OCI runtime [default: crun where it works, else runc]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) runtime: Option<String>,
    /// Driver of volumes that name none
    #[arg(long, value_name = "NAME", default_value = crate::engine::DEFAULT_DRIVER)]
    pub(crate) volume_driver: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Make an image of a container's changes
    Commit { container: String, name: String },
    /// Show how a container's files differ from its image: A added, C changed, D deleted
    Diff { container: String },
    /// Make and start a container
    Run(Box<Run>),
    /// Run a further command in a running container
    Exec(Exec),
    /// Show a container's output
    Logs {
        /// Stay and show what comes
        #[arg(short, long)]
        follow: bool,
        container: String,
    },
    /// List containers
    Ps {
        /// Also those that do not run
        #[arg(short, long)]
        all: bool,
        /// Only ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show everything about a container, an image, a network or a volume as JSON
    Inspect { name: String },
    /// Stop containers: SIGTERM, then SIGKILL
    Stop {
        /// Seconds between the two
        #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
        time: u64,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Start containers that have stopped
    Start {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send a signal to containers
    Kill {
        #[arg(short, long, default_value = "KILL")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers
    Rm {
        /// Kill those that run
        #[arg(short, long)]
        force: bool,
        /// And their volumes without a name
        #[arg(short, long)]
        volumes: bool,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Copy files into or out of a container: CONTAINER:PATH on one side
    Cp { from: String, to: String },
    /// List a container's published ports
    Port { container: String },
    /// Show versions of engine, runtime and plugins
    Version,
    /// Watch one container (internal)
    #[command(hide = true)]
    Monitor { id: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image of a tar: a root tree, an OCI layout or what `docker save` writes; - reads stdin
    Import { file: PathBuf, name: String },
    /// Take images out of an OCI layout or what `docker save` writes; - reads stdin
    Load { file: PathBuf },
    /// List images
    Ls,
    /// Show the layers of an image
    History { name: String },
    /// Remove images
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network
    Create(NetworkCreate),
    /// List networks
    Ls,
    /// Show everything about a network as JSON
    Inspect { name: String },
    /// Remove networks
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Bring a container into a network
    Connect {
        /// Address in the network
        #[arg(long)]
        ip: Option<Ipv4Addr>,
        /// IPv6 address in the network
        #[arg(long)]
        ip6: Option<Ipv6Addr>,
        /// Further name in the network
        #[arg(long)]
        alias: Vec<String>,
        network: String,
        container: String,
    },
    /// Take a container out of a network
    Disconnect { network: String, container: String },
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreate {
    /// Network driver: the name of a socket in the plugin folder
    #[arg(short, long, default_value = crate::engine::DEFAULT_DRIVER)]
    pub(crate) driver: String,
    /// Address driver [default: the network driver if it does addresses, else longshore]
    #[arg(long)]
    pub(crate) ipam_driver: Option<String>,
    /// Subnet, once per address family
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Vec<IpNet>,
    /// Gateway of a subnet
    #[arg(long, value_name = "IP")]
    pub(crate) gateway: Vec<IpAddr>,
    /// Part of a subnet that addresses come from
    #[arg(long, value_name = "CIDR")]
    pub(crate) ip_range: Vec<IpNet>,
    /// Also IPv6
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// No way out
    #[arg(long)]
    pub(crate) internal: bool,
    /// Option of the driver
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    pub(crate) opt: Vec<String>,
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create {
        /// Volume driver: the name of a socket in the plugin folder
        #[arg(short, long)]
        driver: Option<String>,
        /// Option of the driver
        #[arg(short, long = "opt", value_name = "KEY=VALUE")]
        opt: Vec<String>,
        name: Option<String>,
    },
    /// List volumes
    Ls,
    /// Show everything about a volume as JSON
    Inspect { name: String },
    /// Remove volumes
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Print the id and leave the container running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Give it this command's standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Networks, separated by commas; `none` for no network
    #[arg(long, visible_alias = "net", value_delimiter = ',', value_name = "NAME")]
    pub(crate) network: Vec<String>,
    /// Address in the first network
    #[arg(long)]
    pub(crate) ip: Option<Ipv4Addr>,
    /// IPv6 address in the first network
    #[arg(long)]
    pub(crate) ip6: Option<Ipv6Addr>,
    /// MAC address in the first network
    #[arg(long)]
    pub(crate) mac_address: Option<MacAddr>,
    /// Publish a port: [ip:][host:]container[/protocol]
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Reach another container by name or alias
    #[arg(long, value_name = "NAME[:ALIAS]")]
    pub(crate) link: Vec<String>,
    /// Mount a volume or a host folder: [source:]/path[:ro]
    #[arg(short, long, value_name = "MOUNT")]
    pub(crate) volume: Vec<String>,
    /// Mount what another container mounts
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub(crate) volumes_from: Vec<String>,
    /// Set a variable; without a value, take ours
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Further name in the networks
    #[arg(long, value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// Run this instead of what the image runs
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// The image, then what to run in it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    #[arg(value_names = ["IMAGE", "CMD"], num_args = 1..)]
    pub(crate) words: Vec<String>,
}

impl Run {
    /// The image.
    pub(crate) fn image(&self) -> &str {
        &self.words[0]
    }

    /// What to run instead of the image's command; empty if nothing is said.
    pub(crate) fn cmd(&self) -> &[String] {
        &self.words[1..]
    }
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Give it this command's standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Set a variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// The container, then what to run in it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    #[arg(value_names = ["CONTAINER", "CMD"], num_args = 2..)]
    pub(crate) words: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_behind_the_image_are_the_containers() {
        let typed = [
            "longshore-engine",
            "run",
            "--rm",
            "-p",
            "80:80",
            "box",
            "sh",
            "-c",
            "--rm",
        ];
        let cli = Cli::try_parse_from(typed).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not a run");
        };
        assert_eq!(run.cmd(), ["sh", "-c", "--rm"]);
        assert_eq!(run.image(), "box");
        let typed = ["longshore-engine", "run", "box", "--help"];
        let Command::Run(run) = Cli::try_parse_from(typed).unwrap().command else {
            panic!("not a run");
        };
        assert_eq!(run.cmd(), ["--help"]);
        assert!(Cli::try_parse_from(["longshore-engine", "run", "--rm"]).is_err());
        assert!(Cli::try_parse_from(["longshore-engine", "exec", "web"]).is_err());
    }
}
