//! Address management.
//!
//! [`pool`] is the arithmetic and knows no state, [`subnet`] keeps the addresses of one subnet in memory,
//! [`records`] is how they look on disk, [`local`] is the driver of one host, and [`cluster`] that of many.

pub mod cluster;
pub mod local;
pub mod pool;
pub mod records;
pub mod subnet;
