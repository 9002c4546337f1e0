//! What the hosts agree on, row by row.
//!
//! | row | holds | lives |
//! |---|---|---|
//! | `ipam/hosts/HOST` | nothing; its revision is the host's *epoch* | as long as the host's lease |
//! | `ipam/pools/SPACE/SUBNET` | the gateway, once there is one | until the last host lets go |
//! | `ipam/users/SPACE/SUBNET/HOST` | nothing | while the host holds a pool of the subnet |
//! | `ipam/blocks/SPACE/SUBNET/FIRST` | `owned HOST` or `orphan HOST` | while somebody owns the block |
//! | `ipam/generations/SPACE` | nothing; changed with every change of the space's pools | for good |
//!
//! **Invariant:** every claim is guarded by the host's own epoch, so a host whose lease has ended can
//! claim nothing until it has come anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::{Error, Expect, Guard, Lease, Op, Result, Revision, Row, Store};
use ipnet::IpNet;

/// How often a change is tried again that somebody else came in between.
pub(super) const ATTEMPTS: usize = 32;
/// Changes of one transaction.
const BATCH: usize = 32;

const HOSTS: &str = "ipam/hosts/";
const BLOCKS: &str = "ipam/blocks/";

/// A subnet of an address space, as it is a part of keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) space: String,
    pub(super) net: IpNet,
}

impl Place {
    /// `SPACE/ADDRESS_LENGTH`.
    pub(super) fn part(&self) -> String {
        format!("{}/{}_{}", self.space, self.net.network(), self.net.prefix_len())
    }

    pub(super) fn pool(&self) -> String {
        format!("ipam/pools/{}", self.part())
    }

    fn users(&self) -> String {
        format!("ipam/users/{}/", self.part())
    }

    fn blocks(&self) -> String {
        format!("{BLOCKS}{}/", self.part())
    }

    fn block(&self, first: IpAddr) -> String {
        format!("{}{first}", self.blocks())
    }

    fn generation(&self) -> String {
        format!("ipam/generations/{}", self.space)
    }

    /// The first address of the block that a key below ours names.
    fn first(&self, key: &str) -> Option<IpAddr> {
        key.strip_prefix(&self.blocks())?.parse().ok()
    }
}

/// Our registration.
pub(super) struct Life {
    lease: Lease,
    epoch: Revision,
}

/// A host among others.
pub(super) struct Shared {
    store: Arc<dyn Store>,
    host: String,
    ttl: Duration,
    grace: Duration,
    life: Mutex<Option<Life>>,
    /// Blocks without an owner: since when we have seen them so, unchanged.
    orphans: Mutex<BTreeMap<String, (Revision, Instant)>>,
}

fn put(key: String, value: impl Into<Vec<u8>>) -> Op {
    Op::Put {
        key,
        value: value.into(),
        lease: None,
    }
}

fn guard(key: String, revision: Option<Revision>) -> Guard {
    Guard {
        key,
        expect: revision.map_or(Expect::Absent, Expect::Revision),
    }
}

/// Whether a block is owned, and by whom it was at last.
fn owner(row: &Row) -> Option<(bool, &str)> {
    let (state, host) = std::str::from_utf8(&row.value).ok()?.split_once(' ')?;
    Some((state == "owned", host))
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, host: &str, ttl: Duration, grace: Duration) -> Self {
        Self {
            store,
            host: host.to_owned(),
            ttl,
            grace,
            life: Mutex::new(None),
            orphans: Mutex::new(BTreeMap::new()),
        }
    }

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self) -> String {
        format!("{HOSTS}{}", self.host)
    }

    fn owned(&self) -> String {
        format!("owned {}", self.host)
    }

    /// Whether our registration is known to live.
    pub(super) fn is_registered(&self) -> bool {
        self.life().as_ref().is_some_and(|life| !life.lease.is_lost())
    }

    /// Whether nobody can have been given what is in our blocks. Others wait until our lease has ended,
    /// which it had not when it was renewed, and for the grace after that; we stop a tenth of the grace
    /// earlier, since clocks differ.
    pub(super) fn may_give(&self) -> bool {
        let life = self.life();
        let until = life
            .as_ref()
            .map(|life| life.lease.renewed() + self.grace * 9 / 10);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// That we are registered as we believe.
    fn alive(&self) -> Result<Guard> {
        let epoch = self.life().as_ref().map(|life| life.epoch);
        let epoch = epoch.ok_or_else(|| {
            Error::unavailable(
                "claim",
                self.row(),
                std::io::Error::other("this host is not registered"),
            )
        })?;
        Ok(guard(self.row(), Some(epoch)))
    }

    /// Registers under a new lease, and takes up again every block that is still ours: these. Nothing of
    /// it counts before [`Shared::adopt`].
    pub(super) fn register(&self) -> Result<(Life, Vec<String>)> {
        let lease = self.store.lease(self.ttl)?;
        let epoch = self
            .store
            .put_if(&self.row(), b"", Expect::Any, Some(lease.id()))?;
        let alive = guard(self.row(), Some(epoch));
        let mut mine = Vec::new();
        for row in self.store.list(BLOCKS)?.rows {
            if owner(&row).is_none_or(|(_, host)| host != self.host) {
                continue;
            }
            let guards = [alive.clone(), guard(row.key.clone(), Some(row.revision))];
            match self.store.txn(&guards, &[put(row.key.clone(), self.owned())]) {
                Ok(_) => mine.push(row.key),
                // Its grace has passed, and somebody has freed it.
                Err(Error::Conflict { key, .. }) if key == row.key => {}
                Err(other) => return Err(other),
            }
        }
        Ok((Life { lease, epoch }, mine))
    }

    /// Lives under a registration from now on.
    pub(super) fn adopt(&self, life: Life) {
        *self.life() = Some(life);
    }

    /// The first addresses of `place`'s blocks among `keys`.
    pub(super) fn blocks_of(place: &Place, keys: &[String]) -> Vec<IpAddr> {
        keys.iter().filter_map(|key| place.first(key)).collect()
    }

    /// Holds a subnet for this host; makes it where it is new. `Err` within says which other one it
    /// overlaps.
    pub(super) fn hold(&self, place: &Place) -> Result<std::result::Result<(), IpNet>> {
        for _ in 0..ATTEMPTS {
            let generation = self.store.get(&place.generation())?.map(|row| row.revision);
            let pools = self.pools(&place.space)?;
            let mut others = pools.iter().map(|(other, _)| other.net);
            if let Some(other) = others.find(|other| *other != place.net && super::overlap(*other, place.net))
            {
                return Ok(Err(other));
            }
            let mut ops = vec![
                put(format!("{}{}", place.users(), self.host), ""),
                put(place.generation(), ""),
            ];
            if !pools.iter().any(|(other, _)| other == place) {
                ops.push(put(place.pool(), ""));
            }
            match self
                .store
                .txn(&[guard(place.generation(), generation), self.alive()?], &ops)
            {
                Err(error) if error.is_conflict() && self.is_registered() => {}
                outcome => return outcome.map(|_| Ok(())),
            }
        }
        Err(crowded("hold", &place.pool()))
    }

    /// The subnets of a space that some host holds, each with its gateway.
    pub(super) fn pools(&self, space: &str) -> Result<Vec<(Place, Option<IpAddr>)>> {
        let prefix = format!("ipam/pools/{space}/");
        let rows = self.store.list(&prefix)?.rows;
        let read = |row: &Row| {
            let (address, length) = row.key.strip_prefix(&prefix)?.split_once('_')?;
            let net = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?;
            let space = space.to_owned();
            Some((Place { space, net }, gateway_in(row)))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Lets a subnet go: our blocks, our use of it, and with its last user the subnet itself.
    pub(super) fn let_go(&self, place: &Place) -> Result<()> {
        let mine: Vec<Row> = self.store.list(&place.blocks())?.rows;
        let mine = mine
            .into_iter()
            .filter(|row| owner(row).is_some_and(|(_, host)| host == self.host));
        for some in mine.collect::<Vec<_>>().chunks(BATCH) {
            let guards: Vec<Guard> = some
                .iter()
                .map(|row| guard(row.key.clone(), Some(row.revision)))
                .collect();
            let ops: Vec<Op> = some
                .iter()
                .map(|row| Op::Delete { key: row.key.clone() })
                .collect();
            self.store.txn(&guards, &ops)?;
        }
        for _ in 0..ATTEMPTS {
            let generation = self.store.get(&place.generation())?.map(|row| row.revision);
            let ours = format!("{}{}", place.users(), self.host);
            let is_last = self
                .store
                .list(&place.users())?
                .rows
                .iter()
                .all(|row| row.key == ours);
            let is_empty = self.store.list(&place.blocks())?.rows.is_empty();
            let mut ops = vec![Op::Delete { key: ours }, put(place.generation(), "")];
            if is_last && is_empty {
                ops.push(Op::Delete { key: place.pool() });
            }
            match self.store.txn(&[guard(place.generation(), generation)], &ops) {
                Err(error) if error.is_conflict() => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(crowded("let go", &place.pool()))
    }

    /// Makes `wanted` the subnet's gateway, unless it has one; answers what it has.
    pub(super) fn gateway(&self, place: &Place, wanted: IpAddr) -> Result<IpAddr> {
        for _ in 0..ATTEMPTS {
            let row = self.store.get(&place.pool())?;
            if let Some(there) = row.as_ref().and_then(gateway_in) {
                return Ok(there);
            }
            let guards = [guard(place.pool(), row.map(|row| row.revision)), self.alive()?];
            match self.store.txn(&guards, &[put(place.pool(), wanted.to_string())]) {
                Err(error) if error.is_conflict() && self.is_registered() => {}
                outcome => return outcome.map(|_| wanted),
            }
        }
        Err(crowded("set the gateway of", &place.pool()))
    }

    /// Claims a block; answers its owner where it is another's.
    pub(super) fn claim(&self, place: &Place, first: IpAddr) -> Result<Option<String>> {
        let key = place.block(first);
        let guards = [self.alive()?, guard(key.clone(), None)];
        match self.store.txn(&guards, &[put(key.clone(), self.owned())]) {
            Ok(_) => Ok(None),
            Err(Error::Conflict { key: at, found, .. }) if at == key => {
                // After an answer that was lost it may be ours. One of ours that was marked is not.
                let found = found.as_deref().and_then(owner);
                let is_ours = found == Some((true, self.host.as_str()));
                let host = found.map_or("somebody", |(_, host)| host);
                Ok((!is_ours).then(|| host.to_owned()))
            }
            Err(other) => Err(other),
        }
    }

    /// The first addresses of a subnet's blocks that we cannot claim.
    pub(super) fn taken(&self, place: &Place) -> Result<BTreeSet<IpAddr>> {
        let rows = self.store.list(&place.blocks())?.rows;
        let others = rows
            .iter()
            .filter(|row| owner(row) != Some((true, self.host.as_str())));
        Ok(others.filter_map(|row| place.first(&row.key)).collect())
    }

    /// Marks the blocks of hosts that are gone, and frees those that have been so for the grace.
    pub(super) fn tidy(&self) -> Result<()> {
        // Hosts first: who registers in between keeps its blocks.
        let hosts: Vec<String> = self
            .store
            .list(HOSTS)?
            .rows
            .into_iter()
            .map(|row| row.key)
            .collect();
        let blocks = self.store.list(BLOCKS)?.rows;
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeMap::new();
        for row in blocks {
            let Some((is_owned, host)) = owner(&row) else {
                continue;
            };
            let host_row = format!("{HOSTS}{host}");
            if hosts.contains(&host_row) {
                continue;
            }
            let gone = guard(host_row, None);
            let same = guard(row.key.clone(), Some(row.revision));
            if is_owned {
                let op = put(row.key.clone(), format!("orphan {host}"));
                match self.store.txn(&[gone, same], &[op]) {
                    Ok(revision) => drop(seen.insert(row.key, (revision, Instant::now()))),
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let known = orphans
                .get(&row.key)
                .filter(|(revision, _)| *revision == row.revision);
            let since = known.map_or_else(Instant::now, |(_, since)| *since);
            if since.elapsed() < self.grace {
                seen.insert(row.key, (row.revision, since));
                continue;
            }
            let free = Op::Delete { key: row.key.clone() };
            match self.store.txn(&[gone, same], &[free]) {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        *orphans = seen;
        Ok(())
    }
}

fn gateway_in(row: &Row) -> Option<IpAddr> {
    std::str::from_utf8(&row.value).ok()?.parse().ok()
}

fn crowded(operation: &'static str, key: &str) -> Error {
    let why = format!("others wrote during each of {ATTEMPTS} attempts");
    Error::unavailable(operation, key, std::io::Error::other(why))
}
