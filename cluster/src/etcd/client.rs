//! Calls to whichever member answers.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::etcd::auth_client::AuthClient;
use super::etcd::kv_client::KvClient;
use super::etcd::{AuthenticateRequest, RangeRequest};
use super::{MAX_VALUE, Settings, Tls};
use crate::worker::Worker;
use crate::{Error, LeaseId, Result, Secret};

/// Longer answers are refused; lists come in pages, so that no single one is long.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(2);
/// etcd closes connections that ask whether it lives more often than every five seconds.
const ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(4));

/// Connections to the members of a cluster.
pub(super) struct Client {
    worker: Worker,
    members: Vec<Member>,
    /// The member that is asked first.
    preferred: AtomicUsize,
    user: Option<(String, Secret)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    patience: Duration,
}

struct Member {
    channel: Channel,
    /// Whether it answered last time.
    proven: AtomicBool,
}

/// What another attempt would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same once more.
    Again,
    /// Perhaps a second change: once it was sent, nobody sends it again.
    Once,
}

impl Client {
    pub(super) fn new(settings: Settings) -> io::Result<Arc<Self>> {
        if settings.endpoints.is_empty() {
            return Err(invalid("no endpoint is given".to_owned()));
        }
        let tls = settings.tls.as_ref().map(tls_of).transpose()?;
        let worker = Worker::start("etcd")?;
        let within = worker.handle().enter();
        let members = settings.endpoints.iter();
        let members = members.map(|address| Member::new(address, tls.as_ref()));
        let members = members.collect::<io::Result<Vec<_>>>()?;
        drop(within);
        Ok(Arc::new(Self {
            worker,
            members,
            preferred: AtomicUsize::new(0),
            user: settings.user,
            token: Mutex::new(None),
            patience: settings.patience,
        }))
    }

    /// Asks the members in turn until one answers, or all have had their share of the patience.
    pub(super) fn call<T, Ask, Asked>(
        self: &Arc<Self>,
        (operation, key): (&'static str, &str),
        kind: Kind,
        ask: Ask,
    ) -> Result<T>
    where
        T: Send + 'static,
        Ask: Fn(Voice) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = std::result::Result<T, Status>> + Send,
    {
        let client = Arc::clone(self);
        // Proving a member may take as long as asking it.
        let limit = self.patience * 2;
        let outcome = self
            .worker
            .call(limit, async move { client.ask(kind, ask).await });
        let outcome = outcome.unwrap_or_else(|| Err(Status::deadline_exceeded("no member answers")));
        outcome.map_err(|status| judged(operation, key, &status))
    }

    /// Drives `work` for `limit`; nothing when it takes longer.
    pub(super) fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.worker.call(limit, work)
    }

    async fn ask<T, Ask, Asked>(&self, kind: Kind, ask: Ask) -> std::result::Result<T, Status>
    where
        Ask: Fn(Voice) -> Asked,
        Asked: Future<Output = std::result::Result<T, Status>>,
    {
        let count = self.members.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = Status::unavailable("no member answers");
        for turn in 0..count {
            let index = (first + turn) % count;
            let member = &self.members[index];
            // What may be sent only once goes to a member that is known to serve.
            if kind == Kind::Once && !member.proven.load(Ordering::Relaxed) {
                let proof = self.bounded(member, &probe).await;
                if let Err(status) = proof {
                    if is_answer(&status) {
                        return Err(status);
                    }
                    last = status;
                    continue;
                }
            }
            let outcome = self.bounded(member, &ask).await;
            let answered = outcome.as_ref().map_or_else(is_answer, |_| true);
            member.proven.store(answered, Ordering::Relaxed);
            let next = if answered { index } else { index + 1 };
            self.preferred.store(next % count, Ordering::Relaxed);
            match outcome {
                Err(status) if !answered && kind == Kind::Again => last = status,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// One member, for its share of the patience, with a token that it takes.
    async fn bounded<T, Ask, Asked>(&self, member: &Member, ask: &Ask) -> std::result::Result<T, Status>
    where
        Ask: Fn(Voice) -> Asked,
        Asked: Future<Output = std::result::Result<T, Status>>,
    {
        let share = self.patience / u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let work = async {
            match ask(self.voice(member).await?).await {
                Err(status) if is_stale_token(&status) && self.user.is_some() => {
                    *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    ask(self.voice(member).await?).await
                }
                outcome => outcome,
            }
        };
        let outcome = tokio::time::timeout(share, work).await;
        outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer in {share:?}"))))
    }

    async fn voice(&self, member: &Member) -> std::result::Result<Voice, Status> {
        let channel = member.channel.clone();
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (None, Some((name, password))) = (&known, &self.user) else {
            return Ok(Voice {
                channel,
                token: known,
            });
        };
        let request = AuthenticateRequest {
            name: name.clone(),
            password: password.word().to_owned(),
        };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await?;
        let token = answer.into_inner().token.parse::<MetadataValue<Ascii>>();
        let token = token.map_err(|_| Status::internal("a token that is no word"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Voice {
            channel,
            token: Some(token),
        })
    }
}

/// A connection and who we are to its other end.
#[derive(Clone)]
pub(super) struct Voice {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Voice {
    /// A request that says who asks.
    pub(super) fn say<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn rows(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }
}

impl Member {
    fn new(address: &str, tls: Option<&ClientTlsConfig>) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https://" } else { "http://" };
        let named = match address.split_once("://") {
            Some((given, _)) if !scheme.starts_with(given) || scheme.len() != given.len() + 3 => {
                return Err(invalid(format!(
                    "{address}: {scheme} is spoken {} certificates",
                    if tls.is_some() { "with" } else { "without" }
                )));
            }
            Some(_) => address.to_owned(),
            None => format!("{scheme}{address}"),
        };
        let bad = |error: tonic::transport::Error| invalid(format!("{address}: {}", chain(&error)));
        let mut endpoint = Endpoint::from_shared(named)
            .map_err(bad)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(bad)?;
        }
        Ok(Self {
            channel: endpoint.connect_lazy(),
            proven: AtomicBool::new(false),
        })
    }
}

/// Whether the member can serve: a read that a majority has to agree to.
async fn probe(voice: Voice) -> std::result::Result<(), Status> {
    let request = RangeRequest {
        key: vec![0],
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    match voice.rows().range(voice.say(request)).await {
        // Who may not read everything may still write something.
        Err(status) if status.code() == Code::PermissionDenied => Ok(()),
        outcome => outcome.map(drop),
    }
}

fn tls_of(tls: &Tls) -> io::Result<ClientTlsConfig> {
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.authority)?));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Whether the cluster has spoken, and would say the same through another member.
fn is_answer(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Aborted => {
            false
        }
        // Where a connection broke rather than the cluster answered, there is an error below.
        Code::Unknown => std::error::Error::source(status).is_none(),
        _ => true,
    }
}

/// Tokens end by time, with the member that gave them, and with every change of users.
fn is_stale_token(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unauthenticated
        || text.contains("invalid auth token")
        || text.contains("revision of auth store is old")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What a status means. Codes and texts: etcd's `api/v3rpc/rpctypes/error.go`.
pub(super) fn judged(operation: &'static str, key: &str, status: &Status) -> Error {
    let text = status.message();
    let said = || text.trim_start_matches("etcdserver: ").to_owned();
    let key = || key.to_owned();
    match status.code() {
        Code::NotFound if text.contains("lease not found") => Error::LeaseLost {
            operation,
            key: key(),
            lease: LeaseId(String::new()),
        },
        Code::PermissionDenied | Code::Unauthenticated => Error::Denied {
            operation,
            key: key(),
            why: said(),
        },
        Code::InvalidArgument | Code::FailedPrecondition if speaks_of_users(text) => Error::Denied {
            operation,
            key: key(),
            why: said(),
        },
        Code::InvalidArgument if text.contains("request is too large") => Error::TooLarge {
            operation,
            key: key(),
            size: MAX_VALUE + 1,
            limit: MAX_VALUE,
            unit: "bytes",
        },
        Code::InvalidArgument => Error::invalid(operation, key(), said()),
        _ => {
            let below = std::error::Error::source(status).map(|source| format!(": {}", chain(source)));
            let text = format!("etcd: {}{}", said(), below.unwrap_or_default());
            Error::unavailable(operation, key(), io::Error::other(text))
        }
    }
}

fn speaks_of_users(text: &str) -> bool {
    [
        "user name",
        "authentication",
        "auth token",
        "auth store",
        "root user",
    ]
    .iter()
    .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_by_code_and_text() {
        let error = |code, text: &str| judged("put", "a", &Status::new(code, text));
        let lost = error(Code::NotFound, "etcdserver: requested lease not found");
        assert!(matches!(lost, Error::LeaseLost { .. }), "{lost:?}");
        let denied = error(Code::InvalidArgument, "etcdserver: user name is empty");
        assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
        let large = error(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(matches!(large, Error::TooLarge { .. }), "{large:?}");
        let full = error(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        );
        assert!(matches!(full, Error::Unavailable { .. }), "{full:?}");
    }

    #[test]
    fn an_address_of_the_other_kind_is_refused() {
        let settings = |address: &str| Settings::new([address]);
        assert!(Client::new(settings("https://127.0.0.1:1")).is_err());
        assert!(Client::new(settings("ftp://127.0.0.1:1")).is_err());
        assert!(Client::new(settings("http://127.0.0.1:1")).is_ok());
        assert!(Client::new(Settings::new::<&str>([])).is_err());
    }
}
