//! Test support: a world of namespaces, the programs that run in it, and what they leave behind.
//!
//! A [`World`] is a private mount, network and process namespace with a directory on the machine's own
//! disk. [`Longshore`], [`Dockerd`], [`Containerd`] and [`Podman`] start inside it. When the world is dropped its first
//! process is killed, and with it everything that ran there; nothing outside was ever changed.
//!
//! A world's programs are this machine's own, or those of another [`Suite`] with newer engines, whose root
//! folder then is the world's.
//!
//! `LONGSHORE_KEEP=1` keeps the world of a failed test and prints how to enter it. Tools that are
//! missing are reported by [`requires`](crate::requires): loudly, to the file named by `LONGSHORE_SKIPS`,
//! and as a failure with `LONGSHORE_REQUIRE=all`.

pub(crate) mod cni;
mod command;
mod containerd;
mod dockerd;
mod http;
mod image;
mod leftovers;
mod longshore;
mod namespaces;
mod podman;
mod require;
mod suite;

pub(crate) use command::{Process, eventually, program};
pub(crate) use containerd::{Containerd, Which, saved_busybox};
pub(crate) use dockerd::Dockerd;
pub(crate) use http::{call, raw};
pub(crate) use image::busybox;
pub(crate) use longshore::{ALL, Longshore, configure, run, words};
pub(crate) use namespaces::World;
pub(crate) use podman::Podman;
pub(crate) use require::{have, unpacked};
pub(crate) use suite::Suite;
