//! Address management.
//!
//! [`pool`] is the arithmetic and knows no state; [`local`] is the driver of one host,
//! [`cluster`] that of many.

pub mod cluster;
pub mod local;
pub mod pool;
