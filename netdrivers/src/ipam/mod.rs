//! Address management.
//!
//! [`pool`] is the arithmetic and knows no state; [`local`] is the driver of one host.

pub mod local;
pub mod pool;
