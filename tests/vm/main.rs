//! What only a guest's kernel has: `cargo xtask test --lane vm` runs this binary in one.
//!
//! One guest serves all tests, one after another, so each leaves the disks to the next.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dm;
mod guest;
mod nfs;
