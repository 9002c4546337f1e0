//! Making, filling, mounting, comparing and removing layers.
//!
//! Every candidate of every round gets a file system of its own, made anew. Ours has what it answered for on
//! disk; a peer that leaves that to the kernel is measured as it is, and named so.

mod apply;
mod corpus;
mod differ;
mod go;
mod mounts;
mod ours;
mod snapshots;

use anyhow::Result;

use crate::row::Row;
use crate::wishes::{Measure, Wishes};

/// What one may ask for by `--only`.
const ROWS: &[(&str, Measure)] = &[
    ("apply-small", apply::small),
    ("apply-large", apply::large),
    ("gzip", differ::gzip),
    ("digest", differ::digest),
    ("getput", mounts::get_and_put),
    ("deep", mounts::deep),
    ("changes", mounts::changes),
    ("commit", snapshots::commit),
    ("prepares", snapshots::prepares),
];

/// Measures every row of the room, or those that are wished for.
pub(crate) fn measure(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    wishes.each("layers", ROWS, tell)
}
