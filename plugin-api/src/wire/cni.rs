//! CNI: a definition on standard input, the rest in the environment, a result on standard output.
//!
//! Spec 1.1.0 and older ones down to 0.3.0, whose results differ in one field.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{bytes, options_of, text_of};
use crate::door::{Attached, Leg, NetworkWish, SubnetWish, endpoint_id, network_id};
use crate::fault::{Fault, FaultKind};
use crate::id::{EndpointId, MacAddr, quoted};
use crate::network::{PortBinding, Protocol, StaticRoute};

/// Versions of the specification that are spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Where the daemon answers unless a definition says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/docker/plugins/longshore.sock";

/// What failed, with CNI's number for it.
#[derive(Debug)]
pub struct Refusal {
    /// CNI's error code.
    pub code: u32,
    /// What was tried on what, and why not.
    pub sentence: String,
}

/// The version of the definition is not spoken.
pub const INCOMPATIBLE: u32 = 1;
/// A key or a value is not supported.
pub const UNSUPPORTED: u32 = 2;
/// A variable of the environment is missing or wrong.
pub const ENVIRONMENT: u32 = 4;
/// Standard input is no JSON.
pub const UNREADABLE: u32 = 6;
/// The definition makes no sense.
pub const INVALID: u32 = 7;
/// The daemon does not answer now.
pub const TRY_AGAIN: u32 = 11;
/// STATUS: no ADD can succeed.
pub const NOT_AVAILABLE: u32 = 50;
/// Anything else: the daemon refused.
pub const FAILED: u32 = 100;

impl Refusal {
    fn new(code: u32, sentence: impl Into<String>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let code = match fault.kind {
            FaultKind::Unavailable | FaultKind::Timeout => TRY_AGAIN,
            FaultKind::Invalid => INVALID,
            _ => FAILED,
        };
        Self::new(code, fault.sentence())
    }
}

/// The commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bring a container into a network.
    Add,
    /// Whether it is as ADD left it.
    Check,
    /// Take it out.
    Del,
    /// Take out all that are no longer wanted.
    Gc,
    /// Whether ADD can succeed.
    Status,
    /// Which versions are spoken.
    Version,
}

/// The variables of the environment that count, as they came.
#[derive(Debug, Default, Clone)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: Option<String>,
    /// `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub link: Option<String>,
    /// `CNI_ARGS`.
    pub args: Option<String>,
}

/// A call, checked.
#[derive(Debug)]
pub struct Call {
    /// What to do.
    pub command: Command,
    /// The version that is spoken.
    pub version: String,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The network.
    pub network: NetworkWish,
    /// The leg, for ADD, CHECK and DEL; DEL's may have no namespace, which is an empty path then.
    pub leg: Option<Leg>,
    /// CHECK: addresses that ADD told.
    pub told: Vec<IpNet>,
    /// GC: who stays.
    pub keep: BTreeSet<EndpointId>,
    /// `dns` of the definition, handed through.
    dns: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Head {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Definition {
    name: String,
    socket: Option<String>,
    subnets: Vec<Subnet>,
    ipv6: bool,
    internal: bool,
    options: BTreeMap<String, Value>,
    routes: Vec<Route>,
    #[serde(rename = "isDefaultGateway")]
    is_default: Option<bool>,
    ipam: Map<String, Value>,
    dns: Value,
    args: Option<Value>,
    #[serde(rename = "runtimeConfig")]
    runtime: Option<Runtime>,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
}

/// Keys of a definition; those that runtimes add for themselves begin with `cni.dev/`.
const KEYS: [&str; 16] = [
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "socket",
    "subnets",
    "ipv6",
    "internal",
    "options",
    "routes",
    "isDefaultGateway",
    "ipam",
    "dns",
    "args",
    "runtimeConfig",
    "prevResult",
];

#[derive(Deserialize)]
#[serde(untagged)]
enum Subnet {
    Plain(IpNet),
    Full(FullSubnet),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullSubnet {
    subnet: IpNet,
    range: Option<IpNet>,
    gateway: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    dst: IpNet,
    gw: Option<IpAddr>,
}

/// Conventions of runtimes; what is not here was not asked for by a declared capability of ours.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Runtime {
    #[serde(rename = "portMappings")]
    ports: Vec<PortMapping>,
    ips: Vec<String>,
    mac: Option<String>,
    dns: Option<Value>,
    aliases: Option<Value>,
}

#[derive(Deserialize)]
struct PortMapping {
    #[serde(rename = "hostPort", default)]
    host: u16,
    #[serde(rename = "containerPort")]
    container: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(rename = "hostIP", default)]
    ip: Option<String>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Reads a call. The version is that of the definition as far as it can be read: errors are told in it.
pub fn call_in(environment: &Environment, body: &[u8]) -> (String, Result<Call, Refusal>) {
    let head: Head = serde_json::from_slice(body).unwrap_or_default();
    // A definition without a version is of before 0.3.0 by the specification.
    let version = head.version.unwrap_or_else(|| "0.1.0".to_owned());
    let outcome = read(environment, body, &version);
    (version, outcome)
}

fn command(environment: &Environment) -> Result<Command, Refusal> {
    Ok(match environment.command.as_deref().unwrap_or_default() {
        "ADD" => Command::Add,
        "CHECK" => Command::Check,
        "DEL" => Command::Del,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        "VERSION" => Command::Version,
        other => {
            let text = format!(
                "CNI_COMMAND is {}, known are ADD, CHECK, DEL, GC, STATUS, VERSION",
                quoted(other)
            );
            return Err(Refusal::new(ENVIRONMENT, text));
        }
    })
}

fn read(environment: &Environment, body: &[u8], version: &str) -> Result<Call, Refusal> {
    let command = command(environment)?;
    if command == Command::Version {
        return Ok(bare(version));
    }
    let raw: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Refusal::new(UNREADABLE, format!("read the definition: {error}")))?;
    if !VERSIONS.contains(&version) {
        let text = format!(
            "cniVersion {} is not spoken, known are {}",
            quoted(version),
            VERSIONS.join(", ")
        );
        return Err(Refusal::new(INCOMPATIBLE, text));
    }
    let since = |first: &str| {
        VERSIONS.iter().position(|v| *v == version) >= VERSIONS.iter().position(|v| *v == first)
    };
    let too_old = match command {
        Command::Check => !since("0.4.0"),
        Command::Gc | Command::Status => !since("1.1.0"),
        _ => false,
    };
    if too_old {
        let word = environment.command.as_deref().unwrap_or_default();
        return Err(Refusal::new(
            INCOMPATIBLE,
            format!("{word} is not of cniVersion {version}"),
        ));
    }
    let strange = raw
        .keys()
        .find(|key| !KEYS.contains(&key.as_str()) && !key.starts_with("cni.dev/"));
    if let Some(key) = strange {
        let text = format!("key {} is unknown, known are {}", quoted(key), KEYS.join(", "));
        return Err(Refusal::new(UNSUPPORTED, text));
    }
    let definition: Definition = serde_json::from_value(Value::Object(raw))
        .map_err(|error| Refusal::new(INVALID, format!("read the definition: {error}")))?;
    call(command, version, definition, environment)
}

fn bare(version: &str) -> Call {
    Call {
        command: Command::Version,
        version: version.to_owned(),
        socket: PathBuf::new(),
        network: NetworkWish {
            id: network_id("cni", "none").expect("plain words"),
            options: BTreeMap::new(),
            is_internal: false,
            subnets: Vec::new(),
        },
        leg: None,
        told: Vec::new(),
        keep: BTreeSet::new(),
        dns: Value::Null,
    }
}

fn call(
    command: Command,
    version: &str,
    definition: Definition,
    environment: &Environment,
) -> Result<Call, Refusal> {
    if definition.name.is_empty() {
        return Err(Refusal::new(INVALID, "the definition has no name"));
    }
    let network = network(&definition)?;
    let socket = PathBuf::from(definition.socket.as_deref().unwrap_or(DEFAULT_SOCKET));
    if !socket.is_absolute() {
        let text = format!("socket {} is no absolute path", quoted(&socket.to_string_lossy()));
        return Err(Refusal::new(INVALID, text));
    }
    if command == Command::Add && definition.previous.is_some() {
        let text = "this plugin makes the link and must be the first of its list";
        return Err(Refusal::new(INVALID, text));
    }
    let leg = match command {
        Command::Add | Command::Check | Command::Del => Some(leg(command, &definition, environment)?),
        _ => None,
    };
    let told = match (command, &definition.previous) {
        (Command::Check, None) => return Err(Refusal::new(INVALID, "CHECK came without prevResult")),
        (Command::Check, Some(previous)) => told(previous)?,
        _ => Vec::new(),
    };
    let keep = definition.valid.unwrap_or_default().into_iter();
    Ok(Call {
        command,
        version: version.to_owned(),
        socket,
        network,
        leg,
        told,
        keep: keep.map(|one| endpoint_id(&one.container, &one.ifname)).collect(),
        dns: definition.dns,
    })
}

fn network(definition: &Definition) -> Result<NetworkWish, Refusal> {
    let delegate = definition
        .ipam
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("longshore");
    if delegate != "longshore" || definition.ipam.len() > 1 {
        let text = format!(
            "ipam {}: addresses come from longshore's own driver; leave ipam out and give subnets",
            quoted(delegate)
        );
        return Err(Refusal::new(UNSUPPORTED, text));
    }
    let mut subnets: Vec<SubnetWish> = definition.subnets.iter().map(subnet).collect();
    let mut choose = |v6: bool| {
        if !subnets.iter().any(|one| one.v6 == v6) {
            subnets.push(SubnetWish {
                subnet: None,
                range: None,
                gateway: None,
                v6,
            });
        }
    };
    if definition.subnets.is_empty() {
        choose(false);
    }
    if definition.ipv6 {
        choose(true);
    }
    Ok(NetworkWish {
        id: network_id("cni", &definition.name)?,
        options: options_of(&definition.options)?,
        is_internal: definition.internal,
        subnets,
    })
}

fn subnet(given: &Subnet) -> SubnetWish {
    let (net, range, gateway) = match given {
        Subnet::Plain(net) => (*net, None, None),
        Subnet::Full(full) => (full.subnet, full.range, full.gateway),
    };
    SubnetWish {
        subnet: Some(net.trunc()),
        range,
        gateway,
        v6: net.addr().is_ipv6(),
    }
}

fn required<'a>(name: &str, value: Option<&'a String>) -> Result<&'a str, Refusal> {
    let value = value.map(String::as_str).filter(|text| !text.is_empty());
    value.ok_or_else(|| Refusal::new(ENVIRONMENT, format!("{name} is missing")))
}

fn leg(command: Command, definition: &Definition, environment: &Environment) -> Result<Leg, Refusal> {
    let container = required("CNI_CONTAINERID", environment.container.as_ref())?;
    let link = required("CNI_IFNAME", environment.link.as_ref())?;
    let is_link = link.len() <= 15 && !link.contains(|c: char| "/:".contains(c) || c.is_whitespace());
    if !is_link || [".", ".."].contains(&link) {
        return Err(Refusal::new(
            ENVIRONMENT,
            format!("CNI_IFNAME {} is no name of a link", quoted(link)),
        ));
    }
    let sandbox = match command {
        Command::Del => environment.netns.as_deref().unwrap_or_default(),
        _ => required("CNI_NETNS", environment.netns.as_ref())?,
    };
    let args = args(environment.args.as_deref().unwrap_or_default())?;
    let nothing = Runtime::default();
    let runtime = definition.runtime.as_ref().unwrap_or(&nothing);
    let args_of_conf = definition.args.as_ref().and_then(|args| args.get("cni"));
    let listed = |key: &str| {
        args_of_conf
            .and_then(|cni| cni.get(key))
            .cloned()
            .unwrap_or_default()
    };
    let mut wanted: Vec<String> = runtime.ips.clone();
    wanted.extend(listed("ips").as_array().into_iter().flatten().filter_map(text_of));
    wanted.extend(
        args.get("IP")
            .map(|list| list.split(',').map(str::to_owned))
            .into_iter()
            .flatten(),
    );
    let addresses = wanted
        .iter()
        .map(|text| address(text))
        .collect::<Result<_, _>>()?;
    let mac = runtime
        .mac
        .clone()
        .or(args.get("MAC").cloned())
        .or(listed("mac").as_str().map(str::to_owned));
    let mac = mac
        .map(|text| text.parse::<MacAddr>())
        .transpose()
        .map_err(Fault::from)?;
    let ports = runtime.ports.iter().filter(|port| port.host != 0).map(port);
    let routes = definition.routes.iter().map(|route| StaticRoute {
        destination: route.dst.trunc(),
        next_hop: route.gw,
    });
    Ok(Leg {
        endpoint: endpoint_id(container, link),
        link: link.to_owned(),
        sandbox: PathBuf::from(sandbox),
        addresses,
        mac,
        ports: ports.collect::<Result<_, _>>()?,
        is_default: definition.is_default.unwrap_or(!definition.internal),
        routes: routes.collect(),
    })
}

/// `CNI_ARGS`: `KEY=VALUE;…`. What is not known is somebody else's.
fn args(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let parts = text.split(';').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| {
        let pair = part
            .split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Refusal::new(ENVIRONMENT, format!("CNI_ARGS: {} is no pair", quoted(part))))
    });
    pairs.collect()
}

/// An address, with or without a prefix length.
fn address(text: &str) -> Result<IpAddr, Refusal> {
    let ip = text.split_once('/').map_or(text, |(ip, _)| ip);
    ip.parse()
        .map_err(|_| Refusal::new(INVALID, format!("{} is no address", quoted(text))))
}

fn port(mapping: &PortMapping) -> Result<PortBinding, Refusal> {
    let protocol = match mapping
        .protocol
        .as_deref()
        .unwrap_or("tcp")
        .to_ascii_lowercase()
        .as_str()
    {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            let text = format!("portMappings: protocol {} is unknown", quoted(other));
            return Err(Refusal::new(INVALID, text));
        }
    };
    let ip = mapping
        .ip
        .as_deref()
        .filter(|text| !text.is_empty())
        .map(address)
        .transpose()?;
    Ok(PortBinding {
        protocol,
        container_port: mapping.container,
        host_ip: ip,
        host_port: mapping.host,
        host_port_end: mapping.host,
    })
}

/// The addresses that ADD told of, as the result came through the list.
fn told(previous: &Value) -> Result<Vec<IpNet>, Refusal> {
    let rows = previous
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let nets = rows.map(|row| {
        let text = row.get("address").and_then(Value::as_str).unwrap_or_default();
        let net = text.parse::<IpNet>();
        net.map_err(|_| Refusal::new(INVALID, format!("prevResult: {} is no address", quoted(text))))
    });
    nets.collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    name: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

/// The result of ADD.
pub fn result(call: &Call, attached: &Attached) -> Vec<u8> {
    let has_mtu = call.version == "1.1.0";
    let interface = |link: &crate::door::Link, sandbox: Option<String>| Interface {
        name: link.name.clone(),
        mac: link.mac.to_string(),
        mtu: has_mtu.then_some(link.mtu),
        sandbox,
    };
    let sandbox = call
        .leg
        .as_ref()
        .map(|leg| leg.sandbox.to_string_lossy().into_owned());
    let mut interfaces: Vec<Interface> = attached.host.iter().map(|link| interface(link, None)).collect();
    interfaces.push(interface(&attached.inner, sandbox));
    let ips = attached.addresses.iter().map(|(net, gateway)| {
        let mut row = Map::from_iter([
            ("address".to_owned(), json!(net)),
            ("interface".to_owned(), json!(attached.host.len())),
        ]);
        row.extend(gateway.map(|gateway| ("gateway".to_owned(), json!(gateway))));
        if call.version.starts_with("0.") {
            let version = if net.addr().is_ipv4() { "4" } else { "6" };
            row.insert("version".to_owned(), json!(version));
        }
        Value::Object(row)
    });
    let routes = attached.routes.iter().map(|route| {
        let mut row = Map::from_iter([("dst".to_owned(), json!(route.destination))]);
        row.extend(route.next_hop.map(|via| ("gw".to_owned(), json!(via))));
        Value::Object(row)
    });
    let dns = if call.dns.is_object() {
        call.dns.clone()
    } else {
        json!({})
    };
    bytes(&json!({
        "cniVersion": call.version,
        "interfaces": interfaces,
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": dns,
    }))
}

/// The answer to VERSION.
pub fn versions() -> Vec<u8> {
    bytes(&json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS}))
}

/// An error, for standard output.
pub fn refusal(version: &str, refusal: &Refusal) -> Vec<u8> {
    bytes(&json!({"cniVersion": version, "code": refusal.code, "msg": refusal.sentence}))
}

#[cfg(test)]
mod tests;
