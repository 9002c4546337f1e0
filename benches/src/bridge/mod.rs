//! Networks, endpoints and published ports of the bridge driver.
//!
//! A peer that takes one process per step is measured as its users run it. The engine's own part of an
//! endpoint's life, such as moving the link into the sandbox, is not ours and not measured, except in the rows
//! that go through an engine.

mod docker;
mod endpoints;
mod ours;
mod peers;
mod ports;
mod traffic;

use anyhow::Result;

use crate::row::Row;
use crate::wishes::{Measure, Wishes};

/// What one may ask for by `--only`. Docker comes last: it changes how the machine forwards.
const ROWS: &[(&str, Measure)] = &[
    ("endpoint", endpoints::one),
    ("crowd", endpoints::crowd),
    ("ports", ports::published),
    ("traffic", traffic::between_two),
    ("network", docker::networks),
    ("life", docker::lives),
];

/// Measures every row of the room, or those that are wished for.
pub(crate) fn measure(wishes: &Wishes, tell: &mut dyn FnMut(&Row)) -> Result<()> {
    wishes.each("bridge", ROWS, tell)
}
