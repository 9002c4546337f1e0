//! Watches.

use std::time::Duration;

use super::{Case, Context, Failure, Known, Verdict, cases, ensure};
use crate::{Event, Expect, Op, Store};

cases! {
    a_watch_converges: "what a watch tells, on top of the list it began with, is what is there";
    a_watch_tells_every_change_in_order: "a store with history is relied on to tell create, delete, create as three";
    a_watch_of_a_prefix_tells_of_nothing_else: "a host must not act on the rows of another network";
    a_quiet_watch_waits: "a watch that returns at once spins";
    a_watch_sees_what_another_client_does: "hosts learn of one another by watches alone";
    a_watch_from_the_future_resyncs: "a store that was restored must not be trusted to go on where it was";
    a_watch_has_no_gap_behind_its_list: "what happens between list and watch must not be lost";
}

/// Cases that disturb others.
pub(super) const ALONE: &[Case] = &[Case {
    name: "a_watch_from_before_the_history_resyncs",
    why: "a host that slept must notice that it missed something",
    run: a_watch_from_before_the_history_resyncs,
}];

const LIMIT: Duration = Duration::from_secs(8);

/// Writes, overwrites and deletes: 8 changes.
fn churn(context: &Context<'_>, store: &dyn Store) -> Verdict {
    let key = |name: &str| context.key(name);
    store.put_if(&key("a"), b"1", Expect::Any, None)?;
    store.put_if(&key("b"), b"1", Expect::Any, None)?;
    store.put_if(&key("a"), b"2", Expect::Any, None)?;
    store.delete_if(&key("b"), Expect::Any)?;
    store.put_if(&key("b"), b"2", Expect::Absent, None)?;
    store.delete_if(&key("a"), Expect::Any)?;
    let put = |name: &str| Op::Put {
        key: key(name),
        value: b"3".to_vec(),
        lease: None,
    };
    store.txn(&[], &[put("c"), put("d")])?;
    Ok(())
}

fn names(context: &Context<'_>, known: &Known) -> Vec<String> {
    let all = context.all();
    known
        .rows
        .keys()
        .map(|key| key.trim_start_matches(&all).to_owned())
        .collect()
}

fn a_watch_converges(context: &Context<'_>) -> Verdict {
    let snapshot = context.store().list(&context.all())?;
    let mut watch = context.store().watch(&context.all(), snapshot.revision)?;
    let mut known = Known::from(&snapshot);
    churn(context, context.store())?;
    let end = context.store().list(&context.all())?;
    let wanted = Known::from(&end).rows;
    known.follow(&mut watch, LIMIT, |known| known.rows == wanted)?;
    ensure!(
        names(context, &known) == ["b", "c", "d"],
        "there are {:?}",
        names(context, &known)
    );
    Ok(())
}

fn a_watch_tells_every_change_in_order(context: &Context<'_>) -> Verdict {
    if !context.store().capabilities().history {
        return Ok(());
    }
    let begin = context.store().list(&context.all())?.revision;
    churn(context, context.store())?;
    let mut watch = context.store().watch(&context.all(), begin)?;
    let mut known = Known::default();
    known.follow(&mut watch, LIMIT, |known| known.seen.len() >= 8)?;
    let all = context.all();
    let told: Vec<(&str, bool)> = known
        .seen
        .iter()
        .map(|(key, put)| (key.trim_start_matches(&all), *put))
        .collect();
    let wanted = [
        ("a", true),
        ("b", true),
        ("a", true),
        ("b", false),
        ("b", true),
        ("a", false),
        ("c", true),
        ("d", true),
    ];
    ensure!(
        told == wanted && known.resyncs == 0,
        "it told {told:?}, {} resyncs",
        known.resyncs
    );
    ensure!(watch.next(Duration::from_millis(100))?.is_none(), "it told more");
    Ok(())
}

fn a_watch_of_a_prefix_tells_of_nothing_else(context: &Context<'_>) -> Verdict {
    let prefix = context.key("a/");
    let begin = context.store().list(&prefix)?;
    let mut watch = context.store().watch(&prefix, begin.revision)?;
    for name in ["ab", "a", "b/x", "a/last"] {
        context
            .store()
            .put_if(&context.key(name), b"", Expect::Any, None)?;
    }
    let mut known = Known::from(&begin);
    known.follow(&mut watch, LIMIT, |known| known.rows.len() == 1)?;
    let last = context.key("a/last");
    ensure!(
        known.rows.contains_key(&last),
        "it told of {:?}",
        known.rows.keys()
    );
    ensure!(
        known.seen.iter().all(|(key, _)| *key == last),
        "it told of {:?}",
        known.seen
    );
    Ok(())
}

fn a_quiet_watch_waits(context: &Context<'_>) -> Verdict {
    let begin = context.store().list(&context.all())?;
    let mut watch = context.store().watch(&context.all(), begin.revision)?;
    // The first event may be a resync.
    watch.next(Duration::from_millis(300))?;
    let start = std::time::Instant::now();
    let event = watch.next(Duration::from_millis(500))?;
    ensure!(event.is_none(), "nothing happened, it told {event:?}");
    let waited = start.elapsed();
    ensure!(
        waited >= Duration::from_millis(400),
        "it waited {waited:?} of 500 ms"
    );
    Ok(())
}

fn a_watch_sees_what_another_client_does(context: &Context<'_>) -> Verdict {
    let other = context.other()?;
    let begin = context.store().list(&context.all())?;
    let mut watch = context.store().watch(&context.all(), begin.revision)?;
    let mut known = Known::from(&begin);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            (0..10).try_for_each(|n| -> Verdict {
                std::thread::sleep(Duration::from_millis(20));
                other.put_if(&context.key(&format!("k{n}")), b"", Expect::Absent, None)?;
                Ok(())
            })
        });
        known.follow(&mut watch, LIMIT, |known| known.rows.len() == 10)?;
        writing
            .join()
            .map_err(|_| Failure("the writer panicked".to_owned()))?
    })
}

fn a_watch_from_the_future_resyncs(context: &Context<'_>) -> Verdict {
    if !context.store().capabilities().ordered_revisions {
        return Ok(());
    }
    context
        .store()
        .put_if(&context.key("a"), b"", Expect::Any, None)?;
    let mut now = context.store().list(&context.all())?.revision;
    now.0 += 1_000_000;
    let mut watch = context.store().watch(&context.all(), now)?;
    let first = watch.next(LIMIT)?;
    ensure!(
        matches!(&first, Some(Event::Resync(snapshot)) if snapshot.rows.len() == 1),
        "it began with {first:?}"
    );
    Ok(())
}

fn a_watch_has_no_gap_behind_its_list(context: &Context<'_>) -> Verdict {
    context
        .store()
        .put_if(&context.key("a"), b"", Expect::Any, None)?;
    let begin = context.store().list(&context.all())?;
    context.store().delete_if(&context.key("a"), Expect::Any)?;
    context
        .store()
        .put_if(&context.key("b"), b"", Expect::Any, None)?;
    let mut watch = context.store().watch(&context.all(), begin.revision)?;
    let mut known = Known::from(&begin);
    let b = context.key("b");
    known.follow(&mut watch, LIMIT, |known| {
        known.rows.len() == 1 && known.rows.contains_key(&b)
    })
}

fn a_watch_from_before_the_history_resyncs(context: &Context<'_>) -> Verdict {
    let begin = context.store().list(&context.all())?;
    context
        .store()
        .put_if(&context.key("a"), b"", Expect::Any, None)?;
    if let Some(compact) = &context.subject.compact {
        compact()?;
    } else {
        ensure!(
            !context.store().capabilities().history,
            "a store with history must be made to forget it, see Subject::on_compact"
        );
    }
    context
        .store()
        .put_if(&context.key("b"), b"", Expect::Any, None)?;
    // Whoever has read it already may go on telling it; who has not must say so.
    let late = context.other()?;
    let mut watch = late.watch(&context.all(), begin.revision)?;
    let first = watch.next(LIMIT)?;
    ensure!(
        matches!(&first, Some(Event::Resync(snapshot)) if snapshot.rows.len() == 2),
        "it began with {first:?}"
    );
    let Some(Event::Resync(snapshot)) = first else {
        return Ok(());
    };
    context.store().delete_if(&context.key("a"), Expect::Any)?;
    let mut known = Known::from(&snapshot);
    known.follow(&mut watch, LIMIT, |known| known.rows.len() == 1)
}
