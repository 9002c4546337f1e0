//! The closed list of verbs.

use std::time::Duration;

/// A plugin's kinds, as `Plugin.Activate` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subsystem {
    /// `Plugin.*`.
    Plugin,
    /// `VolumeDriver.*`.
    Volume,
    /// `NetworkDriver.*`.
    Network,
    /// `IpamDriver.*`.
    Ipam,
    /// `GraphDriver.*`.
    Graph,
    /// `Longshore.*`: verbs of our own, which no engine knows and `Plugin.Activate` does not name.
    Longshore,
}

impl Subsystem {
    /// The name before the dot.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plugin => "Plugin",
            Self::Volume => "VolumeDriver",
            Self::Network => "NetworkDriver",
            Self::Ipam => "IpamDriver",
            Self::Graph => "GraphDriver",
            Self::Longshore => "Longshore",
        }
    }
}

macro_rules! verbs {
    ($($variant:ident = $subsystem:ident . $name:literal),* $(,)?) => {
        /// A verb of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Verb { $(#[doc = concat!("`", $name, "`.")] $variant),* }

        impl Verb {
            /// Every verb.
            pub const ALL: &[Verb] = &[$(Verb::$variant),*];

            /// The name on the wire: `VolumeDriver.Create`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The kind of plugin it belongs to.
            pub fn subsystem(self) -> Subsystem {
                match self { $(Self::$variant => Subsystem::$subsystem),* }
            }

            /// The verb of a request's path, `/VolumeDriver.Create`.
            pub fn of_path(path: &str) -> Option<Self> {
                match path.strip_prefix('/')? { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

verbs! {
    Activate = Plugin."Plugin.Activate",
    VolumeCapabilities = Volume."VolumeDriver.Capabilities",
    VolumeCreate = Volume."VolumeDriver.Create",
    VolumeGet = Volume."VolumeDriver.Get",
    VolumeList = Volume."VolumeDriver.List",
    VolumeMount = Volume."VolumeDriver.Mount",
    VolumeUnmount = Volume."VolumeDriver.Unmount",
    VolumePath = Volume."VolumeDriver.Path",
    VolumeRemove = Volume."VolumeDriver.Remove",
    NetworkCapabilities = Network."NetworkDriver.GetCapabilities",
    NetworkAllocate = Network."NetworkDriver.AllocateNetwork",
    NetworkFree = Network."NetworkDriver.FreeNetwork",
    NetworkGatewayCheck = Network."NetworkDriver.GwAllocCheck",
    NetworkCreate = Network."NetworkDriver.CreateNetwork",
    NetworkDelete = Network."NetworkDriver.DeleteNetwork",
    EndpointCreate = Network."NetworkDriver.CreateEndpoint",
    EndpointInfo = Network."NetworkDriver.EndpointOperInfo",
    EndpointDelete = Network."NetworkDriver.DeleteEndpoint",
    Join = Network."NetworkDriver.Join",
    Leave = Network."NetworkDriver.Leave",
    Program = Network."NetworkDriver.ProgramExternalConnectivity",
    Revoke = Network."NetworkDriver.RevokeExternalConnectivity",
    DiscoverNew = Network."NetworkDriver.DiscoverNew",
    DiscoverDelete = Network."NetworkDriver.DiscoverDelete",
    IpamCapabilities = Ipam."IpamDriver.GetCapabilities",
    IpamDefaultSpaces = Ipam."IpamDriver.GetDefaultAddressSpaces",
    IpamRequestPool = Ipam."IpamDriver.RequestPool",
    IpamReleasePool = Ipam."IpamDriver.ReleasePool",
    IpamRequestAddress = Ipam."IpamDriver.RequestAddress",
    IpamReleaseAddress = Ipam."IpamDriver.ReleaseAddress",
    GraphInit = Graph."GraphDriver.Init",
    GraphCapabilities = Graph."GraphDriver.Capabilities",
    GraphStatus = Graph."GraphDriver.Status",
    GraphCreate = Graph."GraphDriver.Create",
    GraphCreateReadWrite = Graph."GraphDriver.CreateReadWrite",
    GraphGet = Graph."GraphDriver.Get",
    GraphPut = Graph."GraphDriver.Put",
    GraphExists = Graph."GraphDriver.Exists",
    GraphRemove = Graph."GraphDriver.Remove",
    GraphMetadata = Graph."GraphDriver.GetMetadata",
    GraphChanges = Graph."GraphDriver.Changes",
    GraphDiff = Graph."GraphDriver.Diff",
    GraphDiffSize = Graph."GraphDriver.DiffSize",
    GraphApplyDiff = Graph."GraphDriver.ApplyDiff",
    GraphCleanup = Graph."GraphDriver.Cleanup",
    Status = Longshore."Longshore.Status",
}

impl Verb {
    /// Whether the answer comes from memory: given at once, on the connection's own thread.
    pub fn is_quick(self) -> bool {
        matches!(
            self,
            Self::VolumeCapabilities
                | Self::VolumeGet
                | Self::VolumeList
                | Self::VolumePath
                | Self::NetworkCapabilities
                | Self::EndpointInfo
                | Self::IpamCapabilities
                | Self::IpamDefaultSpaces
                | Self::GraphCapabilities
                | Self::GraphExists
        )
    }

    /// How long an answer may take.
    ///
    /// Docker waits 120 s for a volume's Create and Mount, 60 s for its other verbs, and without limit
    /// for everything else while it holds locks that stall `docker ps`: we give up before it does.
    /// Streams and walks over whole layers have no limit, and what is quick needs none.
    pub fn deadline(self) -> Option<Duration> {
        let seconds = match self {
            Self::VolumeCreate | Self::VolumeMount => 115,
            Self::GraphDiff | Self::GraphApplyDiff | Self::GraphChanges | Self::GraphDiffSize => return None,
            _ if self.subsystem() == Subsystem::Graph => 120,
            _ if self.subsystem() == Subsystem::Volume => 55,
            _ => 30,
        };
        Some(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_found_by_its_path() {
        for &verb in Verb::ALL {
            assert_eq!(Verb::of_path(&format!("/{}", verb.name())), Some(verb));
            assert!(verb.name().starts_with(verb.subsystem().name()));
        }
        for path in [
            "",
            "/",
            "VolumeDriver.Get",
            "/VolumeDriver.Got",
            "/volumedriver.get",
            "/VolumeDriver.Get/",
        ] {
            assert_eq!(Verb::of_path(path), None, "{path}");
        }
    }
}
