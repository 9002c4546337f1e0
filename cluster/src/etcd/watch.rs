//! Watches by streams that are taken up again wherever they break.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_stream::{StreamExt, once, pending};
use tonic::{Status, Streaming};

use super::client::{Client, Kind, Voice, judged};
use super::etcd::event::EventType;
use super::etcd::watch_client::WatchClient;
use super::etcd::watch_request::RequestUnion;
use super::etcd::{self, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{listed, range, revision_of, row, signed, unsigned};
use crate::{Change, Event, Feed, Result, Revision};

/// What a cluster that has no leader, or has lost one, is asked to end streams by.
const LEADER: (&str, &str) = ("hasleader", "true");

pub(super) struct Stream {
    client: Arc<Client>,
    prefix: String,
    /// Everything up to here was told.
    told: Revision,
    /// Which cluster told it; nothing before the first answer.
    cluster: Option<u64>,
    /// Nothing while no member listens to us.
    open: Option<Streaming<WatchResponse>>,
    queue: VecDeque<Event>,
}

impl Stream {
    pub(super) fn new(client: Arc<Client>, prefix: &str, from: Revision) -> Self {
        Self {
            client,
            prefix: prefix.to_owned(),
            told: from,
            cluster: None,
            open: None,
            queue: VecDeque::new(),
        }
    }

    /// Begins after what was told, and reads the first answer, which says who answers.
    fn begin(&mut self) -> Result<()> {
        let (key, range_end) = range(&self.prefix);
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: signed(self.told.0 + 1),
            progress_notify: true,
        };
        let ask = move |voice: Voice| {
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create.clone())),
            };
            async move {
                // The stream lives as long as its request does.
                let mut request = voice.say(once(request).chain(pending()));
                let leader = tonic::metadata::MetadataValue::from_static(LEADER.1);
                request.metadata_mut().insert(LEADER.0, leader);
                let mut stream = WatchClient::new(voice.channel())
                    .max_decoding_message_size(usize::MAX)
                    .watch(request)
                    .await?
                    .into_inner();
                let first = stream.message().await?;
                let first = first.ok_or_else(|| Status::unavailable("the watch ended at once"))?;
                Ok((stream, first))
            }
        };
        let (stream, first) = self.client.call(("watch", &self.prefix), Kind::Again, ask)?;
        let header = first.header.as_ref();
        let (cluster, now) = (header.map(|header| header.cluster_id), revision_of(header));
        let another = self.cluster.is_some() && self.cluster != cluster;
        if another || now < self.told {
            return self.resync(cluster);
        }
        self.cluster = cluster;
        self.open = Some(stream);
        self.take(first)
    }

    /// What is there, and everything after it.
    fn resync(&mut self, cluster: Option<u64>) -> Result<()> {
        self.open = None;
        let snapshot = listed(&self.client, "watch", &self.prefix)?;
        self.told = snapshot.revision;
        self.cluster = cluster;
        self.queue.push_back(Event::Resync(snapshot));
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) -> Result<()> {
        if response.compact_revision > 0 {
            return self.resync(self.cluster);
        }
        if response.canceled {
            self.open = None;
            let why = Status::unavailable(response.cancel_reason);
            return Err(judged("watch", &self.prefix, &why));
        }
        // Without events it says that there were none until its revision.
        let reached = match response.events.last().and_then(|event| event.kv.as_ref()) {
            Some(pair) => unsigned(pair.mod_revision),
            None if response.created => self.told,
            None => revision_of(response.header.as_ref()),
        };
        self.told = self.told.max(reached);
        let changes = response.events.into_iter().filter_map(change);
        self.queue.extend(changes.map(Event::Change));
        Ok(())
    }

    /// Waits for the next answer on the stream.
    fn read(&mut self, limit: Duration) -> Result<()> {
        let Some(mut stream) = self.open.take() else {
            return self.begin();
        };
        let outcome = self.client.within(limit + Duration::from_secs(1), async move {
            let answer = tokio::time::timeout(limit, stream.message()).await;
            (stream, answer)
        });
        match outcome {
            Some((stream, Ok(Ok(Some(response))))) => {
                self.open = Some(stream);
                self.take(response)
            }
            // Nothing came in time.
            Some((stream, Err(_))) => {
                self.open = Some(stream);
                Ok(())
            }
            Some((_, Ok(Err(status)))) => Err(judged("watch", &self.prefix, &status)),
            Some((_, Ok(Ok(None)))) | None => {
                let ended = Status::unavailable("the watch ended");
                Err(judged("watch", &self.prefix, &ended))
            }
        }
    }
}

fn change(event: etcd::Event) -> Option<Change> {
    let removed = event.r#type() == EventType::Delete;
    let row = row(event.kv?);
    Some(Change {
        key: row.key.clone(),
        revision: row.revision,
        row: (!removed).then_some(row),
    })
}

impl Feed for Stream {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let left = timeout.saturating_sub(begin.elapsed());
            if self.open.is_some() && left.is_zero() && begin.elapsed() > timeout {
                return Ok(None);
            }
            self.read(left)?;
        }
    }
}
