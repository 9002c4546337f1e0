//! Processes that die while they write: what was answered is there, what is there is whole.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "this crate knows nothing of the cellar, and helpers of tests are tests as well"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::embedded::Embedded;
use cluster::{Error, Event, Expect, Guard, Op, Revision, Store};

/// Starts this test again as a child that works in `folder`.
fn again(test: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LONGSHORE_CHILD_FOLDER", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn as_child() -> Option<Embedded> {
    let folder = std::env::var_os("LONGSHORE_CHILD_FOLDER")?;
    Some(Embedded::open(folder).unwrap())
}

fn put(key: &str, value: u64) -> Op {
    Op::Put {
        key: key.to_owned(),
        value: value.to_le_bytes().to_vec(),
        lease: None,
    }
}

fn value(store: &Embedded, key: &str) -> u64 {
    let row = store.get(key).unwrap();
    row.map_or(0, |row| u64::from_le_bytes(row.value.try_into().unwrap()))
}

/// Counts two rows up together, for ever; prints each count once it is answered.
fn count_for_ever(store: &Embedded) -> ! {
    let mut out = std::io::stdout();
    loop {
        let left = store.get("left").unwrap();
        let seen = left
            .as_ref()
            .map_or(Expect::Absent, |row| Expect::Revision(row.revision));
        let next = 1 + left.map_or(0, |row| u64::from_le_bytes(row.value.try_into().unwrap()));
        let guards = [Guard {
            key: "left".to_owned(),
            expect: seen,
        }];
        match store.txn(&guards, &[put("left", next), put("right", next)]) {
            Ok(_) => writeln!(out, "answered {next}").unwrap(),
            Err(Error::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        if next.is_multiple_of(16) {
            store.compact().unwrap();
        }
    }
}

/// The last count that the child printed.
fn last_answer(child: &mut Child) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let counts = lines.map_while(Result::ok).filter_map(|line| {
        let (_, count) = line.split_once("answered ")?;
        count.trim().parse().ok()
    });
    counts.max().unwrap_or(0)
}

#[test]
fn processes_killed_while_they_write_lose_nothing_that_was_answered() {
    if let Some(store) = as_child() {
        count_for_ever(&store);
    }
    let test = "processes_killed_while_they_write_lose_nothing_that_was_answered";
    let folder = tempfile::tempdir().unwrap();
    let watcher = Embedded::open(folder.path()).unwrap();
    let mut watch = watcher.watch("", Revision(0)).unwrap();
    let mut before = 0;
    for round in 0..12u64 {
        let mut children = [again(test, folder.path()), again(test, folder.path())];
        // A time of its own for every round, so that each dies somewhere else.
        std::thread::sleep(Duration::from_millis(120 + round * 17 + before % 13));
        for child in &mut children {
            child.kill().unwrap();
        }
        let answered = children.iter_mut().map(last_answer).max().unwrap();
        for child in &mut children {
            child.wait().unwrap();
        }
        let store = Embedded::open(folder.path()).unwrap();
        let (left, right) = (value(&store, "left"), value(&store, "right"));
        assert_eq!(left, right, "half a transaction is there");
        assert!(left >= answered, "{answered} was answered, {left} is there");
        // Each of the two may have died between its write and its answer.
        assert!(
            left <= answered.max(before) + 2,
            "{answered} was answered, {left} is there"
        );
        before = left;
    }
    assert!(before > 100, "the children only counted to {before}");
    // And a watch of another process went along.
    let (mut seen, begin) = (0, Instant::now());
    while seen < before {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the watch ends at {seen} of {before}"
        );
        let rows = match watch.next(Duration::from_millis(100)).unwrap() {
            Some(Event::Resync(snapshot)) => snapshot.rows,
            Some(Event::Change(change)) => change.row.into_iter().collect(),
            None => Vec::new(),
        };
        for row in rows.into_iter().filter(|row| row.key == "left") {
            let now = u64::from_le_bytes(row.value.try_into().unwrap());
            assert!(now > seen, "{now} after {seen}");
            seen = now;
        }
    }
}

#[test]
fn a_killed_process_loses_its_lease_when_its_time_is_up() {
    if let Some(store) = as_child() {
        let lease = store.lease(Duration::from_secs(4)).unwrap();
        let bound = store.put_if("host", b"", Expect::Absent, Some(lease.id()));
        bound.unwrap();
        // Until it is killed, or its parent is.
        loop {
            writeln!(std::io::stdout(), "answered 1").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let test = "a_killed_process_loses_its_lease_when_its_time_is_up";
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut watch = store.watch("", Revision(0)).unwrap();
    let mut child = again(test, folder.path());
    let first = watch.next(Duration::from_secs(10)).unwrap();
    assert!(
        matches!(&first, Some(Event::Change(change)) if change.row.is_some()),
        "{first:?}"
    );
    // As long as the process lives, so does the row.
    assert_eq!(watch.next(Duration::from_secs(6)).unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = watch.next(Duration::from_secs(20)).unwrap();
    assert!(
        matches!(&gone, Some(Event::Change(change)) if change.row.is_none()),
        "{gone:?}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path().join("leases")).unwrap().count(),
        0
    );
}

#[test]
fn a_log_cut_off_anywhere_in_its_last_record_opens_as_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let first = store.put_if("a", b"first", Expect::Absent, None).unwrap();
    let log = folder.path().join("log");
    let before = std::fs::metadata(&log).unwrap().len();
    store
        .put_if("a", b"second", Expect::Revision(first), None)
        .unwrap();
    drop(store);
    let whole = std::fs::read(&log).unwrap();
    for cut in usize::try_from(before).unwrap()..whole.len() {
        std::fs::write(&log, &whole[..cut]).unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        assert_eq!(store.get("a").unwrap().unwrap().value, b"first", "cut at {cut}");
        // It is written over, and reads back for others.
        store
            .put_if("a", b"third", Expect::Revision(first), None)
            .unwrap();
        let other = Embedded::open(folder.path()).unwrap();
        assert_eq!(other.get("a").unwrap().unwrap().value, b"third", "cut at {cut}");
    }
}

#[test]
fn a_damaged_log_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    store.put_if("a", b"first", Expect::Any, None).unwrap();
    store.put_if("b", b"second", Expect::Any, None).unwrap();
    let log = folder.path().join("log");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(5).position(|five| five == b"first").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let refused = Embedded::open(folder.path()).err();
    assert!(matches!(refused, Some(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}

#[test]
fn a_watch_that_fell_behind_a_shortened_log_resyncs_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let [store, late] = [(); 2].map(|()| Embedded::open(folder.path()).unwrap());
    let mut watch = late.watch("", Revision(0)).unwrap();
    assert_eq!(watch.next(Duration::ZERO).unwrap(), None);
    store.put_if("a", b"", Expect::Any, None).unwrap();
    store.put_if("b", b"", Expect::Any, None).unwrap();
    store.delete_if("a", Expect::Any).unwrap();
    store.compact().unwrap();
    let told = watch.next(Duration::from_secs(5)).unwrap();
    assert!(
        matches!(&told, Some(Event::Resync(snapshot)) if snapshot.rows.len() == 1),
        "{told:?}"
    );
    store.put_if("c", b"", Expect::Any, None).unwrap();
    let told = watch.next(Duration::from_secs(5)).unwrap();
    assert!(
        matches!(&told, Some(Event::Change(change)) if change.key == "c"),
        "{told:?}"
    );
}

#[test]
fn a_log_that_grows_is_shortened_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    for n in 0..24u8 {
        store
            .put_if("a", &vec![n; 256 * 1024], Expect::Any, None)
            .unwrap();
    }
    let length = std::fs::metadata(folder.path().join("log")).unwrap().len();
    assert!(length < 4 * 1024 * 1024 + 512 * 1024, "it is {length} bytes");
    let other = Embedded::open(folder.path()).unwrap();
    assert_eq!(other.get("a").unwrap().unwrap().value[0], 23);
}

#[test]
fn files_of_the_store_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("store");
    let store = Embedded::open(&folder).unwrap();
    let lease = store.lease(Duration::from_secs(5)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in ["log", "lock", &format!("leases/{}", lease.id())] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
}
