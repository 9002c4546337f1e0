//! The suite: real engines, the reference engine and the contract, each against the real `longshore`.
//!
//! Every test makes a [`world`] of its own (mount, network and process namespaces) and leaves the
//! machine as it was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../world/mod.rs"]
mod world;

mod adoption;
mod contract;
mod door_cni;
mod door_netavark;
mod engine_containerd;
mod engine_differ;
mod engine_docker;
mod engine_networks;
mod engine_podman;
mod engine_reference;
mod server;
mod ship;
