//! What engines rely on in the bytes: HTTP and JSON as Docker, Podman and strangers send them.
//!
//! Runs over a socket's path only, with a client of its own that can say wrong things.

use std::io::{BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{self, Message};
use super::{Context, Failure, Report, Subject, Verdict, ensure, fresh_hex, fresh_name, suite};
use crate::fault::{Fault, FaultKind};

/// A plugin's socket, and what it says it implements.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    implements: Vec<String>,
}

/// A socket under test.
pub type WireSubject<'a> = Subject<'a, Socket>;
type Ctx<'a> = Context<'a, Socket>;

suite! { "wire", Socket;
    activate_tells_what_is_implemented: "engines look for the driver's kind in this list";
    activate_may_come_any_number_of_times: "every command of Podman begins with it";
    an_unknown_verb_is_404: "engines take 404, and nothing else, for a verb that is not there";
    a_failure_is_no_success_and_no_404: "Podman takes a 200 with an Err for a success";
    address_failures_say_it_twice: "Docker reads Error in a 200 and Err in all else";
    an_empty_body_where_fields_are_needed_is_refused: "Docker repeats a call with an empty body after a lost connection";
    an_empty_body_and_an_empty_object_are_alike: "Docker sends none to GetCapabilities and {} to List; Podman none to List";
    missing_null_and_empty_maps_are_alike: "Docker sends null, Podman leaves the field out";
    unknown_fields_are_ignored: "newer engines send more";
    malformed_json_is_refused: "half a request must not make half a volume";
    wrong_types_are_refused: "a number for a name means nothing";
    hostile_names_are_refused: "engines pass names through as users typed them";
    invalid_utf8_is_refused: "two names that print alike must not be one";
    a_truncated_body_makes_nothing: "an engine was killed while it wrote";
    an_oversized_body_is_refused: "one request must not take the memory of all";
    a_large_option_is_answered: "Docker passed an option of 120 kB on";
    a_body_in_chunks_is_taken: "clients that do not know the length send it so";
    a_body_in_pieces_is_taken: "a socket may deliver byte by byte";
    an_empty_host_is_taken: "Docker before 24 sends one";
    no_content_type_is_needed: "Docker sends none, Podman sends its own";
    header_names_are_of_any_case: "HTTP says so, and clients differ";
    replies_are_plain_json_with_a_length: "Docker reads one value and throws a connection with leftovers away";
    a_connection_serves_many_requests: "Docker keeps one client for its life";
    a_connection_may_be_idle: "Docker never closes idle connections, and repeats with an empty body if we do";
    many_connections_are_served_at_once: "engines open as many as they need, and keep them";
    a_volume_tells_a_time_that_docker_reads: "an empty CreatedAt fails the whole Get and List";
}

/// Runs the suite and panics with every failed case.
pub fn check(subject: &Subject<'_, Socket>) -> Vec<Report> {
    super::check(SUITE, subject)
}

impl Socket {
    /// Connects and says hello.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let mut socket = Self {
            path: path.to_path_buf(),
            implements: Vec::new(),
        };
        let reply = socket.post("Plugin.Activate", "").map_err(|failure| {
            Fault::new(
                FaultKind::Unavailable,
                format!("activate {}: {failure:?}", path.display()),
            )
        })?;
        let list = reply.value["Implements"].as_array().cloned().unwrap_or_default();
        socket.implements = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(socket)
    }

    /// What the plugin says it implements: `VolumeDriver`, `NetworkDriver`…
    pub fn implements(&self) -> &[String] {
        &self.implements
    }

    fn has(&self, kind: &str) -> bool {
        self.implements.iter().any(|known| known == kind)
    }

    fn needs(&self, kind: &str) -> Verdict {
        if self.has(kind) {
            Ok(())
        } else {
            Err(Failure::absent(format!("the plugin is no {kind}")))
        }
    }

    fn connect(&self) -> Result<Line, Failure> {
        Line::open(&self.path)
    }

    fn post(&self, verb: &str, body: impl AsRef<[u8]>) -> Result<Reply, Failure> {
        self.connect()?.post(verb, body)
    }

    fn send(&self, verb: &str, body: &Value) -> Result<Reply, Failure> {
        self.post(verb, format!("{body}\n"))
    }

    /// A verb with a field that names something, for each kind the plugin is.
    fn naming(&self) -> Result<Vec<(&'static str, &'static str, Value)>, Failure> {
        let all = [
            ("VolumeDriver.Create", "Name", json!({"Opts": null})),
            ("VolumeDriver.Mount", "Name", json!({"ID": fresh_hex()})),
            (
                "NetworkDriver.CreateNetwork",
                "NetworkID",
                json!({"Options": {}, "IPv4Data": [], "IPv6Data": []}),
            ),
            (
                "NetworkDriver.Join",
                "EndpointID",
                json!({"NetworkID": fresh_hex(), "SandboxKey": "/run/x"}),
            ),
            (
                "IpamDriver.RequestPool",
                "AddressSpace",
                json!({"Pool": "", "V6": false}),
            ),
            ("GraphDriver.Create", "ID", json!({"Parent": ""})),
        ];
        let kind = |verb: &str| verb.split('.').next().unwrap_or_default().to_owned();
        let ours: Vec<_> = all
            .into_iter()
            .filter(|(verb, ..)| self.has(&kind(verb)))
            .collect();
        if ours.is_empty() {
            Err(Failure::absent("the plugin is of no kind known here"))
        } else {
            Ok(ours)
        }
    }
}

/// A reply, with its body as JSON.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: Message,
    value: Value,
}

impl Reply {
    fn accepted(self, what: &str) -> Result<Value, Failure> {
        let told = self.value["Err"].as_str().unwrap_or_default().to_owned();
        ensure!(
            self.status == 200 && told.is_empty(),
            "{what} was answered {} {}",
            self.status,
            self.value
        );
        Ok(self.value)
    }

    fn refused(self, what: &str) -> Verdict {
        ensure!(
            self.status >= 400,
            "{what} was answered {} {}",
            self.status,
            self.value
        );
        let sentence = self.value["Err"].as_str().unwrap_or_default().trim().to_owned();
        ensure!(
            !sentence.is_empty(),
            "{what} was refused without a sentence in Err: {}",
            self.value
        );
        Ok(())
    }
}

/// One connection.
struct Line {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Line {
    fn open(path: &Path) -> Result<Self, Failure> {
        let writer = UnixStream::connect(path)?;
        writer.set_read_timeout(Some(Duration::from_secs(10)))?;
        writer.set_write_timeout(Some(Duration::from_secs(10)))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader })
    }

    /// As Docker writes it.
    fn post(&mut self, verb: &str, body: impl AsRef<[u8]>) -> Result<Reply, Failure> {
        let headers = "Host: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n";
        let accept = "Accept: application/vnd.docker.plugins.v1.2+json\r\n";
        self.raw(verb, &format!("{headers}{accept}"), body.as_ref())
    }

    fn raw(&mut self, verb: &str, headers: &str, body: &[u8]) -> Result<Reply, Failure> {
        let head = format!(
            "POST /{verb} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.writer.write_all(&[head.as_bytes(), body].concat())?;
        self.reply(verb)
    }

    fn reply(&mut self, verb: &str) -> Result<Reply, Failure> {
        let head = http::read(&mut self.reader)?;
        let head =
            head.ok_or_else(|| Failure::new(format!("{verb}: the connection was closed without an answer")))?;
        let value = serde_json::from_slice(&head.body).unwrap_or(Value::Null);
        Ok(Reply {
            status: head.status(),
            value,
            head,
        })
    }
}

fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

fn still_serves(ctx: &Ctx<'_>, after: &str) -> Verdict {
    let reply = ctx.driver().post("Plugin.Activate", "")?;
    ensure!(
        reply.status == 200,
        "after {after} Activate is answered {}",
        reply.status
    );
    Ok(())
}

fn volume_names(socket: &Socket) -> Result<Vec<String>, Failure> {
    let list = socket.send("VolumeDriver.List", &json!({}))?.accepted("List")?;
    let names = list["Volumes"].as_array().cloned().unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|volume| volume["Name"].as_str())
        .map(str::to_owned)
        .collect())
}

/// The name of a volume that is removed in the end.
fn volume(ctx: &Ctx<'_>) -> String {
    let name = fresh_name();
    let body = json!({"Name": name});
    ctx.at_end(move |socket| drop(socket.send("VolumeDriver.Remove", &body)));
    name
}

// === verbs and failures ===

fn activate_tells_what_is_implemented(ctx: &Ctx<'_>) -> Verdict {
    let value = ctx.driver().post("Plugin.Activate", "")?.accepted("Activate")?;
    let list = value["Implements"].as_array().cloned().unwrap_or_default();
    ensure!(
        !list.is_empty() && list.iter().all(Value::is_string),
        "Activate answered {value}"
    );
    Ok(())
}

fn activate_may_come_any_number_of_times(ctx: &Ctx<'_>) -> Verdict {
    for n in 1..=20 {
        let value = ctx.driver().post("Plugin.Activate", "{}")?.accepted("Activate")?;
        let list = value["Implements"].as_array().map_or(0, Vec::len);
        ensure!(
            list == ctx.driver().implements.len(),
            "Activate number {n} answered {value}"
        );
    }
    Ok(())
}

fn an_unknown_verb_is_404(ctx: &Ctx<'_>) -> Verdict {
    for verb in [
        "VolumeDriver.NoSuchVerb",
        "NetworkDriver.NoSuchVerb",
        "NoSuchDriver.Create",
        "",
        "../Plugin.Activate",
    ] {
        let status = ctx.driver().post(verb, "{}")?.status;
        ensure!(status == 404, "/{verb} was answered {status}");
    }
    Ok(())
}

fn a_failure_is_no_success_and_no_404(ctx: &Ctx<'_>) -> Verdict {
    let unknown = [
        ("VolumeDriver", "VolumeDriver.Get", json!({"Name": fresh_name()})),
        (
            "NetworkDriver",
            "NetworkDriver.Join",
            json!({"NetworkID": fresh_hex(), "EndpointID": fresh_hex(), "SandboxKey": "/run/x"}),
        ),
        (
            "IpamDriver",
            "IpamDriver.RequestAddress",
            json!({"PoolID": fresh_hex(), "Address": ""}),
        ),
        ("GraphDriver", "GraphDriver.Get", json!({"ID": fresh_hex()})),
    ];
    for (kind, verb, body) in unknown {
        if ctx.driver().has(kind) {
            let reply = ctx.driver().send(verb, &body)?;
            ensure!(
                reply.status != 404,
                "{verb} of something unknown was answered 404"
            );
            reply.refused(&format!("{verb} of something unknown"))?;
        }
    }
    Ok(())
}

fn address_failures_say_it_twice(ctx: &Ctx<'_>) -> Verdict {
    ctx.driver().needs("IpamDriver")?;
    for body in [
        json!({"PoolID": fresh_hex(), "Address": ""}),
        json!({"PoolID": 7}),
    ] {
        let reply = ctx.driver().send("IpamDriver.RequestAddress", &body)?;
        let (err, error) = (reply.value["Err"].as_str(), reply.value["Error"].as_str());
        let both = err.is_some_and(|text| !text.is_empty()) && err == error;
        ensure!(
            reply.status >= 400 && both,
            "RequestAddress with {body} was answered {} {}",
            reply.status,
            reply.value
        );
    }
    Ok(())
}

// === bodies ===

fn an_empty_body_where_fields_are_needed_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let socket = ctx.driver();
    let before = if socket.has("VolumeDriver") {
        volume_names(&socket)?
    } else {
        Vec::new()
    };
    for (verb, ..) in socket.naming()? {
        socket
            .post(verb, "")?
            .refused(&format!("{verb} with an empty body"))?;
        socket
            .post(verb, "{}\n")?
            .refused(&format!("{verb} with an empty object"))?;
    }
    let after = if socket.has("VolumeDriver") {
        volume_names(&socket)?
    } else {
        Vec::new()
    };
    let made: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    ensure!(made.is_empty(), "an empty body made {made:?}");
    Ok(())
}

fn an_empty_body_and_an_empty_object_are_alike(ctx: &Ctx<'_>) -> Verdict {
    let plain = [
        ("VolumeDriver", "VolumeDriver.Capabilities"),
        ("VolumeDriver", "VolumeDriver.List"),
        ("NetworkDriver", "NetworkDriver.GetCapabilities"),
        ("IpamDriver", "IpamDriver.GetCapabilities"),
        ("IpamDriver", "IpamDriver.GetDefaultAddressSpaces"),
        ("GraphDriver", "GraphDriver.Status"),
    ];
    for (kind, verb) in plain {
        if ctx.driver().has(kind) {
            for body in ["", "{}", "{}\n", "null"] {
                ctx.driver()
                    .post(verb, body)?
                    .accepted(&format!("{verb} with the body {body:?}"))?;
            }
        }
    }
    Ok(())
}

fn missing_null_and_empty_maps_are_alike(ctx: &Ctx<'_>) -> Verdict {
    let socket = ctx.driver();
    if socket.has("IpamDriver") {
        let spaces = socket
            .post("IpamDriver.GetDefaultAddressSpaces", "")?
            .accepted("GetDefaultAddressSpaces")?;
        let body = json!({"AddressSpace": spaces["LocalDefaultAddressSpace"], "Pool": "", "SubPool": "", "V6": false});
        for body in [
            body.clone(),
            with(body.clone(), "Options", Value::Null),
            with(body, "Options", json!({})),
        ] {
            let lease = socket
                .send("IpamDriver.RequestPool", &body)?
                .accepted(&format!("RequestPool {body}"))?;
            socket
                .send("IpamDriver.ReleasePool", &json!({"PoolID": lease["PoolID"]}))?
                .accepted("ReleasePool")?;
        }
    }
    socket.needs("VolumeDriver")?;
    let body = json!({"Name": volume(ctx)});
    for body in [
        body.clone(),
        with(body.clone(), "Opts", Value::Null),
        with(body, "Opts", json!({})),
    ] {
        socket
            .send("VolumeDriver.Create", &body)?
            .accepted(&format!("Create {body}"))?;
    }
    Ok(())
}

fn unknown_fields_are_ignored(ctx: &Ctx<'_>) -> Verdict {
    ctx.driver().needs("VolumeDriver")?;
    let body = json!({"Name": volume(ctx), "Opts": null, "NewInVersion99": {"a": [1]}});
    ctx.driver()
        .send("VolumeDriver.Create", &body)?
        .accepted("Create with a field of the future")?;
    Ok(())
}

fn malformed_json_is_refused(ctx: &Ctx<'_>) -> Verdict {
    for (verb, field, _) in ctx.driver().naming()? {
        let half = format!("{{\"{field}\":\"{}\"", fresh_hex());
        let bodies = ["{", "}", "no json", half.as_str(), "{\"a\":}"];
        for body in bodies {
            ctx.driver()
                .post(verb, body)?
                .refused(&format!("{verb} with the body {body:?}"))?;
        }
    }
    Ok(())
}

fn wrong_types_are_refused(ctx: &Ctx<'_>) -> Verdict {
    for (verb, field, body) in ctx.driver().naming()? {
        for value in [json!(7), json!(["x"]), json!({"x": "y"}), json!(true)] {
            let body = with(body.clone(), field, value);
            ctx.driver()
                .send(verb, &body)?
                .refused(&format!("{verb} {body}"))?;
        }
        ctx.driver()
            .post(verb, "[]")?
            .refused(&format!("{verb} with an array"))?;
        ctx.driver()
            .post(verb, "\"text\"")?
            .refused(&format!("{verb} with a text"))?;
    }
    Ok(())
}

fn hostile_names_are_refused(ctx: &Ctx<'_>) -> Verdict {
    let long = "x".repeat(10_000);
    let names = [
        "../../etc",
        "..",
        "/etc/passwd",
        "a/b",
        "a\0b",
        "a\nb",
        "-o",
        "",
        "\u{202e}evil",
        long.as_str(),
    ];
    for (verb, field, body) in ctx.driver().naming()? {
        for name in names {
            let reply = ctx.driver().send(verb, &with(body.clone(), field, name))?;
            reply.refused(&format!("{verb} with {field} {}", crate::id::quoted(name)))?;
        }
    }
    Ok(())
}

fn invalid_utf8_is_refused(ctx: &Ctx<'_>) -> Verdict {
    for (verb, field, _) in ctx.driver().naming()? {
        let body = [format!("{{\"{field}\":\"a").as_bytes(), b"\xff\xfe", b"b\"}"].concat();
        ctx.driver()
            .post(verb, &body)?
            .refused(&format!("{verb} with a name that is no text"))?;
    }
    Ok(())
}

fn a_truncated_body_makes_nothing(ctx: &Ctx<'_>) -> Verdict {
    let socket = ctx.driver();
    socket.needs("VolumeDriver")?;
    let name = volume(ctx);
    let body = json!({"Name": name, "Opts": {}}).to_string();
    let head = format!(
        "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len() + 9
    );
    let mut line = socket.connect()?;
    line.writer.write_all(format!("{head}{body}").as_bytes())?;
    line.writer.shutdown(Shutdown::Write)?;
    if let Ok(reply) = line.reply("Create") {
        reply.refused("a body that is shorter than announced")?;
    }
    ensure!(
        !volume_names(&socket)?.contains(&name),
        "a body that broke off made a volume"
    );
    still_serves(ctx, "a body that broke off")
}

fn an_oversized_body_is_refused(ctx: &Ctx<'_>) -> Verdict {
    let (verb, field, body) = ctx.driver().naming()?.swap_remove(0);
    let large = with(body, field, "x".repeat(16 << 20)).to_string();
    // A plugin may close as soon as it has seen enough; then the write or the read fails.
    match ctx.driver().post(verb, &large) {
        Ok(reply) => reply.refused("a body of 16 MB")?,
        Err(Failure::Broken(text)) if text.contains("timed out") => return Err(Failure::Broken(text)),
        Err(_) => {}
    }
    let mut line = ctx.driver().connect()?;
    let head = format!("POST /{verb} HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n{{");
    line.writer.write_all(head.as_bytes())?;
    line.writer.shutdown(Shutdown::Write)?;
    if let Ok(reply) = line.reply(verb) {
        reply.refused("a body of 1 TB, announced")?;
    }
    still_serves(ctx, "oversized bodies")
}

fn a_large_option_is_answered(ctx: &Ctx<'_>) -> Verdict {
    ctx.driver().needs("VolumeDriver")?;
    let body = json!({"Name": volume(ctx), "Opts": {"no-such-option-anywhere": "x".repeat(120_000)}});
    let reply = ctx.driver().send("VolumeDriver.Create", &body)?;
    let words = reply.value["Err"].as_str().unwrap_or_default();
    ensure!(reply.status != 413, "120 kB are no oversized body: {words}");
    ensure!(
        reply.status == 200 || !words.is_empty(),
        "answered {} {}",
        reply.status,
        reply.value
    );
    Ok(())
}

fn a_body_in_chunks_is_taken(ctx: &Ctx<'_>) -> Verdict {
    ctx.driver().needs("VolumeDriver")?;
    let body = json!({"Name": volume(ctx), "Opts": null}).to_string();
    let (one, two) = body.split_at(9);
    let mut line = ctx.driver().connect()?;
    let head = "POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = format!(
        "{head}{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        one.len(),
        two.len()
    );
    line.writer.write_all(text.as_bytes())?;
    line.reply("Create")?.accepted("Create in two chunks")?;
    line.post("VolumeDriver.Get", &body)?
        .accepted("Get behind the chunks")?;
    Ok(())
}

fn a_body_in_pieces_is_taken(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    let text = "POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}\n";
    for byte in text.bytes() {
        line.writer.write_all(&[byte])?;
        std::thread::sleep(Duration::from_millis(1));
    }
    line.reply("Activate")?.accepted("Activate byte by byte")?;
    Ok(())
}

// === headers and connections ===

fn an_empty_host_is_taken(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    line.raw("Plugin.Activate", "Host: \r\n", b"")?
        .accepted("Activate with an empty Host")?;
    Ok(())
}

fn no_content_type_is_needed(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    for headers in [
        "Host: x\r\n",
        "Host: plugin\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\n",
        "Host: x\r\nContent-Type: text/plain\r\nAccept: image/png\r\n",
    ] {
        line.raw("Plugin.Activate", headers, b"{}")?
            .accepted(&format!("Activate with {headers:?}"))?;
    }
    Ok(())
}

fn header_names_are_of_any_case(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    for (host, length) in [
        ("HOST", "CONTENT-LENGTH"),
        ("host", "content-length"),
        ("hOsT", "cONTENT-lENGTH"),
    ] {
        let text = format!("POST /Plugin.Activate HTTP/1.1\r\n{host}: x\r\n{length}: 2\r\n\r\n{{}}");
        line.writer.write_all(text.as_bytes())?;
        line.reply("Activate")?
            .accepted(&format!("Activate with {host} and {length}"))?;
    }
    Ok(())
}

fn replies_are_plain_json_with_a_length(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    for (verb, headers) in [
        ("Plugin.Activate", ""),
        ("NoSuchDriver.Verb", ""),
        ("Plugin.Activate", "Accept-Encoding: gzip\r\n"),
    ] {
        let reply = line.raw(verb, &format!("Host: x\r\n{headers}"), b"")?;
        ensure!(
            reply.head.header("content-encoding").is_none(),
            "the reply to {verb} is compressed"
        );
        ensure!(
            reply.head.header("content-length").is_some(),
            "the reply to {verb} has no length"
        );
        ensure!(
            reply.value.is_object(),
            "the reply to {verb} is {}",
            String::from_utf8_lossy(&reply.head.body)
        );
    }
    Ok(())
}

fn a_connection_serves_many_requests(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    for n in 1..=200 {
        let verb = if n % 10 == 0 {
            "NoSuchDriver.Verb"
        } else {
            "Plugin.Activate"
        };
        let reply = line
            .post(verb, "{}")
            .map_err(|failure| Failure::new(format!("request {n}: {failure:?}")))?;
        ensure!(
            reply.status == if n % 10 == 0 { 404 } else { 200 },
            "request {n} was answered {}",
            reply.status
        );
    }
    Ok(())
}

fn a_connection_may_be_idle(ctx: &Ctx<'_>) -> Verdict {
    let mut line = ctx.driver().connect()?;
    line.post("Plugin.Activate", "")?.accepted("Activate")?;
    std::thread::sleep(Duration::from_millis(2500));
    let reply = line.post("Plugin.Activate", "");
    let reply = reply.map_err(|failure| Failure::new(format!("closed after 2.5 s: {failure:?}")))?;
    reply.accepted("Activate after a pause")?;
    Ok(())
}

fn many_connections_are_served_at_once(ctx: &Ctx<'_>) -> Verdict {
    let mut lines = (0..64)
        .map(|_| ctx.driver().connect())
        .collect::<Result<Vec<_>, _>>()?;
    for round in 1..=2 {
        for (n, line) in lines.iter_mut().enumerate().rev() {
            line.post("Plugin.Activate", "")?
                .accepted(&format!("connection {n} in round {round}"))?;
        }
    }
    Ok(())
}

fn a_volume_tells_a_time_that_docker_reads(ctx: &Ctx<'_>) -> Verdict {
    let socket = ctx.driver();
    socket.needs("VolumeDriver")?;
    let body = json!({"Name": volume(ctx)});
    socket.send("VolumeDriver.Create", &body)?.accepted("Create")?;
    let told = socket.send("VolumeDriver.Get", &body)?.accepted("Get")?["Volume"].take();
    ensure!(told["Name"] == body["Name"], "Get told {told}");
    if let Some(at) = told.get("CreatedAt") {
        let read = at.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        ensure!(read.is_some(), "CreatedAt is {at}");
    }
    Ok(())
}
