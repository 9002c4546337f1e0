//! Rows, guards and transactions.

use std::sync::Barrier;

use super::{Context, Failure, Verdict, cases, ensure};
use crate::{Error, Expect, Guard, MAX_OPS, Op, Revision};

cases! {
    a_row_reads_back: "everything else rests on it";
    absent_creates_once: "two hosts must not both own a network's id";
    of_eight_creators_one_wins: "ids and address blocks are claimed by create-if-absent alone";
    a_stale_revision_conflicts: "a write over what one has not read loses somebody's claim";
    of_eight_counters_none_is_lost: "block allocation is compare-and-set in a loop";
    a_conflict_says_what_is_there: "the loser of a race goes on with the winner's row";
    a_row_made_again_has_another_revision: "a claim on a row that was deleted must not hold for its successor";
    delete_of_nothing_is_done_already: "deletes are retried";
    a_stale_delete_conflicts: "a cleaner must not remove what was claimed meanwhile";
    values_hold_any_bytes: "values are whatever a driver encodes";
    keys_hold_what_the_rules_allow: "names of networks come from users";
    bad_keys_are_refused: "a key that one store takes and another does not breaks on the day of the move";
    a_prefix_is_a_beginning: "a/ must not see ab, and the rows of one network not those of another";
    a_list_is_sorted_and_has_a_revision: "consumers compare lists and watch from them";
    a_list_is_one_moment: "a list of half a transaction shows a world that never was";
    a_large_value_is_refused_clearly: "a store that cuts values off corrupts, and one that hangs is a riddle";
    a_txn_is_all_or_nothing: "a network without its id, or an id without its network";
    a_txn_that_deletes_and_puts: "renames and hand-overs are one step";
    a_txn_of_64_is_taken: "drivers rely on the documented size";
    a_txn_of_65_is_refused: "a transaction must not be cut in two";
    two_clients_see_one_another: "what one host has written the other must see at once";
}

fn row_of(context: &Context<'_>, key: &str) -> Result<crate::Row, Failure> {
    let found = context.store().get(key)?;
    found.ok_or_else(|| Failure(format!("there is no row {key}")))
}

fn put(key: &str, value: &[u8]) -> Op {
    Op::Put {
        key: key.to_owned(),
        value: value.to_vec(),
        lease: None,
    }
}

fn guard(key: &str, expect: Expect) -> Guard {
    Guard {
        key: key.to_owned(),
        expect,
    }
}

fn a_row_reads_back(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    ensure!(
        context.store().get(&key)?.is_none(),
        "a key is there before it was written"
    );
    let first = context.store().put_if(&key, b"one", Expect::Any, None)?;
    let row = row_of(context, &key)?;
    ensure!(
        row.key == key && row.value == b"one" && row.lease.is_none(),
        "it reads as {row:?}"
    );
    ensure!(
        row.revision == first,
        "put answered {first}, get {}",
        row.revision
    );
    let second = context
        .store()
        .put_if(&key, b"two", Expect::Revision(first), None)?;
    let row = row_of(context, &key)?;
    ensure!(
        row.value == b"two" && row.revision == second && second != first,
        "then as {row:?}"
    );
    ensure!(
        !context.store().capabilities().ordered_revisions || second > first,
        "{second} was written after {first}"
    );
    Ok(())
}

fn absent_creates_once(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    context.store().put_if(&key, b"one", Expect::Absent, None)?;
    match context.store().put_if(&key, b"two", Expect::Absent, None) {
        Err(Error::Conflict { .. }) => {}
        other => return Err(Failure(format!("the second creation answers {other:?}"))),
    }
    ensure!(
        row_of(context, &key)?.value == b"one",
        "the loser's value is there"
    );
    Ok(())
}

/// Runs `work` on 8 threads at once, each with a client of its own.
fn eight<T: Send>(
    context: &Context<'_>,
    work: impl Fn(&dyn crate::Store, u8) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let clients = (0..8).map(|_| context.other()).collect::<Result<Vec<_>, _>>()?;
    let start = Barrier::new(clients.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0u8..)
            .zip(&clients)
            .map(|(n, client)| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    start.wait();
                    work(client.as_ref(), n)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| Failure("a thread panicked".to_owned()))?
            })
            .collect()
    })
}

fn of_eight_creators_one_wins(context: &Context<'_>) -> Verdict {
    for round in 0..5 {
        let key = context.key(&format!("round{round}"));
        let won = eight(context, |client, n| {
            match client.put_if(&key, &[n], Expect::Absent, None) {
                Ok(revision) => Ok(Some((n, revision))),
                Err(Error::Conflict { .. }) => Ok(None),
                Err(other) => Err(other.into()),
            }
        })?;
        let won: Vec<_> = won.into_iter().flatten().collect();
        ensure!(won.len() == 1, "{} of 8 creators won", won.len());
        let row = row_of(context, &key)?;
        ensure!(
            row.value == [won[0].0] && row.revision == won[0].1,
            "{:?} won, but {row:?} is there",
            won[0]
        );
    }
    Ok(())
}

fn a_stale_revision_conflicts(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    let first = context.store().put_if(&key, b"one", Expect::Absent, None)?;
    context
        .store()
        .put_if(&key, b"two", Expect::Revision(first), None)?;
    let stale = context
        .store()
        .put_if(&key, b"three", Expect::Revision(first), None);
    ensure!(
        matches!(stale, Err(Error::Conflict { .. })),
        "a stale put answers {stale:?}"
    );
    ensure!(row_of(context, &key)?.value == b"two", "the stale value is there");
    let nothing = context.key("b");
    let stale = context
        .store()
        .put_if(&nothing, b"x", Expect::Revision(first), None);
    ensure!(
        matches!(stale, Err(Error::Conflict { found: None, .. })),
        "a put over nothing answers {stale:?}"
    );
    ensure!(
        context.store().get(&nothing)?.is_none(),
        "the refused row is there"
    );
    Ok(())
}

fn of_eight_counters_none_is_lost(context: &Context<'_>) -> Verdict {
    let key = context.key("count");
    context.store().put_if(&key, &[0], Expect::Absent, None)?;
    eight(context, |client, _| {
        for _ in 0..5 {
            let mut row = client
                .get(&key)?
                .ok_or_else(|| Failure("the row is gone".to_owned()))?;
            loop {
                let next = [row.value[0] + 1];
                match client.put_if(&key, &next, Expect::Revision(row.revision), None) {
                    Ok(_) => break,
                    Err(Error::Conflict {
                        found: Some(found), ..
                    }) => row = *found,
                    Err(other) => return Err(other.into()),
                }
            }
        }
        Ok(())
    })?;
    let row = row_of(context, &key)?;
    ensure!(row.value == [40], "40 increments made {:?}", row.value);
    Ok(())
}

fn a_conflict_says_what_is_there(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    context.store().put_if(&key, b"there", Expect::Any, None)?;
    let row = row_of(context, &key)?;
    let refused = context.store().put_if(&key, b"x", Expect::Absent, None);
    let Err(Error::Conflict { key: at, found, .. }) = refused else {
        return Err(Failure(format!("it answers {refused:?}")));
    };
    ensure!(
        at == key && found.as_deref() == Some(&row),
        "it says {found:?} is at {at}"
    );
    let guards = [
        guard(&context.key("b"), Expect::Absent),
        guard(&key, Expect::Absent),
    ];
    let refused = context.store().txn(&guards, &[put(&context.key("c"), b"")]);
    let Err(Error::Conflict { key: at, found, .. }) = refused else {
        return Err(Failure(format!("a transaction answers {refused:?}")));
    };
    ensure!(
        at == key && found.as_deref() == Some(&row),
        "a transaction says {found:?} is at {at}"
    );
    Ok(())
}

fn a_row_made_again_has_another_revision(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    let first = context.store().put_if(&key, b"same", Expect::Absent, None)?;
    ensure!(
        context.store().delete_if(&key, Expect::Revision(first))?,
        "the row was not there"
    );
    let second = context.store().put_if(&key, b"same", Expect::Absent, None)?;
    ensure!(first != second, "both have revision {first}");
    let stale = context.store().put_if(&key, b"x", Expect::Revision(first), None);
    ensure!(
        matches!(stale, Err(Error::Conflict { .. })),
        "the old revision answers {stale:?}"
    );
    Ok(())
}

fn delete_of_nothing_is_done_already(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    ensure!(
        !context.store().delete_if(&key, Expect::Any)?,
        "nothing was removed"
    );
    context.store().put_if(&key, b"x", Expect::Any, None)?;
    ensure!(
        context.store().delete_if(&key, Expect::Any)?,
        "a row was removed, it says not"
    );
    ensure!(
        !context.store().delete_if(&key, Expect::Any)?,
        "it was removed twice"
    );
    Ok(())
}

fn a_stale_delete_conflicts(context: &Context<'_>) -> Verdict {
    let key = context.key("a");
    let first = context.store().put_if(&key, b"one", Expect::Absent, None)?;
    context.store().put_if(&key, b"two", Expect::Any, None)?;
    let stale = context.store().delete_if(&key, Expect::Revision(first));
    ensure!(
        matches!(stale, Err(Error::Conflict { .. })),
        "it answers {stale:?}"
    );
    ensure!(row_of(context, &key)?.value == b"two", "another row is there");
    Ok(())
}

fn values_hold_any_bytes(context: &Context<'_>) -> Verdict {
    let every: Vec<u8> = (0..=255).collect();
    let long = every.repeat(256);
    for (n, value) in [&[][..], &[0], &[255, 254], &every, b"\r\n\"\\{}", &long]
        .into_iter()
        .enumerate()
    {
        let key = context.key(&format!("v{n}"));
        context.store().put_if(&key, value, Expect::Absent, None)?;
        ensure!(
            row_of(context, &key)?.value == value,
            "value {n} reads back otherwise"
        );
    }
    let listed = context.store().list(&context.all())?;
    ensure!(
        listed.rows[5].value == long && listed.rows[0].value.is_empty(),
        "a list tells others"
    );
    Ok(())
}

fn keys_hold_what_the_rules_allow(context: &Context<'_>) -> Verdict {
    let names = [
        "a b",
        "a%2Fb",
        "a?b=c&d#e",
        "ö/ü",
        "10.0.0.0/24",
        "\"quoted\"",
        "a+b",
        "..a",
        "a\\b",
    ];
    for name in names {
        let key = context.key(name);
        context
            .store()
            .put_if(&key, name.as_bytes(), Expect::Absent, None)?;
        ensure!(row_of(context, &key)?.key == key, "{name:?} has another key");
    }
    let mut listed: Vec<String> = context
        .store()
        .list(&context.all())?
        .rows
        .into_iter()
        .map(|r| r.key)
        .collect();
    let mut wanted: Vec<String> = names.iter().map(|name| context.key(name)).collect();
    wanted.sort();
    listed.sort();
    ensure!(listed == wanted, "the list says {listed:?}");
    for name in names {
        ensure!(
            context.store().delete_if(&context.key(name), Expect::Any)?,
            "{name:?} was not there"
        );
    }
    Ok(())
}

fn bad_keys_are_refused(context: &Context<'_>) -> Verdict {
    for key in ["", "/a", "a/", "a//b", "../a", "a\0"] {
        let put = context.store().put_if(key, b"", Expect::Any, None);
        ensure!(
            matches!(put, Err(Error::Invalid { .. })),
            "put {key:?} answers {put:?}"
        );
        let get = context.store().get(key);
        ensure!(
            matches!(get, Err(Error::Invalid { .. })),
            "get {key:?} answers {get:?}"
        );
    }
    Ok(())
}

fn a_prefix_is_a_beginning(context: &Context<'_>) -> Verdict {
    for name in ["a", "a/x", "a/x/y", "ab", "ab/x", "b"] {
        context
            .store()
            .put_if(&context.key(name), b"", Expect::Any, None)?;
    }
    let cases: [(&str, &[&str]); 6] = [
        ("a/", &["a/x", "a/x/y"]),
        ("a", &["a", "a/x", "a/x/y", "ab", "ab/x"]),
        ("a/x", &["a/x", "a/x/y"]),
        ("ab", &["ab", "ab/x"]),
        ("c", &[]),
        ("", &["a", "a/x", "a/x/y", "ab", "ab/x", "b"]),
    ];
    for (prefix, names) in cases {
        let rows = context.store().list(&context.key(prefix))?.rows;
        let listed: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        let wanted: Vec<String> = names.iter().map(|name| context.key(name)).collect();
        ensure!(listed == wanted, "under {prefix:?} are {listed:?}");
    }
    Ok(())
}

fn a_list_is_sorted_and_has_a_revision(context: &Context<'_>) -> Verdict {
    let mut last = Revision::default();
    for name in ["c", "a", "b"] {
        last = context
            .store()
            .put_if(&context.key(name), name.as_bytes(), Expect::Any, None)?;
    }
    let snapshot = context.store().list(&context.all())?;
    let values: Vec<&[u8]> = snapshot.rows.iter().map(|row| row.value.as_slice()).collect();
    ensure!(values == [b"a", b"b", b"c"], "the order is {values:?}");
    ensure!(
        !context.store().capabilities().ordered_revisions || snapshot.revision >= last,
        "the list is of {}, a row of {last}",
        snapshot.revision
    );
    Ok(())
}

fn a_list_is_one_moment(context: &Context<'_>) -> Verdict {
    let keys: Vec<String> = (0..8).map(|n| context.key(&format!("k{n}"))).collect();
    let all = |value: u8| -> Vec<Op> { keys.iter().map(|key| put(key, &[value])).collect() };
    context.store().txn(&[], &all(0))?;
    let writer = context.other()?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (1..=30).try_for_each(|n| writer.txn(&[], &all(n)).map(drop)));
        let mut lists = 0;
        while !writing.is_finished() || lists == 0 {
            let rows = context.store().list(&context.all())?.rows;
            let first = rows[0].value.clone();
            ensure!(
                rows.iter().all(|row| row.value == first),
                "a list shows half a transaction"
            );
            lists += 1;
        }
        writing
            .join()
            .map_err(|_| Failure("the writer panicked".to_owned()))?
            .map_err(Failure::from)
    })
}

fn a_large_value_is_refused_clearly(context: &Context<'_>) -> Verdict {
    let limit = context.store().capabilities().max_value;
    let key = context.key("a");
    let refused = context
        .store()
        .put_if(&key, &vec![7; limit + 1], Expect::Any, None);
    ensure!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "it answers {refused:?}"
    );
    let refused = context.store().txn(&[], &[put(&key, &vec![7; limit + 1])]);
    ensure!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "a transaction answers {refused:?}"
    );
    ensure!(context.store().get(&key)?.is_none(), "something of it is there");
    context.store().put_if(&key, &vec![7; limit], Expect::Any, None)?;
    ensure!(
        row_of(context, &key)?.value.len() == limit,
        "the largest value was cut off"
    );
    Ok(())
}

fn a_txn_is_all_or_nothing(context: &Context<'_>) -> Verdict {
    let [net, id, generation] = ["net", "id", "gen"].map(|name| context.key(name));
    let seen = context.store().put_if(&generation, b"1", Expect::Absent, None)?;
    let guards = [
        guard(&net, Expect::Absent),
        guard(&id, Expect::Absent),
        guard(&generation, Expect::Revision(seen)),
    ];
    let ops = [put(&net, b"net"), put(&id, b"id"), put(&generation, b"2")];
    let revision = context.store().txn(&guards, &ops)?;
    for key in [&net, &id, &generation] {
        let row = row_of(context, key)?;
        ensure!(
            row.revision == revision,
            "{key} has {}, not {revision}",
            row.revision
        );
    }
    context.store().delete_if(&net, Expect::Any)?;
    // The network is absent again, but the id is not.
    let again = context.store().txn(&guards[..2], &ops);
    ensure!(
        matches!(again, Err(Error::Conflict { .. })),
        "the second one answers {again:?}"
    );
    ensure!(
        context.store().get(&net)?.is_none(),
        "half of a refused transaction is there"
    );
    let stale = context.store().txn(&guards[2..], &ops);
    ensure!(
        matches!(stale, Err(Error::Conflict { .. })),
        "a stale one answers {stale:?}"
    );
    ensure!(
        context.store().get(&net)?.is_none(),
        "half of a stale transaction is there"
    );
    Ok(())
}

fn a_txn_that_deletes_and_puts(context: &Context<'_>) -> Verdict {
    let [old, new, none] = ["old", "new", "none"].map(|name| context.key(name));
    let seen = context.store().put_if(&old, b"x", Expect::Absent, None)?;
    let ops = [
        Op::Delete { key: old.clone() },
        put(&new, b"x"),
        Op::Delete { key: none.clone() },
    ];
    let guards = [guard(&old, Expect::Revision(seen)), guard(&new, Expect::Absent)];
    context.store().txn(&guards, &ops)?;
    let rows = context.store().list(&context.all())?.rows;
    ensure!(rows.len() == 1 && rows[0].key == new, "there are {rows:?}");
    let twice = context.store().txn(&[], &[put(&new, b"1"), put(&new, b"2")]);
    ensure!(
        matches!(twice, Err(Error::Invalid { .. })),
        "two changes of one key answer {twice:?}"
    );
    Ok(())
}

fn a_txn_of_64_is_taken(context: &Context<'_>) -> Verdict {
    let ops: Vec<Op> = (1..MAX_OPS)
        .map(|n| put(&context.key(&format!("k{n}")), b"x"))
        .collect();
    let guards = [guard(&context.key("absent"), Expect::Absent)];
    context.store().txn(&guards, &ops)?;
    let count = context.store().list(&context.all())?.rows.len();
    ensure!(count == MAX_OPS - 1, "{count} rows are there");
    Ok(())
}

fn a_txn_of_65_is_refused(context: &Context<'_>) -> Verdict {
    let ops: Vec<Op> = (0..=MAX_OPS)
        .map(|n| put(&context.key(&format!("k{n}")), b"x"))
        .collect();
    let refused = context.store().txn(&[], &ops);
    ensure!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "it answers {refused:?}"
    );
    ensure!(
        context.store().list(&context.all())?.rows.is_empty(),
        "some of it is there"
    );
    Ok(())
}

fn two_clients_see_one_another(context: &Context<'_>) -> Verdict {
    let other = context.other()?;
    let key = context.key("a");
    for n in 0..20u8 {
        let (writer, reader) = if n % 2 == 0 {
            (context.store(), other.as_ref())
        } else {
            (other.as_ref(), context.store())
        };
        let revision = writer.put_if(&key, &[n], Expect::Any, None)?;
        let row = reader.get(&key)?;
        ensure!(
            row.as_ref()
                .is_some_and(|row| row.value == [n] && row.revision == revision),
            "{n} was written at {revision}, the other reads {row:?}"
        );
    }
    Ok(())
}
