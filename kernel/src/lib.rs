//! The cellar: system calls, mounts, netlink and durable records.
//!
//! **Invariant:** the only crate of the workspace with `unsafe`, `rustix`, `libc` or a netlink message.
//! **Invariant:** imports nothing else of the workspace and knows no noun of the plugin protocol.
//! **Invariant:** every wrapper passes [`fault::point`] before it changes the world, so that tests can
//! fail or kill the process at each change in turn.
//!
//! Wrappers are small values with total functions. Their [`Error`] carries the operation, its subject
//! and the errno. File descriptors are `OwnedFd` or `BorrowedFd`, never numbers.

pub mod activation;
pub mod btrfs;
pub mod clock;
pub mod dm;
pub mod error;
pub mod exec;
pub mod fault;
pub mod fsutil;
pub mod loopdev;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod packet;
pub mod port;
pub mod process;
pub mod record;

pub use error::{Error, Result};
