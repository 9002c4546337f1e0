//! A server that breaks rules of the wire: it stands before a right one and bends what passes.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::defects;
use crate::contract::fresh_name;
use crate::contract::http::{self, Message};

defects! {
    /// One broken rule of the wire.
    WireDefect;
    ActivateIsEmpty fails activate_tells_what_is_implemented;
    ActivateTiresOut fails activate_may_come_any_number_of_times;
    UnknownVerbIs500 fails an_unknown_verb_is_404 a_connection_serves_many_requests;
    FailureIs404 fails a_failure_is_no_success_and_no_404;
    FailureIs200 fails a_failure_is_no_success_and_no_404 address_failures_say_it_twice an_empty_body_where_fields_are_needed_is_refused malformed_json_is_refused wrong_types_are_refused hostile_names_are_refused invalid_utf8_is_refused an_oversized_body_is_refused;
    ErrorIsMissing fails address_failures_say_it_twice;
    EmptyBodyMakes fails an_empty_body_where_fields_are_needed_is_refused;
    EmptyBodyIsAlwaysRefused fails an_empty_body_and_an_empty_object_are_alike missing_null_and_empty_maps_are_alike;
    NullIsRefused fails missing_null_and_empty_maps_are_alike;
    UnknownFieldsAreRefused fails unknown_fields_are_ignored;
    MalformedIsTaken fails malformed_json_is_refused;
    WrongTypesAreTaken fails wrong_types_are_refused;
    HostileNamesAreTaken fails hostile_names_are_refused;
    InvalidUtf8IsTaken fails invalid_utf8_is_refused;
    TruncatedIsTaken fails a_truncated_body_makes_nothing an_oversized_body_is_refused;
    OversizedIsTaken fails an_oversized_body_is_refused;
    LargeIsOversized fails a_large_option_is_answered;
    ChunksAreRefused fails a_body_in_chunks_is_taken;
    PiecesAreRefused fails a_body_in_pieces_is_taken;
    EmptyHostIsRefused fails an_empty_host_is_taken;
    StrangeContentIsRefused fails no_content_type_is_needed;
    HeadersHaveOneCase fails header_names_are_of_any_case;
    RepliesAreCompressed fails replies_are_plain_json_with_a_length;
    ClosesAfterTen fails a_connection_serves_many_requests;
    IdleIsClosed fails a_connection_may_be_idle;
    FewConnections fails many_connections_are_served_at_once;
    CreatedAtIsEmpty fails a_volume_tells_a_time_that_docker_reads;
}

/// Stands before `right` on a socket of its own, until the process ends.
pub fn serve(defect: WireDefect, right: &Path, wrong: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(wrong)?;
    let server = Arc::new(Server {
        defect,
        right: right.to_path_buf(),
        activations: AtomicUsize::new(0),
        connections: AtomicUsize::new(0),
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                let now = server.connections.fetch_add(1, Ordering::SeqCst);
                if !(server.is(WireDefect::FewConnections) && now >= 32) {
                    let _ = server.converse(stream);
                }
                server.connections.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(())
}

struct Server {
    defect: WireDefect,
    right: PathBuf,
    activations: AtomicUsize,
    connections: AtomicUsize,
}

struct Answer {
    status: u16,
    value: Value,
    headers: &'static str,
}

impl Answer {
    fn new(status: u16, value: Value) -> Self {
        Self {
            status,
            value,
            headers: "",
        }
    }

    fn refusal(text: &str) -> Self {
        Self::new(500, json!({"Err": text, "Error": text}))
    }
}

impl Server {
    fn is(&self, defect: WireDefect) -> bool {
        self.defect == defect
    }

    fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut writer = stream.try_clone()?;
        if self.is(WireDefect::IdleIsClosed) {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        }
        let mut reader = BufReader::new(stream);
        for served in 0.. {
            if self.is(WireDefect::ClosesAfterTen) && served == 10 {
                return Ok(());
            }
            let begun = reader.fill_buf()?.to_vec();
            let Some(mut message) = http::read_head(&mut reader)? else {
                return Ok(());
            };
            if self.is(WireDefect::ChunksAreRefused) && message.header("transfer-encoding").is_some() {
                return Ok(());
            }
            message.body = match http::read_body(&mut reader, &message) {
                Err(_) if self.is(WireDefect::TruncatedIsTaken) => {
                    json!({"Name": fresh_name()}).to_string().into()
                }
                body => body?,
            };
            let answer = self.answer(&message, &begun)?;
            let Answer {
                status,
                value,
                headers,
            } = answer;
            let body = value.to_string();
            write!(
                writer,
                "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    }

    fn answer(&self, message: &Message, begun: &[u8]) -> io::Result<Answer> {
        if let Some(answer) = self.by_head(message, begun).or_else(|| self.by_body(message)) {
            return Ok(answer);
        }
        let mut body = message.body.clone();
        let verb = message.first.split(' ').nth(1).unwrap_or("/");
        if self.is(WireDefect::EmptyBodyMakes) && body.is_empty() && verb == "/VolumeDriver.Create" {
            body = json!({"Name": fresh_name()}).to_string().into();
        }
        let mut upstream = UnixStream::connect(&self.right)?;
        let head = format!(
            "POST {verb} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // The right server may answer and close before it has all of a body that is too large.
        let _ = upstream.write_all(&[head.as_bytes(), body.as_slice()].concat());
        let reply = http::read(&mut BufReader::new(upstream))?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
        Ok(self.bent(verb, message, Answer::new(reply.status(), value)))
    }

    /// What is answered for the headers alone.
    fn by_head(&self, message: &Message, begun: &[u8]) -> Option<Answer> {
        let begun = String::from_utf8_lossy(begun);
        let refused = match self.defect {
            WireDefect::PiecesAreRefused => !begun.contains("\r\n\r\n"),
            WireDefect::EmptyHostIsRefused => message.header("host") == Some(""),
            WireDefect::StrangeContentIsRefused => message.header("content-type") == Some("text/plain"),
            WireDefect::HeadersHaveOneCase => begun.contains("\nHOST:") || begun.contains("\nhost:"),
            _ => false,
        };
        refused.then(|| Answer::refusal("the headers are wrong"))
    }

    /// What is answered for the body without asking the right server.
    fn by_body(&self, message: &Message) -> Option<Answer> {
        let body = message.body.as_slice();
        let text = std::str::from_utf8(body).ok();
        let value: Option<Value> = serde_json::from_slice(body).ok();
        let fields = || value.as_ref().and_then(Value::as_object).into_iter().flatten();
        let activate = message.first.contains("Plugin.Activate");
        let taken = match self.defect {
            WireDefect::MalformedIsTaken => text.is_some_and(|text| !text.is_empty()) && value.is_none(),
            WireDefect::InvalidUtf8IsTaken => text.is_none(),
            WireDefect::WrongTypesAreTaken => fields().any(|(key, value)| key != "V6" && value.is_boolean()),
            WireDefect::HostileNamesAreTaken => fields().any(|(_, value)| value.as_str() == Some("..")),
            WireDefect::OversizedIsTaken => body.len() > 1 << 20,
            _ => false,
        };
        let refused = match self.defect {
            WireDefect::EmptyBodyIsAlwaysRefused => body.is_empty() && !activate,
            WireDefect::NullIsRefused => text.is_some_and(|text| text.contains("\"Options\":null")),
            WireDefect::UnknownFieldsAreRefused => text.is_some_and(|text| text.contains("NewInVersion99")),
            _ => false,
        };
        let large = self.is(WireDefect::LargeIsOversized) && (100_000..1 << 20).contains(&body.len());
        if large {
            return Some(Answer::new(413, json!({"Err": "too large"})));
        }
        let taken = taken.then(|| Answer::new(200, json!({})));
        taken.or_else(|| refused.then(|| Answer::refusal("the body is wrong")))
    }

    /// What becomes of the right server's answer.
    fn bent(&self, verb: &str, message: &Message, mut answer: Answer) -> Answer {
        let activations = if verb == "/Plugin.Activate" {
            self.activations.fetch_add(1, Ordering::SeqCst)
        } else {
            0
        };
        let tired = activations >= 10 && message.body == b"{}";
        match self.defect {
            WireDefect::ActivateIsEmpty if verb == "/Plugin.Activate" => {
                answer.value = json!({"Implements": []});
            }
            WireDefect::ActivateTiresOut if tired => answer.value = json!({"Implements": []}),
            WireDefect::UnknownVerbIs500 if answer.status == 404 => answer.status = 500,
            WireDefect::FailureIs404 if answer.status == 500 => answer.status = 404,
            WireDefect::FailureIs200 if answer.status != 404 => answer.status = 200,
            WireDefect::ErrorIsMissing => {
                if let Some(fields) = answer.value.as_object_mut() {
                    fields.remove("Error");
                }
            }
            WireDefect::RepliesAreCompressed if message.header("accept-encoding").is_some() => {
                answer.headers = "Content-Encoding: gzip\r\n";
            }
            WireDefect::CreatedAtIsEmpty if answer.value["Volume"].is_object() => {
                answer.value["Volume"]["CreatedAt"] = json!("");
            }
            _ => {}
        }
        answer
    }
}
