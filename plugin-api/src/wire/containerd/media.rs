//! Media types of layers.

use crate::differ::Packing;
use crate::fault::Fault;

/// A layer as an archive without compression.
pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Every type whose blobs are layers, with how they are packed; nothing: the blob itself tells.
const TYPES: [(&str, Option<Packing>); 13] = [
    (PLAIN, Some(Packing::Plain)),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Packing::Gzip)),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Packing::Zstd)),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        Some(Packing::Plain),
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        Some(Packing::Gzip),
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        Some(Packing::Zstd),
    ),
    // Docker's archives of images call every layer so, compressed or not.
    ("application/vnd.docker.image.rootfs.diff.tar", None),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        Some(Packing::Gzip),
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        Some(Packing::Zstd),
    ),
    ("application/vnd.docker.image.rootfs.foreign.diff.tar", None),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        Some(Packing::Gzip),
    ),
    // What BuildKit and others have written.
    ("application/vnd.docker.container.image.rootfs.diff+x-gtar", None),
    (
        "application/vnd.oci.image.layer.v1.tar+zstd:chunked",
        Some(Packing::Zstd),
    ),
];

/// A kind of blob that is a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// As it is spelt.
    pub media_type: &'static str,
    /// How it is packed; nothing: the blob itself tells.
    pub packing: Option<Packing>,
}

impl Layer {
    /// The layer that a media type names; anything else, encrypted layers too, is `Unsupported`.
    pub fn of(media_type: &str) -> Result<Self, Fault> {
        let known = TYPES.iter().find(|(name, _)| *name == media_type);
        let Some((media_type, packing)) = known else {
            let name = crate::id::quoted(media_type);
            return Err(Fault::unsupported(format!(
                "{name} is no kind of layer that is known here"
            )));
        };
        Ok(Self {
            media_type,
            packing: *packing,
        })
    }

    /// What is written when `media_type` is asked for; nothing asked for is gzip.
    pub fn to_write(media_type: &str) -> Result<(&'static str, Packing), Fault> {
        if media_type.is_empty() {
            return Self::to_write("application/vnd.oci.image.layer.v1.tar+gzip");
        }
        let layer = Self::of(media_type)?;
        Ok((layer.media_type, layer.packing.unwrap_or(Packing::Plain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultKind;

    #[test]
    fn layers_are_known_by_their_type_and_others_are_left_to_other_differs() {
        let gzip = Layer::of("application/vnd.oci.image.layer.v1.tar+gzip").unwrap();
        assert_eq!(gzip.packing, Some(Packing::Gzip));
        let docker = Layer::of("application/vnd.docker.image.rootfs.diff.tar").unwrap();
        assert_eq!(docker.packing, None);
        for name in [
            "",
            "text/plain",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        ] {
            assert_eq!(
                Layer::of(name).unwrap_err().kind,
                FaultKind::Unsupported,
                "{name}"
            );
        }
        assert_eq!(Layer::to_write("").unwrap().1, Packing::Gzip);
        assert_eq!(Layer::to_write(PLAIN).unwrap(), (PLAIN, Packing::Plain));
    }
}
