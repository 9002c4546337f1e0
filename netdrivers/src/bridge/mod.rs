//! Bridge networks of one host.
//!
//! # The way of a verb
//! [`options`] reads what the user typed. [`plan`] decides names, rules and answers; it is pure.
//! [`driver`] with its verbs (`networks`, `endpoints`, `publish`) does it: it writes an intent record, changes the kernel, and marks the record done.
//! `recovery` compares the records with the kernel when the driver starts, and repairs; `keeper` goes on
//! with that when somebody else changes our table, bridges or ports. [`records`]
//! is what is kept and `store` where, `ports` picks and reserves host ports, [`firewall`] and [`guard`] are the
//! tables of nf_tables, which `tables` keeps as the records say; `reaper` deletes links that a verb fenced.
//!
//! # What the kernel holds
//! One bridge per network (alias `longshore:network:ID`), one veth pair per joined endpoint (alias
//! `longshore:ID`), one table `inet longshore` whose chains have a constant number of rules: a
//! published port is one element of a map. One table `bridge longshore_guard` drops what an endpoint sends in
//! another's name, see [`guard`]. The tables come with the first network and go with the last.
//!
//! # Beside other firewalls
//! Our table judges what may enter our networks, and what it drops is dropped for good. What it accepts
//! can still be dropped by somebody else: an accept ends a chain, not a hook. So it marks what it lets pass
//! (bit 28), and where an engine keeps the chain `DOCKER-USER` for others, one rule of ours there accepts
//! what carries the mark: see `passage`. Elsewhere, as with `firewalld` or `iptables-legacy`, the
//! administrator lets our bridges or that mark pass. What leaves a network of ours into another engine's bridge
//! gets no mark: that engine judges it.
//!
//! # Limits
//! The host reaches TCP and UDP ports through 127.0.0.1 and ::1 by relays in this process (`proxy`,
//! `datagrams`), for `route_localnet` would open the host's loopback services to its neighbours. SCTP ports
//! published on loopback addresses alone are refused, those published on every address do not answer there.
//! Forwarding stays on after the last network has gone: somebody else may need it by then.

mod datagrams;
pub mod driver;
mod endpoints;
pub mod firewall;
pub mod guard;
mod keeper;
mod links;
mod networks;
pub mod options;
mod passage;
pub mod plan;
mod ports;
mod proxy;
mod publish;
mod reaper;
pub mod records;
mod recovery;
mod report;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use driver::Driver;
