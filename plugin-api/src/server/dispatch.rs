//! From a request to a driver's verb and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tracing::{Instrument, Span};

use super::body::{ReplyBody, reader, stream};
use super::{Caller, MAX_BODY, Plugin};
use crate::fault::{Fault, FaultKind};
use crate::network::ExternalConnectivity;
use crate::report::{Report, VolumeUse};
use crate::wire::{self, Subsystem, Verb};
use crate::{EnginePeer, id};

/// How long a JSON body may take to arrive.
const BODY_ARRIVES: Duration = Duration::from_secs(30);

/// A reply's bytes, and how to take the verb back if nobody is there to hear of it.
struct Answer {
    bytes: Vec<u8>,
    back: Option<Box<dyn FnOnce() + Send>>,
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, back: None }
    }
}

/// Answers one request, whatever it is.
pub(super) async fn answer(
    caller: Caller,
    peer: EnginePeer,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let path = request.uri().path();
    let verb = Verb::of_path(path);
    if request.method() != Method::POST {
        return refuse(
            verb,
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("{}: the method must be POST", id::quoted(path)),
        );
    }
    let Some(verb) = verb.filter(|&verb| is_served(&caller.plugin, verb)) else {
        let text = format!("{}: this plugin does not implement such a verb", id::quoted(path));
        return refuse(verb, StatusCode::NOT_FOUND, &text);
    };
    // Whatever a driver tells while it works stands under this.
    let span = tracing::info_span!(
        "request",
        verb = verb.name(),
        driver = &*caller.name,
        pid = peer.pid
    );
    async {
        let begun = Instant::now();
        let response = match verb {
            Verb::GraphDiff => diff(&caller, request).await,
            Verb::GraphApplyDiff => apply_diff(&caller, request).await,
            _ => plain(&caller, peer, verb, request).await,
        };
        let (status, us) = (response.status().as_u16(), begun.elapsed().as_micros());
        tracing::debug!(status, us, "answered");
        response
    }
    .instrument(span)
    .await
}

fn is_served(plugin: &Plugin, verb: Verb) -> bool {
    let optional = match verb {
        Verb::Program | Verb::Revoke => plugin
            .network
            .as_ref()
            .is_some_and(|n| n.external_connectivity().is_some()),
        _ => true,
    };
    let always = matches!(verb.subsystem(), Subsystem::Plugin | Subsystem::Longshore);
    optional && (always || plugin.implements().contains(&verb.subsystem()))
}

// === replies ===

fn respond(status: StatusCode, body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(wire::CONTENT_TYPE));
    response
}

fn refuse(verb: Option<Verb>, status: StatusCode, sentence: &str) -> Response<ReplyBody> {
    respond(
        status,
        ReplyBody::Whole(Some(wire::failure(verb, sentence).into())),
    )
}

/// A driver's failure. Always status 500: Podman takes a 200 with `Err` for a success, and 404 means
/// "no such verb".
fn fail(verb: Verb, fault: &Fault) -> Response<ReplyBody> {
    let sentence = fault.sentence();
    match fault.kind {
        FaultKind::Internal | FaultKind::Corrupt => tracing::error!(kind = fault.kind.label(), "{sentence}"),
        // Engines ask for what is not there before they make it.
        FaultKind::NotFound => tracing::debug!(kind = fault.kind.label(), "{sentence}"),
        _ => tracing::info!(kind = fault.kind.label(), "{sentence}"),
    }
    refuse(Some(verb), StatusCode::INTERNAL_SERVER_ERROR, &sentence)
}

// === verbs with a JSON body ===

async fn plain(
    caller: &Caller,
    peer: EnginePeer,
    verb: Verb,
    request: Request<Incoming>,
) -> Response<ReplyBody> {
    let body = match collect(request.into_body()).await {
        Ok(body) => body,
        Err((status, sentence)) => {
            return refuse(Some(verb), status, &format!("{}: {sentence}", verb.name()));
        }
    };
    let outcome = if verb.is_quick() {
        guarded(verb, || run(&caller.plugin, peer, verb, &body))
    } else {
        let work = move |plugin: &Plugin| run(plugin, peer, verb, &body);
        run_blocking(caller, verb, verb.deadline(), work).await
    };
    match outcome {
        Ok(answer) => respond(StatusCode::OK, ReplyBody::Whole(Some(answer.bytes.into()))),
        Err(fault) => fail(verb, &fault),
    }
}

async fn collect(body: Incoming) -> Result<Bytes, (StatusCode, String)> {
    match tokio::time::timeout(BODY_ARRIVES, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {MAX_BODY} bytes"),
        )),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time".into(),
        )),
    }
}

/// Set when the caller is gone: its deadline passed, or its connection broke.
struct Listening(Arc<AtomicBool>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs a verb on the pool and waits for it as long as `limit` says; it goes on after that.
async fn run_blocking(
    caller: &Caller,
    verb: Verb,
    limit: Option<Duration>,
    work: impl FnOnce(&Plugin) -> Result<Answer, Fault> + Send + 'static,
) -> Result<Answer, Fault> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let listening = Listening(Arc::clone(&abandoned));
    let (plugin, span) = (Arc::clone(&caller.plugin), Span::current());
    let work = caller.pool.spawn_blocking(move || {
        let _inside = span.enter();
        let mut outcome = guarded(verb, || work(&plugin));
        // An engine that gave up on a Mount never sends the Unmount: nobody would drop that hold.
        if let (true, Ok(answer)) = (abandoned.load(Ordering::SeqCst), &mut outcome)
            && let Some(back) = answer.back.take()
        {
            tracing::warn!("nobody waits for the answer any more: taken back");
            back();
        }
        outcome
    });
    let outcome = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => return Err(late(verb, limit)),
        },
    };
    drop(listening);
    outcome.unwrap_or_else(|_| Err(Fault::internal(format!("{}: the worker was lost", verb.name()))))
}

fn late(verb: Verb, limit: Duration) -> Fault {
    let text = format!(
        "{} is not done after {} s and goes on; ask again",
        verb.name(),
        limit.as_secs()
    );
    Fault::new(FaultKind::Timeout, text)
}

/// Turns a panic of a driver into a fault; the next request finds the driver as it was left.
fn guarded<T>(verb: Verb, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(Fault::internal(format!(
            "{}: a defect in the driver: {text}",
            verb.name()
        )))
    })
}

fn run(plugin: &Plugin, peer: EnginePeer, verb: Verb, body: &[u8]) -> Result<Answer, Fault> {
    match verb.subsystem() {
        Subsystem::Plugin => {
            if let Some(volume) = &plugin.volume {
                volume.engine_arrived(peer);
            }
            Ok(wire::manifest(&plugin.implements()).into())
        }
        Subsystem::Volume => volume(plugin, peer, verb, body),
        Subsystem::Network => network(plugin, verb, body).map(Into::into),
        Subsystem::Ipam => ipam(plugin, verb, body).map(Into::into),
        Subsystem::Graph => graph(plugin, verb, body),
        Subsystem::Longshore => status(plugin, body).map(Into::into),
    }
}

/// What there is, read-only.
fn status(plugin: &Plugin, body: &[u8]) -> Result<Vec<u8>, Fault> {
    let network = wire::status::request_in(body)?;
    let report = Report {
        networks: plugin
            .network
            .as_ref()
            .map(|driver| driver.report())
            .unwrap_or_default(),
        subnets: plugin
            .ipam
            .as_ref()
            .map(|driver| driver.report())
            .unwrap_or_default(),
        ..Report::default()
    };
    if let Some(network) = network {
        return Ok(wire::status::report_reply(&report.of_network(&network)));
    }
    let volumes = plugin
        .volume
        .as_ref()
        .map_or(Ok(Vec::new()), |driver| driver.list())?;
    let volumes = volumes.into_iter().map(|volume| VolumeUse {
        name: volume.name,
        mountpoint: volume.mountpoint.map(|path| path.to_string_lossy().into_owned()),
    });
    Ok(wire::status::report_reply(&Report {
        volumes: volumes.collect(),
        layers: plugin
            .graph
            .as_ref()
            .map_or(Ok(Vec::new()), |driver| driver.status())?,
        ..report
    }))
}

fn unserved(verb: Verb) -> Fault {
    Fault::unsupported(format!("{} is not served here", verb.name()))
}

fn volume(plugin: &Plugin, peer: EnginePeer, verb: Verb, body: &[u8]) -> Result<Answer, Fault> {
    use wire::volume as w;
    let driver = plugin.volume.as_ref().ok_or_else(|| unserved(verb))?;
    let bytes = match verb {
        Verb::VolumeCapabilities => w::capabilities_reply(driver.scope()),
        Verb::VolumeCreate => {
            let (name, options) = w::create_request_in(body)?;
            driver.create(&name, &options).map(|_| wire::success())?
        }
        Verb::VolumeGet => w::get_reply(&driver.get(&w::name_request_in(verb, body)?)?),
        Verb::VolumeList => w::list_reply(&driver.list()?),
        Verb::VolumePath => {
            let info = driver.get(&w::name_request_in(verb, body)?)?;
            w::mountpoint_reply(info.mountpoint.as_deref())
        }
        Verb::VolumeRemove => driver
            .remove(&w::name_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::VolumeUnmount => {
            let (name, holder) = w::hold_request_in(verb, body)?;
            driver.unmount(&name, &holder).map(|_| wire::success())?
        }
        Verb::VolumeMount => {
            let (name, holder) = w::hold_request_in(verb, body)?;
            let bytes = w::mountpoint_reply(Some(&driver.mount(&name, &holder, peer)?));
            let driver = Arc::clone(driver);
            let back = Box::new(move || drop(driver.unmount(&name, &holder)));
            return Ok(Answer {
                bytes,
                back: Some(back),
            });
        }
        _ => return Err(unserved(verb)),
    };
    Ok(bytes.into())
}

fn network(plugin: &Plugin, verb: Verb, body: &[u8]) -> Result<Vec<u8>, Fault> {
    use wire::network as w;
    let driver = plugin.network.as_ref().ok_or_else(|| unserved(verb))?;
    Ok(match verb {
        Verb::NetworkCapabilities => w::capabilities_reply(driver.capabilities()),
        Verb::NetworkAllocate => w::allocate_reply(&driver.allocate_network(&w::allocate_request_in(body)?)?),
        Verb::NetworkFree => driver
            .free_network(&w::network_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::NetworkGatewayCheck => {
            w::gateway_check_reply(driver.gateway_check(&w::gateway_check_request_in(body)?)?)
        }
        Verb::NetworkCreate => driver
            .create_network(&w::create_network_request_in(body)?)
            .map(|_| wire::success())?,
        Verb::NetworkDelete => driver
            .delete_network(&w::network_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::EndpointCreate => {
            w::create_endpoint_reply(&driver.create_endpoint(&w::create_endpoint_request_in(body)?)?)
        }
        Verb::EndpointInfo => w::info_reply(&driver.endpoint_info(&w::endpoint_request_in(verb, body)?)?),
        Verb::EndpointDelete => driver
            .delete_endpoint(&w::endpoint_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::Join => w::join_reply(&driver.join(&w::join_request_in(body)?)?),
        Verb::Leave => driver
            .leave(&w::endpoint_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::Program => {
            let spec = w::program_request_in(body)?;
            connectivity(plugin, verb)?
                .program(&spec)
                .map(|_| wire::success())?
        }
        Verb::Revoke => {
            let at = w::endpoint_request_in(verb, body)?;
            connectivity(plugin, verb)?.revoke(&at).map(|_| wire::success())?
        }
        Verb::DiscoverNew | Verb::DiscoverDelete => discovery(plugin, verb, body)?,
        _ => return Err(unserved(verb)),
    })
}

fn connectivity(plugin: &Plugin, verb: Verb) -> Result<&dyn ExternalConnectivity, Fault> {
    plugin
        .network
        .as_ref()
        .and_then(|n| n.external_connectivity())
        .ok_or_else(|| unserved(verb))
}

fn discovery(plugin: &Plugin, verb: Verb, body: &[u8]) -> Result<Vec<u8>, Fault> {
    let node = wire::network::discovery_request_in(verb, body)?;
    if let (Some(node), Some(driver)) = (node, plugin.network.as_ref().and_then(|n| n.discovery())) {
        if verb == Verb::DiscoverNew {
            driver.node_arrived(&node)?
        } else {
            driver.node_left(&node)?
        };
    }
    Ok(wire::success())
}

fn ipam(plugin: &Plugin, verb: Verb, body: &[u8]) -> Result<Vec<u8>, Fault> {
    use wire::ipam as w;
    let driver = plugin.ipam.as_ref().ok_or_else(|| unserved(verb))?;
    Ok(match verb {
        Verb::IpamCapabilities => w::capabilities_reply(driver.capabilities()),
        Verb::IpamDefaultSpaces => w::default_spaces_reply(&driver.default_spaces()?),
        Verb::IpamRequestPool => w::pool_reply(&driver.request_pool(&w::pool_request_in(body)?)?),
        Verb::IpamReleasePool => driver
            .release_pool(&w::release_pool_request_in(body)?)
            .map(|_| wire::success())?,
        Verb::IpamRequestAddress => w::address_reply(&driver.request_address(&w::address_request_in(body)?)?),
        Verb::IpamReleaseAddress => {
            let (pool, address) = w::release_address_request_in(body)?;
            driver.release_address(&pool, address).map(|_| wire::success())?
        }
        _ => return Err(unserved(verb)),
    })
}

fn graph(plugin: &Plugin, verb: Verb, body: &[u8]) -> Result<Answer, Fault> {
    use wire::graph as w;
    let driver = plugin.graph.as_ref().ok_or_else(|| unserved(verb))?;
    let layer = || w::layer_request_in(verb, body).map(|(id, _)| id);
    let bytes = match verb {
        Verb::GraphInit => driver.init(&w::init_request_in(body)?).map(|_| wire::success())?,
        Verb::GraphCapabilities => w::capabilities_reply(driver.reproduces_exact_diffs()),
        Verb::GraphStatus => w::status_reply(driver.status()?),
        Verb::GraphCreate => driver
            .create(&w::new_layer_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::GraphCreateReadWrite => driver
            .create_read_write(&w::new_layer_request_in(verb, body)?)
            .map(|_| wire::success())?,
        Verb::GraphPut => driver.put(&layer()?).map(|_| wire::success())?,
        Verb::GraphExists => w::exists_reply(driver.exists(&layer()?)?),
        Verb::GraphRemove => driver.remove(&layer()?).map(|_| wire::success())?,
        Verb::GraphMetadata => w::metadata_reply(driver.metadata(&layer()?)?),
        Verb::GraphCleanup => driver.cleanup().map(|_| wire::success())?,
        Verb::GraphChanges => {
            let (id, parent) = w::pair_request_in(verb, body)?;
            w::changes_reply(&driver.changes(&id, parent.as_ref())?)
        }
        Verb::GraphDiffSize => {
            let (id, parent) = w::pair_request_in(verb, body)?;
            w::size_reply(driver.diff_size(&id, parent.as_ref())?)
        }
        Verb::GraphGet => {
            let (id, label) = w::layer_request_in(verb, body)?;
            let bytes = w::dir_reply(&driver.get(&id, &label)?);
            let driver = Arc::clone(driver);
            return Ok(Answer {
                bytes,
                back: Some(Box::new(move || drop(driver.put(&id)))),
            });
        }
        _ => return Err(unserved(verb)),
    };
    Ok(bytes.into())
}

// === archives ===

/// `Diff`: an error before the first byte is told, one after it breaks the stream.
async fn diff(caller: &Caller, request: Request<Incoming>) -> Response<ReplyBody> {
    let verb = Verb::GraphDiff;
    let body = match collect(request.into_body()).await {
        Ok(body) => body,
        Err((status, sentence)) => return refuse(Some(verb), status, &sentence),
    };
    let (mut writer, mut pieces) = stream();
    let plugin = Arc::clone(&caller.plugin);
    let span = Span::current();
    let work = caller.pool.spawn_blocking(move || {
        let _inside = span.enter();
        let outcome = guarded(verb, || {
            let driver = plugin.graph.as_ref().ok_or_else(|| unserved(verb))?;
            let (id, parent) = wire::graph::pair_request_in(verb, &body)?;
            driver.diff(&id, parent.as_ref(), &mut writer)?;
            std::io::Write::flush(&mut writer)
                .map_err(|error| Fault::internal("write the diff").because(error))
        });
        if let Err(fault) = &outcome {
            tracing::warn!("{}", fault.sentence());
            writer.abort(&fault.sentence());
        }
        outcome
    });
    match pieces.recv().await {
        Some(Ok(first)) => respond(StatusCode::OK, ReplyBody::Stream(Some(first), pieces)),
        _ => match work.await {
            Ok(Ok(())) => respond(StatusCode::OK, ReplyBody::Whole(None)),
            Ok(Err(fault)) => fail(verb, &fault),
            Err(_) => fail(verb, &Fault::internal("GraphDriver.Diff: the worker was lost")),
        },
    }
}

/// `ApplyDiff`: the archive is the body, the arguments stand in the query string.
async fn apply_diff(caller: &Caller, request: Request<Incoming>) -> Response<ReplyBody> {
    let verb = Verb::GraphApplyDiff;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut archive = reader(request.into_body());
    let plugin = Arc::clone(&caller.plugin);
    let span = Span::current();
    let work = caller.pool.spawn_blocking(move || {
        let _inside = span.enter();
        guarded(verb, || {
            let driver = plugin.graph.as_ref().ok_or_else(|| unserved(verb))?;
            let (id, parent) = wire::graph::apply_query_in(&query)?;
            let size = driver.apply_diff(&id, parent.as_ref(), &mut archive)?;
            // What follows the archive's end is read too, or the connection could not be used again.
            let _ = std::io::copy(&mut archive, &mut std::io::sink());
            Ok(size)
        })
    });
    match work.await {
        Ok(Ok(size)) => respond(
            StatusCode::OK,
            ReplyBody::Whole(Some(wire::graph::size_reply(size).into())),
        ),
        Ok(Err(fault)) => fail(verb, &fault),
        Err(_) => fail(
            verb,
            &Fault::internal("GraphDriver.ApplyDiff: the worker was lost"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_verb_past_its_deadline_is_answered_and_taken_back_when_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let plugin = Arc::new(Plugin::default());
        let caller = Caller {
            plugin,
            pool: runtime.handle().clone(),
            name: "x".into(),
        };
        let (end, ended) = mpsc::channel::<()>();
        let (tell, taken_back) = mpsc::channel();
        let work = move |_: &Plugin| {
            ended.recv().unwrap();
            let back: Box<dyn FnOnce() + Send> = Box::new(move || tell.send(()).unwrap());
            Ok(Answer {
                bytes: Vec::new(),
                back: Some(back),
            })
        };
        let limit = Some(Duration::from_millis(20));
        let outcome = runtime.block_on(run_blocking(&caller, Verb::VolumeMount, limit, work));
        let fault = outcome.map(|_| ()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Timeout);
        assert!(
            fault.message.contains("VolumeDriver.Mount is not done"),
            "{fault}"
        );
        end.send(()).unwrap();
        taken_back.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
