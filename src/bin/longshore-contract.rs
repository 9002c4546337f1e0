//! Points the contract suites at any plugin of the Docker plugin API, in any language.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use plugin_api::client::Client;
use plugin_api::contract::wire::{self, Socket, WireSubject};
use plugin_api::contract::{
    Case, GraphSubject, IpamSubject, NetworkSubject, Outcome, Report, Subject, VolumeSubject, graph, ipam,
    network, run_case, volume,
};
use plugin_api::fault::FaultKind;
use plugin_api::wire::Verb;

/// Tries a plugin against what engines rely on.
///
/// Says hello to the plugin, then runs the suite of every kind of driver it implements, and the suite
/// of the bytes on the wire. Prints one line per case: ok, FAIL or skip, with the time it took.
/// Names are made up anew for each run, and what a case made it removes. Mount points must be visible
/// here, so run it on the plugin's host, as root where the plugin mounts.
///
/// The graph suite begins with GraphDriver.Init, as a starting engine does, and that voids the holds
/// of running containers; the volume and wire suites say Plugin.Activate, as a starting engine does.
/// Do not point it at a plugin that serves containers you need.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all passed or skipped, 1 a case failed, 2 usage or connection trouble."
)]
struct Arguments {
    /// The plugin's Unix socket, such as /run/docker/plugins/NAME.sock.
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    socket: Option<PathBuf>,
    /// Only this suite; may be repeated. Without it: all that the plugin implements, and the wire.
    #[arg(long, value_enum, value_name = "KIND")]
    subsystem: Vec<Kind>,
    /// Only cases whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    case: String,
    /// Lists the cases with their reasons and runs none.
    #[arg(long)]
    list: bool,
    /// An option for every volume and network that is made; may be repeated.
    #[arg(long = "opt", value_name = "KEY=VALUE", value_parser = pair)]
    options: Vec<(String, String)>,
    /// An option that makes a second volume of one name differ from the first; may be repeated.
    #[arg(long = "other-opt", value_name = "KEY=VALUE", value_parser = pair)]
    other_options: Vec<(String, String)>,
    /// The folder that GraphDriver.Init names.
    #[arg(long, value_name = "PATH", default_value = "/var/lib/longshore-contract")]
    home: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Graph,
    Network,
    Ipam,
    Volume,
    Wire,
}

impl Kind {
    /// As `Plugin.Activate` tells it; the wire is there in any case.
    fn announced(self) -> Option<&'static str> {
        match self {
            Self::Graph => Some("GraphDriver"),
            Self::Network => Some("NetworkDriver"),
            Self::Ipam => Some("IpamDriver"),
            Self::Volume => Some("VolumeDriver"),
            Self::Wire => None,
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must read KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    fn tell(&mut self, report: &Report) {
        let Report {
            subsystem,
            name,
            took,
            ..
        } = report;
        let took = took.as_secs_f64() * 1e3;
        match &report.outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("ok    {subsystem:<8} {name}  {took:.1} ms");
            }
            Outcome::Failed(text) => {
                self.failed += 1;
                println!(
                    "FAIL  {subsystem:<8} {name}: {text}\n      it matters because {}",
                    report.why
                );
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skip  {subsystem:<8} {name}: {reason}");
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.socket {
        Some(socket) if !arguments.list => judge(&arguments, socket),
        _ => {
            list(&arguments);
            return ExitCode::SUCCESS;
        }
    };
    match outcome {
        Ok(tally) => {
            println!(
                "{} passed, {} failed, {} skipped",
                tally.passed, tally.failed, tally.skipped
            );
            ExitCode::from(u8::from(tally.failed > 0))
        }
        Err(error) => {
            eprintln!("longshore-contract: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list(arguments: &Arguments) {
    let wanted = |kind| arguments.subsystem.is_empty() || arguments.subsystem.contains(&kind);
    for kind in Kind::value_variants() {
        match kind {
            kind if !wanted(*kind) => {}
            Kind::Graph => list_suite(graph::SUITE, &arguments.case),
            Kind::Network => list_suite(network::SUITE, &arguments.case),
            Kind::Ipam => list_suite(ipam::SUITE, &arguments.case),
            Kind::Volume => list_suite(volume::SUITE, &arguments.case),
            Kind::Wire => list_suite(wire::SUITE, &arguments.case),
        }
    }
}

fn list_suite<D: ?Sized>(suite: &[Case<D>], part: &str) {
    for case in suite.iter().filter(|case| case.name.contains(part)) {
        println!("{:<8} {}: {}", case.subsystem, case.name, case.why);
    }
}

/// Runs the suites asked for, or those of every kind the plugin says it is.
fn judge(arguments: &Arguments, path: &Path) -> anyhow::Result<Tally> {
    let client = Client::connect(path).map_err(|fault| anyhow::anyhow!(fault.sentence()))?;
    let implements = client
        .activate()
        .map_err(|fault| anyhow::anyhow!(fault.sentence()))
        .context("activate the plugin")?;
    let is = |kind: Kind| {
        kind.announced()
            .is_none_or(|name| implements.iter().any(|known| known == name))
    };
    if let Some(absent) = arguments.subsystem.iter().find(|kind| !is(**kind)) {
        anyhow::bail!(
            "the plugin implements {}, not {}",
            implements.join(", "),
            absent.announced().unwrap_or("it")
        );
    }
    let wanted = |kind| {
        if arguments.subsystem.is_empty() {
            is(kind)
        } else {
            arguments.subsystem.contains(&kind)
        }
    };
    let mut tally = Tally::default();
    if wanted(Kind::Graph) {
        let subject = GraphSubject::new(|| Ok(Arc::new(client.graph()) as graph::Driver));
        run(graph::SUITE, arguments, subject, &mut tally);
    }
    if wanted(Kind::Network) {
        let subject = NetworkSubject::new(|| Ok(Arc::new(client.network()) as network::Driver));
        client
            .network()
            .announced()
            .map_err(|fault| anyhow::anyhow!(fault.sentence()))
            .context("ask for capabilities")?;
        let subject = if publishes(&client) {
            subject
        } else {
            subject.publishes_no_ports()
        };
        run(network::SUITE, arguments, subject, &mut tally);
    }
    if wanted(Kind::Ipam) {
        let subject = IpamSubject::new(|| Ok(Arc::new(client.ipam()) as ipam::Driver));
        run(ipam::SUITE, arguments, subject, &mut tally);
    }
    if wanted(Kind::Volume) {
        let subject = VolumeSubject::new(|| Ok(Arc::new(client.volume()) as volume::Driver));
        run(volume::SUITE, arguments, subject, &mut tally);
    }
    if wanted(Kind::Wire) {
        let subject = WireSubject::new(|| Socket::open(path).map(Arc::new));
        run(wire::SUITE, arguments, subject, &mut tally);
    }
    Ok(tally)
}

/// Whether the verbs of published ports are there: 404 says that they are not.
fn publishes(client: &Client) -> bool {
    let answer = client.call(
        Verb::Revoke,
        br#"{"NetworkID":"none","EndpointID":"none"}"#.to_vec(),
    );
    !answer.is_err_and(|fault| fault.kind == FaultKind::Unsupported)
}

fn run<D: ?Sized>(suite: &[Case<D>], arguments: &Arguments, subject: Subject<'_, D>, tally: &mut Tally) {
    let mut subject = subject.over_a_socket().home(&arguments.home);
    for (key, value) in &arguments.options {
        subject = subject.option(key, value);
    }
    for (key, value) in &arguments.other_options {
        subject = subject.other_option(key, value);
    }
    for case in suite.iter().filter(|case| case.name.contains(&arguments.case)) {
        tally.tell(&run_case(case, &subject));
    }
}
