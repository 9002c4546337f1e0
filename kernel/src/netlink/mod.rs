//! Netlink of our own: the messages we need, many of them in one send, every answer checked.
//!
//! [`Socket`] belongs to one network namespace. Functions of [`link`], [`address`] and [`neighbour`]
//! make [`Request`]s, which are values; `socket.all(vec![..])` sends them together. A failure names the
//! operation, its subject, and what the kernel had to say about it.
//!
//! ```no_run
//! use kernel::netlink::{Socket, link, link::At};
//! let socket = Socket::route()?;
//! let mut requests = link::create_bridge("br0", &link::Bridge::default());
//! requests.push(link::set_up(At::Name("br0")));
//! socket.all(requests)?;
//! let bridge = socket.link("br0")?.expect("it was just made");
//! # Ok::<(), kernel::Error>(())
//! ```
//!
//! [`nft`] has the messages of nf_tables, whose batches are all or nothing.

pub mod address;
pub mod conntrack;
pub mod link;
mod message;
pub mod neighbour;
pub mod nft;
pub mod plug;
mod socket;
#[cfg(test)]
mod tests;

pub mod watch;

pub use message::{Attributes, Message};
pub use socket::{Request, Socket};
