//! Real servers on loopback keep the contract, and what is not theirs to keep fails within bounds.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "this crate knows nothing of the cellar, and helpers of tests are tests as well"
)]

mod consul;
mod etcd;
mod server;
mod zookeeper;
