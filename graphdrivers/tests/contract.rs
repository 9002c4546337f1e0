//! The contract of graph plugins, over the real kernel: every back end, in this process and over a socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::BackEnd;
use plugin_api::client::Client;
use plugin_api::contract::{Outcome, Report, Subject, graph};
use plugin_api::graph::GraphPlugin;
use plugin_api::server::{Plugin, bind, serve};
use tokio::sync::oneshot;

/// Powers that a driver may leave out; the suite over a socket says elsewhere which are announced.
const OPTIONAL: [&str; 2] = ["an_exact_diff_gives_back_the_archive", "a_size_limit_is_kept"];

/// Every case was tried, but those of powers that this back end may lack here.
fn judge(state: &Path, reports: &[Report]) {
    assert!(reports.len() > 40, "{reports:?}");
    for report in reports {
        let skipped = matches!(report.outcome, Outcome::Skipped(_));
        assert!(!skipped || OPTIONAL.contains(&report.name), "{report:?}");
    }
    assert_eq!(common::mounted_below(&state.join("mounts")), 0);
    assert_eq!(common::mounted_below(&state.join("views")), 0);
}

fn in_this_process(back_end: BackEnd) {
    back_end.alone(|state| {
        // A slot, so that each case gets the one opening there may be.
        let slot = Mutex::new(Some(back_end.graph(state).unwrap()));
        let subject = Subject::new(|| Ok(Arc::clone(slot.lock().unwrap().as_ref().unwrap())));
        let subject = subject.on_restart(|driver| {
            drop(driver);
            let mut slot = slot.lock().unwrap();
            *slot = None;
            let driver = back_end.graph(state)?;
            *slot = Some(Arc::clone(&driver));
            Ok(driver)
        });
        judge(state, &graph::check(&subject));
        drop(subject);
        drop(slot);
    });
}

/// A plugin behind its socket.
struct Served {
    client: Client,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Served {
    fn open(back_end: BackEnd, state: &Path) -> Self {
        let plugin = Plugin {
            graph: Some(back_end.graph(state).unwrap()),
            ..Plugin::default()
        };
        let socket = state.parent().unwrap().join("run/g.sock");
        let bound = bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        // A thread of this one, for it shares its mounts.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let shutdown = async { drop(stopped.await) };
            let served = serve(vec![(bound, plugin)], shutdown, Duration::from_secs(5));
            runtime.block_on(served).unwrap();
        });
        let client = Client::connect(&socket).unwrap();
        Self { client, stop, thread }
    }

    fn close(self) {
        drop(self.client);
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

fn over_a_socket(back_end: BackEnd) {
    back_end.alone(|state| {
        let slot = Mutex::new(Some(Served::open(back_end, state)));
        let graph = || {
            let slot = slot.lock().unwrap();
            Arc::new(slot.as_ref().unwrap().client.graph()) as Arc<dyn GraphPlugin>
        };
        let subject = Subject::new(|| Ok(graph())).over_a_socket();
        let subject = subject.on_restart(|driver| {
            drop(driver);
            let old = slot.lock().unwrap().take().unwrap();
            old.close();
            *slot.lock().unwrap() = Some(Served::open(back_end, state));
            Ok(graph())
        });
        judge(state, &graph::check(&subject));
        drop(subject);
        slot.into_inner().unwrap().unwrap().close();
    });
}

#[test]
fn overlay_keeps_the_contract() {
    in_this_process(BackEnd::Overlay);
}

#[test]
fn overlay_keeps_the_contract_over_a_socket() {
    over_a_socket(BackEnd::Overlay);
}

#[test]
fn vfs_keeps_the_contract() {
    in_this_process(BackEnd::Vfs);
}

#[test]
fn vfs_keeps_the_contract_over_a_socket() {
    over_a_socket(BackEnd::Vfs);
}

#[test]
fn btrfs_keeps_the_contract() {
    in_this_process(BackEnd::Btrfs);
}

#[test]
fn btrfs_keeps_the_contract_over_a_socket() {
    over_a_socket(BackEnd::Btrfs);
}
