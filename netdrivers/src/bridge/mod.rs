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
//! can still be dropped by somebody else: an accept ends a chain, not a hook. Where the `FORWARD` policy of
//! iptables is `DROP` (an engine beside us sets that), the host reaches endpoints and published ports, and
//! endpoints of one network meet unless `bridge-nf-call-iptables` hands them to iptables as well; what is
//! routed waits for the administrator's word:
//! `iptables -I DOCKER-USER -o BRIDGE -j ACCEPT` and
//! `iptables -I DOCKER-USER -i BRIDGE -j ACCEPT` (in `FORWARD` where there is no `DOCKER-USER`). We do not
//! write into tables of others: accepting what leaves a bridge of ours there would open the engine's own
//! networks to it.
//!
//! # Limits
//! The host reaches TCP ports through 127.0.0.1 and ::1 by a relay in this process (`proxy`), for
//! `route_localnet` would open the host's loopback services to its neighbours. UDP and SCTP ports published
//! on loopback addresses alone are refused, those published on every address do not answer there.
//! Forwarding stays on after the last network has gone: somebody else may need it by then.

pub mod driver;
mod endpoints;
pub mod firewall;
pub mod guard;
mod keeper;
mod links;
mod networks;
pub mod options;
pub mod plan;
mod ports;
mod proxy;
mod publish;
mod reaper;
pub mod records;
mod recovery;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use driver::Driver;
