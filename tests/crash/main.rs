//! The crash sweep: longshore dies at every change of the world in turn, and nothing is left.
//!
//! [`ground`] gives a test its own network and mount namespaces and runs the real binary in them.
//! [`sweep`] runs a verb once to learn how many changes it makes and what they look like, and then once
//! for each of them:
//!
//! - `dies`: kill -9 at that change, start again. The world is as before the verb or as after it.
//! - `recovers`: as `dies`, and the start that repairs dies too, at each of *its* changes in turn.
//! - `fails`: the change fails with ENOSPC or EIO; nobody restarts.
//!
//! Every time the verb is then said again and succeeds, everything is taken down by the usual verbs, and
//! no mount, link, rule, file or record is left.
//!
//! [`full`] fills the disk instead, [`kills`] chooses its moments by the clock.
//!
//! The tables of verbs are in [`volume`] and its siblings, one line for each verb.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod full;
mod graph;
mod ground;
mod ipam;
mod kills;
mod network;
mod sweep;
mod volume;
mod writers;
