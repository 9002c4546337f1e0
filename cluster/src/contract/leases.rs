//! Leases.

use std::time::{Duration, Instant};

use super::{Context, Failure, Known, Verdict, cases, ensure};
use crate::{Error, Expect, Lease, LeaseId, Op};

cases! {
    a_lease_that_is_renewed_lives: "a host that is well must not drop out";
    a_lease_that_nobody_renews_takes_its_rows: "the rows of a dead host must go";
    a_revoked_lease_takes_its_rows_at_once: "a host that leaves in order must not be waited for";
    a_lost_lease_is_told: "a host that was declared dead must stop acting for its rows";
    a_lost_lease_binds_nothing: "a host that was declared dead must not come back by a late write";
    a_row_is_bound_by_its_last_write: "a row that is written without the lease must outlive it";
    a_lease_is_bound_in_a_txn: "a host appears with its rows in one step";
    revoke_twice_is_already_so: "clean-up is retried";
}

/// How long a lease without renewal, and the rows under it, may stay.
fn patience(context: &Context<'_>, lease: &Lease) -> Duration {
    lease.ttl() * context.store().capabilities().ttl_slack + Duration::from_secs(10)
}

fn short(context: &Context<'_>) -> Result<Lease, Failure> {
    Ok(context.store().lease(Duration::from_millis(10))?)
}

fn a_lease_that_is_renewed_lives(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    ensure!(
        lease.ttl() >= context.store().capabilities().ttl_min,
        "it is {:?}",
        lease.ttl()
    );
    let key = context.key("host");
    context
        .store()
        .put_if(&key, b"", Expect::Absent, Some(lease.id()))?;
    ensure!(!lease.wait_lost(lease.ttl() * 5 / 2), "it was lost");
    let row = context.store().get(&key)?;
    ensure!(
        row.as_ref()
            .is_some_and(|row| row.lease.as_ref() == Some(lease.id())),
        "after two and a half lengths there is {row:?}"
    );
    context.store().revoke(lease.id())?;
    Ok(())
}

fn a_lease_that_nobody_renews_takes_its_rows(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    let (patience, ttl) = (patience(context, &lease), lease.ttl());
    for name in ["host", "more"] {
        context
            .store()
            .put_if(&context.key(name), b"", Expect::Absent, Some(lease.id()))?;
    }
    context
        .store()
        .put_if(&context.key("other"), b"", Expect::Absent, None)?;
    let begin = context.store().list(&context.all())?;
    ensure!(begin.rows.len() == 3, "there are {} rows", begin.rows.len());
    let other = context.other()?;
    let mut watch = other.watch(&context.all(), begin.revision)?;
    let dropped = Instant::now();
    drop(lease);
    let mut known = Known::from(&begin);
    known.follow(&mut watch, patience, |known| known.rows.len() == 1)?;
    let after = dropped.elapsed();
    ensure!(
        after >= ttl / 3,
        "they went after {after:?}, the lease is {ttl:?}"
    );
    ensure!(
        known.rows.contains_key(&context.key("other")),
        "the wrong rows went"
    );
    let left = context.store().list(&context.all())?.rows;
    ensure!(left.len() == 1, "the watch says they are gone, the list {left:?}");
    Ok(())
}

fn a_revoked_lease_takes_its_rows_at_once(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    let key = context.key("host");
    context
        .store()
        .put_if(&key, b"", Expect::Absent, Some(lease.id()))?;
    context.store().revoke(lease.id())?;
    let left = context.store().get(&key)?;
    ensure!(left.is_none(), "there is {left:?}");
    // And the key is free at once.
    context.store().put_if(&key, b"", Expect::Absent, None)?;
    let next = short(context)?;
    context.store().put_if(&key, b"", Expect::Any, Some(next.id()))?;
    context.store().revoke(next.id())?;
    Ok(())
}

fn a_lost_lease_is_told(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    ensure!(!lease.is_lost(), "it is lost from the beginning");
    context.other()?.revoke(lease.id())?;
    ensure!(
        lease.wait_lost(lease.ttl() + Duration::from_secs(2)),
        "nothing was told for {:?}",
        lease.ttl()
    );
    Ok(())
}

fn a_lost_lease_binds_nothing(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    context.store().revoke(lease.id())?;
    let key = context.key("host");
    let never = LeaseId("6a1c9e0e-0000-4000-8000-1d0c1d0c1d0c".to_owned());
    for id in [lease.id(), &never] {
        let put = context.store().put_if(&key, b"", Expect::Any, Some(id));
        ensure!(
            matches!(put, Err(Error::LeaseLost { .. })),
            "a put answers {put:?}"
        );
        let op = Op::Put {
            key: key.clone(),
            value: Vec::new(),
            lease: Some(id.clone()),
        };
        let txn = context.store().txn(&[], &[op]);
        ensure!(
            matches!(txn, Err(Error::LeaseLost { .. })),
            "a transaction answers {txn:?}"
        );
    }
    ensure!(context.store().get(&key)?.is_none(), "the row is there");
    Ok(())
}

fn a_row_is_bound_by_its_last_write(context: &Context<'_>) -> Verdict {
    let [old, new] = [short(context)?, short(context)?];
    let [freed, moved, stays] = ["freed", "moved", "stays"].map(|name| context.key(name));
    for key in [&freed, &moved, &stays] {
        context
            .store()
            .put_if(key, b"1", Expect::Absent, Some(old.id()))?;
    }
    let seen = context.store().put_if(&freed, b"2", Expect::Any, None)?;
    context
        .store()
        .put_if(&moved, b"2", Expect::Any, Some(new.id()))?;
    context
        .store()
        .put_if(&stays, b"2", Expect::Any, Some(old.id()))?;
    context.store().revoke(old.id())?;
    let rows = context.store().list(&context.all())?.rows;
    let left: Vec<(&str, Option<&LeaseId>)> = rows
        .iter()
        .map(|row| (row.key.as_str(), row.lease.as_ref()))
        .collect();
    ensure!(
        left == [(freed.as_str(), None), (moved.as_str(), Some(new.id()))],
        "there are {left:?}"
    );
    ensure!(
        rows.iter().all(|row| row.value == b"2"),
        "a value is of an earlier write"
    );
    ensure!(
        rows[0].revision == seen,
        "{freed} has {}, put answered {seen}",
        rows[0].revision
    );
    context.store().revoke(new.id())?;
    ensure!(context.store().get(&moved)?.is_none(), "the moved row is there");
    Ok(())
}

fn a_lease_is_bound_in_a_txn(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    let put = |name: &str, lease: Option<&LeaseId>| Op::Put {
        key: context.key(name),
        value: name.as_bytes().to_vec(),
        lease: lease.cloned(),
    };
    let ops = [put("host", Some(lease.id())), put("net", None)];
    context.store().txn(&[], &ops)?;
    context.store().txn(&[], &ops)?;
    context.store().revoke(lease.id())?;
    let rows = context.store().list(&context.all())?.rows;
    ensure!(rows.len() == 1 && rows[0].value == b"net", "there are {rows:?}");
    Ok(())
}

fn revoke_twice_is_already_so(context: &Context<'_>) -> Verdict {
    let lease = short(context)?;
    context.store().revoke(lease.id())?;
    context.store().revoke(lease.id())?;
    Ok(())
}
