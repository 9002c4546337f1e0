//! Every case of the suites fails for a driver that breaks its rule, and only then.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests as well")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plugin_api::contract::wire::{self, WireSubject};
use plugin_api::contract::wrong::wire::WireDefect;
use plugin_api::contract::wrong::{
    self, Graph, GraphDefect, Ipam, IpamDefect, Network, NetworkDefect, Volume, VolumeDefect,
};
use plugin_api::contract::{
    Case, GraphSubject, IpamSubject, NetworkSubject, Outcome, Report, VolumeSubject, graph, ipam, network,
    run, run_case, twin, volume,
};
use plugin_api::server::{Plugin, bind, serve};

fn failed(reports: Vec<Report>) -> BTreeSet<&'static str> {
    let failed = reports
        .into_iter()
        .filter(|report| matches!(report.outcome, Outcome::Failed(_)));
    failed.map(|report| report.name).collect()
}

/// Each defect fails the cases it names and no others, and together they fail every case.
fn judge<D: ?Sized, W: Copy + Debug + Send + Sync>(
    suite: &[Case<D>],
    defects: &[(W, &[&'static str])],
    fails: impl Fn(W) -> BTreeSet<&'static str> + Sync,
) {
    let mut trouble = Vec::new();
    let mut caught = BTreeSet::new();
    // Most of the time is spent in pauses and in files: four defects at once.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some((defect, named)) = defects.get(next.fetch_add(1, Ordering::SeqCst)) {
            found.push((*defect, *named, fails(*defect)));
        }
        found
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    for (defect, named, found) in found {
        let wanted: BTreeSet<_> = named.iter().copied().collect();
        if wanted != found {
            let missed: Vec<_> = wanted.difference(&found).collect();
            let extra: Vec<_> = found.difference(&wanted).collect();
            trouble.push(format!(
                "{defect:?}: not caught by {missed:?}, caught as well by {extra:?}"
            ));
        }
        caught.extend(found);
    }
    for case in suite.iter().filter(|case| !caught.contains(case.name)) {
        trouble.push(format!("no defect makes {} fail", case.name));
    }
    assert!(trouble.is_empty(), "{}", trouble.join("\n"));
}

#[test]
fn every_volume_case_catches_its_defect() {
    judge(volume::SUITE, VolumeDefect::ALL, |defect| {
        let home = tempfile::tempdir().unwrap();
        let held = Mutex::new(Arc::new(Volume::open(home.path(), defect).unwrap()));
        let fresh = || {
            *held.lock().unwrap() = Arc::new(Volume::open(home.path(), defect)?);
            Ok(held.lock().unwrap().clone() as volume::Driver)
        };
        let again = |_| {
            let new = Arc::new(held.lock().unwrap().restarted()?);
            *held.lock().unwrap() = new.clone();
            Ok(new as volume::Driver)
        };
        failed(run(
            volume::SUITE,
            &VolumeSubject::new(fresh)
                .on_restart(again)
                .other_option("size", "2"),
        ))
    });
}

#[test]
fn every_address_case_catches_its_defect() {
    judge(ipam::SUITE, IpamDefect::ALL, |defect| {
        let held = Mutex::new(Arc::new(Ipam::new(defect)));
        let fresh = || {
            *held.lock().unwrap() = Arc::new(Ipam::new(defect));
            Ok(held.lock().unwrap().clone() as ipam::Driver)
        };
        let again = |_| {
            let new = Arc::new(held.lock().unwrap().restarted());
            *held.lock().unwrap() = new.clone();
            Ok(new as ipam::Driver)
        };
        failed(run(ipam::SUITE, &IpamSubject::new(fresh).on_restart(again)))
    });
}

#[test]
fn every_network_case_catches_its_defect() {
    judge(network::SUITE, NetworkDefect::ALL, |defect| {
        let held = Mutex::new(Arc::new(Network::new(defect)));
        let fresh = || {
            *held.lock().unwrap() = Arc::new(Network::new(defect));
            Ok(held.lock().unwrap().clone() as network::Driver)
        };
        let again = |_| {
            let new = Arc::new(held.lock().unwrap().restarted());
            *held.lock().unwrap() = new.clone();
            Ok(new as network::Driver)
        };
        failed(run(
            network::SUITE,
            &NetworkSubject::new(fresh).on_restart(again).option("mtu", "1400"),
        ))
    });
}

#[test]
fn every_graph_case_catches_its_defect() {
    judge(graph::SUITE, GraphDefect::ALL, |defect| {
        let home = tempfile::tempdir().unwrap();
        let held = Mutex::new(Arc::new(Graph::open(home.path(), defect).unwrap()));
        let fresh = || {
            *held.lock().unwrap() = Arc::new(Graph::open(home.path(), defect)?);
            Ok(held.lock().unwrap().clone() as graph::Driver)
        };
        let again = |_| {
            let new = Arc::new(held.lock().unwrap().restarted()?);
            *held.lock().unwrap() = new.clone();
            Ok(new as graph::Driver)
        };
        // 120 whole copies take longer than all other cases together; only one defect is about depth.
        let slow = |name: &str| {
            name == "deep_chains_are_read_to_the_bottom" && defect != GraphDefect::ChainsEndAt100
        };
        let subject = GraphSubject::new(fresh).on_restart(again);
        let cases = graph::SUITE.iter().filter(|case| !slow(case.name));
        failed(cases.map(|case| run_case(case, &subject)).collect())
    });
}

#[test]
fn every_wire_case_catches_its_defect() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    judge(wire::SUITE, WireDefect::ALL, |defect| {
        // A plugin of its own: cases look for what appeared meanwhile, and defects are judged side by side.
        let home = home.path().join(format!("{defect:?}"));
        let plugin = Plugin {
            volume: Some(Arc::new(twin::Volume::open(&home.join("volumes")).unwrap())),
            network: Some(Arc::new(twin::Network::new())),
            ipam: Some(Arc::new(twin::Ipam::new())),
            graph: Some(Arc::new(twin::Graph::open(&home.join("layers")).unwrap())),
            ..Plugin::default()
        };
        let (right, wrong) = (home.join("right.sock"), home.join("wrong.sock"));
        let bound = bind(&right).unwrap();
        runtime.spawn(serve(
            vec![(bound, plugin)],
            std::future::pending(),
            Duration::from_secs(1),
        ));
        wrong::wire::serve(defect, &right, &wrong).unwrap();
        let open = || wire::Socket::open(&wrong).map(Arc::new);
        failed(run(wire::SUITE, &WireSubject::new(open)))
    });
}
