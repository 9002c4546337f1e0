//! Configuration in two tiers: as written ([`file`]) and as meant ([`resolve`]).

pub(crate) mod file;
pub(crate) mod resolve;

pub(crate) use resolve::{Config, Instance, Kind};
