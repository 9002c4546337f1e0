//! The twins keep every rule, in this process and over a socket.

use std::sync::Arc;

use plugin_api::contract::{
    GraphSubject, IpamSubject, NetworkSubject, Outcome, Report, VolumeSubject, graph, ipam, network, twin, volume,
};
use plugin_api::fault::Fault;

/// The only handle, out of its `Arc`.
fn only<T>(handle: Arc<T>) -> Result<T, Fault> {
    Arc::try_unwrap(handle).map_err(|_| Fault::internal("a case kept the driver over its restart"))
}

/// No case may be skipped, but these.
fn skipped(reports: &[Report], expected: &[&str]) {
    let skipped: Vec<&str> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Skipped(_)))
        .map(|report| report.name)
        .collect();
    assert_eq!(skipped, expected);
}
