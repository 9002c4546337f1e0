//! Volume drivers.
//!
//! One [`driver`] answers the verbs for every kind of volume: names, holds, records, turns, repair. What a
//! kind knows to do stands behind [`backend::Backend`]; [`plan`] says, without doing anything, what comes
//! next. [`local`] is the kind whose volumes belong to this host.
//!
//! **Invariant:** drivers know options and nouns, never config files or JSON.
//! **Invariant:** back ends do not import each other, and none counts holds.

mod backend;
mod driver;
mod engines;
mod keeper;
pub mod local;
mod plan;
mod shelf;
mod turns;
mod usage;

pub use local::open_local;
