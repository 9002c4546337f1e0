//! What real engines said: the recordings, and one way to read each of them.

use std::path::Path;

use plugin_api::Fault;
use plugin_api::wire::{Verb, graph, ipam, network, volume};
use serde_json::Value;

/// One request of a recording.
pub(crate) struct Heard {
    /// The recording's file, for messages.
    pub(crate) file: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    /// An archive, of which only the length was kept.
    pub(crate) is_archive: bool,
}

impl Heard {
    pub(crate) fn verb(&self) -> Verb {
        let path = self.path.split('?').next().unwrap();
        Verb::of_path(path).unwrap_or_else(|| panic!("{}: {path} is no verb", self.file))
    }
}

/// Every request of every recording, in an order that does not change.
pub(crate) fn all() -> Vec<Heard> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
    let mut files: Vec<_> = read_dir(&root)
        .iter()
        .flat_map(|folder| read_dir(folder))
        .collect();
    files.sort();
    files.iter().flat_map(|file| requests(file)).collect()
}

fn read_dir(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn requests(file: &Path) -> Vec<Heard> {
    let text = std::fs::read_to_string(file).unwrap();
    let recording: Value = serde_json::from_str(&text).unwrap();
    let calls = recording["calls"].as_array().unwrap();
    let engine = recording["engine"].as_str().unwrap();
    let version = recording["version"].as_str().unwrap();
    calls
        .iter()
        .map(|call| Heard {
            file: format!("{engine} {version} {}", recording["verb"].as_str().unwrap()),
            path: call["path"].as_str().unwrap().to_owned(),
            body: call["body"].as_str().unwrap_or_default().as_bytes().to_owned(),
            is_archive: call["body_bytes"].is_u64(),
        })
        .collect()
}

/// Whether the verb's request has fields in its body.
pub(crate) fn has_fields(verb: Verb) -> bool {
    use Verb as V;
    !matches!(
        verb,
        V::Activate
            | V::VolumeCapabilities
            | V::VolumeList
            | V::NetworkCapabilities
            | V::IpamCapabilities
            | V::IpamDefaultSpaces
            | V::GraphCapabilities
            | V::GraphStatus
            | V::GraphCleanup
            | V::GraphApplyDiff
            | V::Status
    )
}

/// Reads a request as the server does; the noun comes back as its debug text.
pub(crate) fn decode(verb: Verb, path: &str, body: &[u8]) -> Result<String, Fault> {
    use Verb as V;
    Ok(match verb {
        V::VolumeCreate => shown(&volume::create_request_in(body)?),
        V::VolumeGet | V::VolumePath | V::VolumeRemove => shown(&volume::name_request_in(verb, body)?),
        V::VolumeMount | V::VolumeUnmount => shown(&volume::hold_request_in(verb, body)?),
        V::NetworkCreate => shown(&network::create_network_request_in(body)?),
        V::NetworkGatewayCheck => shown(&network::gateway_check_request_in(body)?),
        V::NetworkAllocate => shown(&network::allocate_request_in(body)?),
        V::NetworkDelete | V::NetworkFree => shown(&network::network_request_in(verb, body)?),
        V::EndpointCreate => shown(&network::create_endpoint_request_in(body)?),
        V::EndpointInfo | V::EndpointDelete | V::Leave | V::Revoke => {
            shown(&network::endpoint_request_in(verb, body)?)
        }
        V::Join => shown(&network::join_request_in(body)?),
        V::Program => shown(&network::program_request_in(body)?),
        V::DiscoverNew | V::DiscoverDelete => shown(&network::discovery_request_in(verb, body)?),
        V::IpamRequestPool => shown(&ipam::pool_request_in(body)?),
        V::IpamReleasePool => shown(&ipam::release_pool_request_in(body)?),
        V::IpamRequestAddress => shown(&ipam::address_request_in(body)?),
        V::IpamReleaseAddress => shown(&ipam::release_address_request_in(body)?),
        V::GraphInit => shown(&graph::init_request_in(body)?),
        V::GraphCreate | V::GraphCreateReadWrite => shown(&graph::new_layer_request_in(verb, body)?),
        V::GraphGet | V::GraphPut | V::GraphExists | V::GraphRemove | V::GraphMetadata => {
            shown(&graph::layer_request_in(verb, body)?)
        }
        V::GraphChanges | V::GraphDiff | V::GraphDiffSize => shown(&graph::pair_request_in(verb, body)?),
        V::GraphApplyDiff => shown(&graph::apply_query_in(
            path.split_once('?').map_or("", |(_, q)| q),
        )?),
        _ => String::new(),
    })
}

fn shown<T: std::fmt::Debug>(noun: &T) -> String {
    format!("{noun:?}")
}
