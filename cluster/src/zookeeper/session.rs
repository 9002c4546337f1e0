//! Sessions, and what is asked through them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use zookeeper_client::{
    Acls, Client, Connector, CreateMode, Error as Refusal, MultiReadResult, MultiWriteError,
    MultiWriteResult, Stat,
};

use super::node::{self, Node};
use super::plan::{self, Found, GENERATION, LEASES, ROWS, Step};
use super::{Settings, TTL};
use crate::worker::Worker;
use crate::{Error, Result, Revision, Row, Snapshot};

/// How long a session of ours outlives its connection.
const SESSION: Duration = Duration::from_secs(10);
/// Reads of one request. A request may have a megabyte, and so may an answer's every part.
const READS: usize = 200;

type Said<T> = std::result::Result<T, Refusal>;

/// A cluster, and the session with it that everything but leases goes through.
pub(super) struct Sessions {
    worker: Worker,
    settings: Settings,
    current: Mutex<Option<Client>>,
}

impl Sessions {
    pub(super) fn new(settings: Settings) -> io::Result<Arc<Self>> {
        if settings.endpoints.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no endpoint is given",
            ));
        }
        let plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !settings.root.split('/').all(plain) {
            let why = format!(
                "{:?}: a root is words of letters, digits and -, joined by /",
                settings.root
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Arc::new(Self {
            worker: Worker::start("zookeeper")?,
            settings,
            current: Mutex::new(None),
        }))
    }

    pub(super) fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.settings.root)
    }

    pub(super) fn patience(&self) -> Duration {
        self.settings.patience
    }

    /// Drives `work` for `limit`; nothing when it takes longer.
    pub(super) fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.worker.call(limit, work)
    }

    /// Drives `work`, which is given the session, for the patience.
    pub(super) fn call<T, Ask, Asked>(
        self: &Arc<Self>,
        (operation, key): (&'static str, &str),
        ask: Ask,
    ) -> Result<T>
    where
        T: Send + 'static,
        Ask: FnOnce(Arc<Self>, Client) -> Asked + Send + 'static,
        Asked: Future<Output = Said<T>> + Send,
    {
        let sessions = Arc::clone(self);
        let outcome = self.worker.call(self.patience(), async move {
            let client = sessions.session().await?;
            ask(sessions, client).await
        });
        outcome
            .unwrap_or(Err(Refusal::Timeout))
            .map_err(|refusal| judged(operation, key, &refusal))
    }

    /// The session, or a new one where it has ended.
    async fn session(&self) -> Said<Client> {
        let mut current = self.current.lock().await;
        if let Some(client) = current.as_ref().filter(|client| !client.state().is_terminated()) {
            return Ok(client.clone());
        }
        let client = self
            .connect(self.connector().with_session_timeout(SESSION))
            .await?;
        self.furnish(&client).await?;
        *current = Some(client.clone());
        Ok(client)
    }

    fn connector(&self) -> Connector {
        let connector = Client::connector().with_fail_eagerly();
        match &self.settings.user {
            Some((name, password)) => {
                connector.with_auth("digest", format!("{name}:{}", password.word()).as_bytes())
            }
            None => connector,
        }
    }

    async fn connect(&self, connector: Connector) -> Said<Client> {
        connector.connect(&self.settings.endpoints.join(",")).await
    }

    /// A session that a lease is: it ends `ttl` after the last word of its client.
    pub(super) async fn lease(&self, ttl: Duration) -> Said<Client> {
        let ttl = ttl.clamp(TTL.0, TTL.1);
        // Who drops a lease leaves it to its time.
        let connector = self.connector().with_session_timeout(ttl).with_detached();
        let client = self.connect(connector).await?;
        let path = self.path(&plan::lease_path(&super::lease_of(&client)));
        let options = CreateMode::Ephemeral.with_acls(self.acls());
        client.create(&path, b"", &options).await?;
        Ok(client)
    }

    /// Who may touch what we make: everybody, or with a password we alone.
    fn acls(&self) -> Acls<'static> {
        if self.settings.user.is_some() {
            Acls::creator_all()
        } else {
            Acls::anyone_all()
        }
    }

    async fn furnish(&self, client: &Client) -> Said<()> {
        let options = CreateMode::Persistent.with_acls(self.acls());
        for below in [ROWS, LEASES, GENERATION] {
            client.mkdir(&self.path(below), &options).await?;
        }
        Ok(())
    }

    /// What is there of `keys`, as of now.
    pub(super) async fn found(&self, client: &Client, keys: &[String]) -> Said<(Revision, Found)> {
        let folders: Vec<String> = {
            let mut all: Vec<String> = keys.iter().map(|key| node::names(key).0).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        // A member that is behind must not answer for the others.
        client.sync(&self.path(GENERATION)).await?;
        let mut paths = vec![GENERATION.to_owned()];
        paths.extend(folders.iter().map(|folder| plan::folder_path(folder)));
        paths.extend(keys.iter().map(|key| plan::row_path(key)));
        let mut read = self.read(client, &paths).await?.into_iter();
        let revision = read.next().flatten().map_or(0, |(_, stat)| stat.mzxid);
        let mut found = Found::default();
        for folder in folders {
            if let Some((_, stat)) = read.next().flatten() {
                found.folders.insert(folder, stat.version);
            }
        }
        for (key, node) in keys.iter().zip(read) {
            if let Some(node) = node.and_then(|(bytes, stat)| node_of(key, &bytes, &stat)) {
                found.nodes.insert(key.clone(), node);
            }
        }
        self.judge_life(client, &mut found).await?;
        Ok((revision_of(revision), found))
    }

    /// Looks which of the rows' leases live.
    async fn judge_life(&self, client: &Client, found: &mut Found) -> Said<()> {
        let mut leases: Vec<_> = found
            .nodes
            .values()
            .filter_map(|node| node.row.lease.clone())
            .collect();
        leases.sort_unstable();
        leases.dedup();
        let paths: Vec<String> = leases.iter().map(plan::lease_path).collect();
        let read = self.read(client, &paths).await?;
        for node in found.nodes.values_mut() {
            let Some(lease) = &node.row.lease else { continue };
            let at = leases.binary_search(lease);
            node.alive = at.is_ok_and(|at| read[at].is_some());
        }
        Ok(())
    }

    /// The bytes of every path that is a node.
    async fn read(&self, client: &Client, paths: &[String]) -> Said<Vec<Option<(Vec<u8>, Stat)>>> {
        let mut all = Vec::with_capacity(paths.len());
        for some in paths.chunks(READS) {
            let mut reader = client.new_multi_reader();
            for path in some {
                reader.add_get_data(&self.path(path))?;
            }
            for result in reader.commit().await? {
                all.push(match result {
                    MultiReadResult::Data { data, stat } => Some((data, stat)),
                    MultiReadResult::Error { err: Refusal::NoNode } => None,
                    MultiReadResult::Error { err } => return Err(err),
                    _ => return Err(Refusal::UnexpectedError("an answer to something else".to_owned())),
                });
            }
        }
        Ok(all)
    }

    /// Every row under a prefix as they were together, and those that are as good as removed; nothing
    /// where somebody wrote meanwhile.
    pub(super) async fn list(&self, client: &Client, prefix: &str) -> Said<Option<(Snapshot, Vec<String>)>> {
        client.sync(&self.path(GENERATION)).await?;
        let (_, before) = client.get_data(&self.path(GENERATION)).await?;
        let mut keys = Vec::new();
        for folder in client.list_children(&self.path(ROWS)).await? {
            if !node::may_hold(&folder, prefix) {
                continue;
            }
            match client
                .list_children(&self.path(&plan::folder_path(&folder)))
                .await
            {
                Ok(names) => keys.extend(names.iter().filter_map(|name| node::key(&folder, name))),
                // Folders without rows are swept by the cluster.
                Err(Refusal::NoNode) => {}
                Err(other) => return Err(other),
            }
        }
        keys.retain(|key| key.starts_with(prefix));
        keys.sort_unstable();
        let paths: Vec<String> = keys.iter().map(|key| plan::row_path(key)).collect();
        let read = self.read(client, &paths).await?;
        let leases = client.list_children(&self.path(LEASES)).await?;
        let (_, after) = client.get_data(&self.path(GENERATION)).await?;
        if before.version != after.version {
            return Ok(None);
        }
        let lives = |row: &Row| row.lease.as_ref().is_none_or(|lease| leases.contains(&lease.0));
        let nodes = keys.iter().zip(read);
        let rows = nodes.filter_map(|(key, node)| node.and_then(|(bytes, stat)| node_of(key, &bytes, &stat)));
        let (rows, dead): (Vec<Row>, Vec<Row>) = rows.map(|node| node.row).partition(lives);
        let snapshot = Snapshot {
            rows,
            revision: revision_of(after.mzxid),
        };
        Ok(Some((snapshot, dead.into_iter().map(|row| row.key).collect())))
    }

    /// Does every step, or none and says which one failed.
    pub(super) async fn commit(
        &self,
        client: &Client,
        steps: &[Step],
    ) -> std::result::Result<Revision, MultiWriteError> {
        let rows = CreateMode::Persistent.with_acls(self.acls());
        let mut writer = client.new_multi_writer();
        for step in steps {
            match step {
                Step::Check { path, version } => writer.add_check_version(&self.path(path), *version)?,
                Step::Create { path, bytes } => writer.add_create(&self.path(path), bytes, &rows)?,
                Step::Write { path, bytes, version } => {
                    writer.add_set_data(&self.path(path), bytes, *version)?;
                }
                Step::Remove { path, version } => writer.add_delete(&self.path(path), Some(*version))?,
            }
        }
        match writer.commit().await?.pop() {
            Some(MultiWriteResult::SetData { stat }) => Ok(revision_of(stat.mzxid)),
            _ => Err(Refusal::UnexpectedError("a change without a revision".to_owned()).into()),
        }
    }

    /// Makes the folders that steps create rows in.
    pub(super) async fn make_folders(&self, client: &Client, steps: &[Step]) -> Said<()> {
        // The cluster removes them when their last row has gone.
        let options = CreateMode::Container.with_acls(self.acls());
        for step in steps {
            let Step::Create { path, .. } = step else { continue };
            let Some((folder, _)) = path.rsplit_once('/') else {
                continue;
            };
            match client.create(&self.path(folder), b"", &options).await {
                Ok(_) | Err(Refusal::NodeExists) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

fn node_of(key: &str, bytes: &[u8], stat: &Stat) -> Option<Node> {
    let (value, lease) = node::decode(bytes)?;
    Some(Node {
        alive: lease.is_none(),
        row: Row {
            key: key.to_owned(),
            value: value.to_vec(),
            revision: revision_of(stat.mzxid),
            lease,
        },
        version: stat.version,
    })
}

fn revision_of(zxid: i64) -> Revision {
    Revision(u64::try_from(zxid).unwrap_or_default())
}

/// What a refusal means.
pub(super) fn judged(operation: &'static str, key: &str, refusal: &Refusal) -> Error {
    match refusal {
        Refusal::NoAuth | Refusal::AuthFailed | Refusal::InvalidAcl => Error::Denied {
            operation,
            key: key.to_owned(),
            why: refusal.to_string(),
        },
        Refusal::BadArguments(why) => Error::invalid(operation, key, **why),
        other => {
            let text = format!("zookeeper: {other}");
            Error::unavailable(operation, key, io::Error::other(text))
        }
    }
}
