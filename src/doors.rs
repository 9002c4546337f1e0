//! Programs that engines start for each container: the same binary under another name.
//!
//! What they do is in `netdrivers::door`; here are standard input, standard output and exit codes.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use netdrivers::door::Door;
use plugin_api::Fault;
use plugin_api::wire::cni::{self, Call, Command, Environment, Refusal};
use plugin_api::wire::netavark;

/// Where doors hold their locks.
const LOCKS: &str = "/run/longshore/doors";
/// Largest definition taken; runtimes send some hundred bytes.
const MAX_INPUT: u64 = 1 << 20;

/// Which door a name asks for: `longshore-cni`, `longshore-netavark`, or any other with such an end.
pub(crate) fn by_name(program: Option<&OsString>) -> Option<fn(&[OsString]) -> ExitCode> {
    let name = Path::new(program?).file_name()?.to_str()?;
    if name.ends_with("-cni") {
        Some(|_| cni())
    } else if name.ends_with("-netavark") {
        Some(netavark)
    } else {
        None
    }
}

fn input() -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    let read = std::io::stdin().take(MAX_INPUT + 1).read_to_end(&mut body);
    read.map_err(|error| Fault::invalid("read standard input").because(error))?;
    if body.len() as u64 > MAX_INPUT {
        return Err(Fault::invalid(format!(
            "standard input is longer than {MAX_INPUT} bytes"
        )));
    }
    Ok(body)
}

/// Nobody hears of an answer that cannot be written.
fn answer(bytes: &[u8], code: ExitCode) -> ExitCode {
    match std::io::stdout().write_all(bytes) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

// === CNI ===

/// Answers one call of a CNI runtime.
pub(crate) fn cni() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let environment = Environment {
        command: variable("CNI_COMMAND"),
        container: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        link: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
    };
    let (version, outcome) = match input() {
        Ok(body) => cni::call_in(&environment, &body),
        Err(fault) => (cni::VERSIONS[0].to_owned(), Err(fault.into())),
    };
    match outcome.and_then(|call| run_cni(&call)) {
        Ok(bytes) => answer(&bytes, ExitCode::SUCCESS),
        Err(refusal) => answer(&cni::refusal(&version, &refusal), ExitCode::FAILURE),
    }
}

fn run_cni(call: &Call) -> Result<Vec<u8>, Refusal> {
    if call.command == Command::Version {
        return Ok(cni::versions());
    }
    let door = Door::open(&call.socket, Path::new(LOCKS));
    if call.command == Command::Status {
        let ready = door.and_then(|door| door.is_ready());
        return match ready {
            Ok(()) => Ok(Vec::new()),
            Err(fault) => Err(Refusal {
                code: cni::NOT_AVAILABLE,
                sentence: fault.sentence(),
            }),
        };
    }
    let (door, network) = (door?, &call.network);
    match (call.command, &call.leg) {
        (Command::Add, Some(leg)) => return Ok(cni::result(call, &door.attach(network, leg)?)),
        (Command::Check, Some(leg)) => door.check(&network.id, leg, &call.told)?,
        (Command::Del, Some(leg)) => {
            let sandbox =
                (!leg.sandbox.as_os_str().is_empty()).then_some((leg.sandbox.as_path(), leg.link.as_str()));
            door.detach(&network.id, &leg.endpoint, sandbox)?;
        }
        _ => door.collect(&network.id, &call.keep)?,
    }
    Ok(Vec::new())
}

// === netavark ===

/// Answers one call of netavark or Podman: `create`, `setup NETNS`, `teardown NETNS` or `info`.
pub(crate) fn netavark(words: &[OsString]) -> ExitCode {
    match run_netavark(words) {
        Ok(bytes) => answer(&bytes, ExitCode::SUCCESS),
        Err(fault) => answer(&netavark::refusal(&fault.sentence()), ExitCode::FAILURE),
    }
}

/// Podman binds published ports before it asks for them, and then nobody else can.
fn hint(fault: Fault) -> Fault {
    let sentence = fault.sentence();
    if !sentence.contains("Address already in use") {
        return fault;
    }
    let why =
        "Podman itself holds published ports unless containers.conf says enable_port_reservation = false";
    Fault::new(fault.kind, format!("{sentence}; {why}"))
}

fn run_netavark(words: &[OsString]) -> Result<Vec<u8>, Fault> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    match words[..] {
        [] | ["info"] => Ok(netavark::info(env!("CARGO_PKG_VERSION"))),
        ["create"] => netavark::create(&input()?),
        ["setup", netns] => {
            let call = netavark::setup_in(Path::new(netns), &input()?)?;
            let door = Door::open(&call.socket, Path::new(LOCKS))?;
            let attached = door.attach(&call.network, &call.leg).map_err(hint)?;
            Ok(netavark::status(&call, &attached))
        }
        ["teardown", netns] => {
            let netns = Path::new(netns);
            let call = netavark::setup_in(netns, &input()?)?;
            let door = Door::open(&call.socket, Path::new(LOCKS))?;
            door.detach(
                &call.network.id,
                &call.leg.endpoint,
                Some((netns, &call.leg.link)),
            )?;
            Ok(Vec::new())
        }
        _ => {
            let text = "the words must be create, setup NETNS, teardown NETNS or info";
            Err(Fault::invalid(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_known_by_the_end_of_its_name() {
        let door = |name: &str| by_name(Some(&OsString::from(name))).is_some();
        assert!(door("longshore-cni") && door("/opt/cni/bin/longshore-cni") && door("quay-netavark"));
        assert!(!door("longshore") && !door("/usr/bin/longshore") && !door("longshore-cni-2"));
        assert!(by_name(None).is_none());
    }
}
