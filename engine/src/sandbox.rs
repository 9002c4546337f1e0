//! A container's network namespace, pinned below the root.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kernel::netlink::Socket;
use kernel::netlink::link::{self, At};
use kernel::netns::{self, Namespace};

use crate::state::{Store, short};

/// Where the namespace of a container is pinned.
pub(crate) fn path(store: &Store, id: &str) -> PathBuf {
    store.root().join("netns").join(short(id))
}

/// Makes the namespace, with its loopback link up. What a death left there is replaced.
pub(crate) fn make(path: &Path) -> Result<Namespace> {
    netns::delete(path)?;
    let namespace = netns::create(path)?;
    let inside = Socket::in_namespace(namespace.as_fd())?;
    inside.one(link::set_up(At::Name("lo")))?;
    Ok(namespace)
}

/// Unpins the namespace; nothing there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    netns::delete(path)?;
    Ok(())
}
