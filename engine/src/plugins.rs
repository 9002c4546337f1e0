//! The sockets of drivers. The engine knows drivers through nothing else.

use std::path::PathBuf;

use anyhow::{Result, bail};
use plugin_api::Fault;
use plugin_api::client::{Client, RemoteGraph, RemoteIpam, RemoteNetwork, RemoteVolume};

use crate::state::check_name;

/// The folder where drivers put their sockets.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    pub(crate) folder: PathBuf,
}

/// Turns a driver's failure into an error with its whole sentence.
pub(crate) trait Told<T> {
    /// `what` reads as `create network front`.
    fn told(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Told<T> for Result<T, Fault> {
    fn told(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|fault| anyhow::anyhow!("{}: {}", what(), fault.sentence()))
    }
}

impl Plugins {
    /// What a plugin says it implements.
    pub(crate) fn speaks(&self, name: &str) -> Result<Vec<String>> {
        self.connect(name)?
            .activate()
            .told(|| format!("activate plugin {name}"))
    }

    fn reach(&self, name: &str, subsystem: &str) -> Result<Client> {
        let client = self.connect(name)?;
        let speaks = client.activate().told(|| format!("activate plugin {name}"))?;
        if !speaks.iter().any(|one| one == subsystem) {
            bail!(
                "plugin {name} is no {subsystem}: it implements {}",
                if speaks.is_empty() {
                    "nothing".into()
                } else {
                    speaks.join(", ")
                }
            );
        }
        Ok(client)
    }

    fn connect(&self, name: &str) -> Result<Client> {
        check_name("plugin name", name)?;
        let path = self.folder.join(format!("{name}.sock"));
        if !path.exists() {
            bail!("plugin {name} not found: there is no socket {}", path.display());
        }
        Client::connect(&path).told(|| format!("reach plugin {name}"))
    }

    /// What a plugin says it implements; nothing where it is missing.
    pub(crate) fn implements(&self, name: &str, subsystem: &str) -> bool {
        self.reach(name, subsystem).is_ok()
    }

    pub(crate) fn network(&self, name: &str) -> Result<RemoteNetwork> {
        Ok(self.reach(name, "NetworkDriver")?.network())
    }

    pub(crate) fn ipam(&self, name: &str) -> Result<RemoteIpam> {
        Ok(self.reach(name, "IpamDriver")?.ipam())
    }

    pub(crate) fn volume(&self, name: &str) -> Result<RemoteVolume> {
        Ok(self.reach(name, "VolumeDriver")?.volume())
    }

    pub(crate) fn graph(&self, name: &str) -> Result<RemoteGraph> {
        Ok(self.reach(name, "GraphDriver")?.graph())
    }
}
