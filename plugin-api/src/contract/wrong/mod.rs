//! Twins with one broken rule each, and a server that breaks rules of the wire: the proof that every case
//! of the suites can fail.
//!
//! Each defect names the cases it must make fail. The tests run the whole suite over each and compare
//! the failed cases with that list, both ways.

pub use self::graph::{Graph, GraphDefect};
pub use self::ipam::{Ipam, IpamDefect};
pub use self::network::{Network, NetworkDefect};
pub use self::volume::{Volume, VolumeDefect};

mod graph;
mod ipam;
mod network;
mod volume;
pub mod wire;

/// Writes an enum of defects, each with the cases it must make fail.
macro_rules! defects {
    ($(#[$doc:meta])* $name:ident; $($defect:ident fails $($case:ident)+;)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("Fails", $(" `", stringify!($case), "`"),+, ".")] $defect,)+
        }

        impl $name {
            /// Every defect, with the cases that it must make fail, and no others.
            pub const ALL: &[(Self, &[&str])] = &[$((Self::$defect, &[$(stringify!($case)),+]),)+];
        }
    };
}
use defects;
