//! What this host can do for overlays.

use std::ffi::OsStr;
use std::path::Path;

use kernel::fsutil::{Folder, filesystem_name, get_xattr, set_xattr};
use kernel::mount::has_layer_options;
use plugin_api::{Fault, FaultKind};

use crate::archive::OPAQUE_XATTR;
use crate::kernel_fault;

/// Refuses a state folder on which overlays would go wrong silently. `scratch` is an empty folder there.
pub(super) fn require(scratch: &Path) -> Result<(), Fault> {
    let refuse = |why: &str| {
        let message = format!("keep overlay layers in {}: {why}", scratch.display());
        Fault::new(FaultKind::Unsupported, message)
    };
    let name = OsStr::new(OPAQUE_XATTR);
    set_xattr(scratch, name, b"y").map_err(|error| {
        refuse("its file system must keep trusted attributes, and we must be root").because(error)
    })?;
    if get_xattr(scratch, name).map_err(kernel_fault)?.as_deref() != Some(b"y") {
        return Err(refuse("its file system loses trusted attributes"));
    }
    let folder = Folder::open(scratch).map_err(kernel_fault)?;
    folder
        .make_whiteout(OsStr::new("probe"))
        .map_err(|error| refuse("whiteouts (device nodes 0:0) cannot be made").because(error))?;
    let entries = folder.entries().map_err(kernel_fault)?;
    if entries.iter().any(|entry| entry.kind.is_none()) {
        return Err(refuse("its file system does not tell kinds in listings (d_type)"));
    }
    Ok(())
}

/// Rows for people.
pub(super) fn rows(state: &Path) -> Result<Vec<(String, String)>, Fault> {
    let yes = |yes: bool| if yes { "true" } else { "false" }.to_owned();
    let backing = filesystem_name(state).map_err(kernel_fault)?;
    let rows = [
        ("Backing Filesystem", backing),
        ("Supports d_type", yes(true)),
        ("Native Overlay Diff", yes(true)),
        ("Using metacopy", yes(false)),
        ("New Mount API", yes(has_layer_options())),
    ];
    Ok(rows
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}
