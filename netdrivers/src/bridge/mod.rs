//! Bridge networks of one host.
//!
//! # The way of a verb
//! [`options`] reads what the user typed. [`plan`] decides names, rules and answers; it is pure.
//! [`driver`] does it: it writes an intent record, changes the kernel, and marks the record done.
//! `recovery` compares the records with the kernel when the driver starts, and repairs. [`records`]
//! is what is kept, `ports` picks and reserves host ports, and [`firewall`] is the table of nf_tables.
//!
//! # What the kernel holds
//! One bridge per network (alias `longshore:network:ID`), one veth pair per joined endpoint (alias
//! `longshore:ID`), one table `inet longshore` whose chains have a constant number of rules: a
//! published port is one element of a map. When the last network goes, the table goes.
//!
//! # Limits
//! TCP ports published on 127.0.0.1 or ::1 are relayed by this process (`proxy`), UDP and SCTP ones are
//! refused: `route_localnet` would open the host's loopback services to its neighbours. Ports
//! published on every address are reached through every address of the host but the loopback ones.
//! Forwarding stays on after the last network has gone: somebody else may need it by then.

pub mod driver;
pub mod firewall;
pub mod options;
pub mod plan;
mod ports;
mod proxy;
mod reaper;
pub mod records;
mod recovery;
#[cfg(test)]
mod tests;

pub use driver::Driver;
