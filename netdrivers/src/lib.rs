//! Networks.
//!
//! [`bridge`] connects the containers of one host and publishes their ports; [`ipam`] gives out
//! subnets and addresses. Both keep their state in a folder and repair the kernel from it at start.
//! [`door`] lets engines in that speak CNI or netavark.

pub mod bridge;
pub mod door;
pub mod ipam;

use std::path::Path;
use std::sync::Arc;

use plugin_api::Fault;
use plugin_api::ipam::IpamDriver;
use plugin_api::network::NetworkDriver;

/// Opens the bridge driver over a folder of state and one in memory for what lives as long as the boot, and
/// repairs what a death left half-made. One per network namespace: links and firewall rules carry its mark.
pub fn open_bridge(state: &Path, runtime: &Path) -> Result<Arc<dyn NetworkDriver>, Fault> {
    Ok(Arc::new(bridge::Driver::open(state, runtime)?))
}

/// Opens the address driver of one host over a folder of state.
pub fn open_local_ipam(state: &Path) -> Result<Arc<dyn IpamDriver>, Fault> {
    Ok(Arc::new(ipam::local::Local::open(state)?))
}

/// Opens the address driver of many hosts over a folder of state and a store that all of them reach.
pub fn open_cluster_ipam(
    state: &Path,
    store: Arc<dyn cluster::Store>,
    settings: &ipam::cluster::Settings,
) -> Result<Arc<ipam::cluster::Cluster>, Fault> {
    Ok(Arc::new(ipam::cluster::Cluster::open(state, store, settings)?))
}
