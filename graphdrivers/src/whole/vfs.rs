//! Copies, file by file: works on every file system, and shares blocks where the file system can.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use kernel::fsutil::{self, Folder, copy_tree};
use plugin_api::{Fault, FaultKind};

use super::{Copies, Whole};
use crate::backend::{Stack, make_root};
use crate::kernel_fault;

/// Layers as full copies.
pub type Vfs = Whole<Files>;

/// Files, one by one.
#[derive(Debug, Default)]
pub struct Files;

fn require(scratch: &Path) -> Result<(), Fault> {
    let folder = Folder::open(scratch).map_err(kernel_fault)?;
    let name = OsStr::new("probe");
    folder
        .make_node(name, fsutil::Kind::CharDevice, 0)
        .map_err(kernel_fault)?;
    folder.chown(name, 1, 1).map_err(kernel_fault)?;
    folder.unlink(name).map_err(kernel_fault)?;
    Ok(())
}

impl Copies for Files {
    const NAME: &'static str = "vfs";

    fn require(scratch: &Path) -> Result<(), Fault> {
        require(scratch).map_err(|fault| {
            let message = format!(
                "keep layers in {}: device nodes and owners must be kept there, and we must be root",
                scratch.display()
            );
            Fault::new(FaultKind::Unsupported, message).because(fault)
        })
    }

    fn first(stack: &Stack) -> Result<(), Fault> {
        make_root(stack)
    }

    fn again(parent: &Path, stack: &Stack) -> Result<(), Fault> {
        let tree = stack.tree();
        let copy = || {
            fsutil::make_dir(&tree, 0o700)?;
            copy_tree(&Folder::open(parent)?, &Folder::open(&tree)?)?;
            // A name may be on disk before its content is, and nobody copies a second time.
            fsutil::sync_filesystem(&tree)
        };
        copy().map_err(kernel_fault)
    }

    fn rows(state: &Path) -> Result<Vec<(String, String)>, Fault> {
        let shares = shares_blocks(&state.join("staging")).map_err(kernel_fault)?;
        Ok(vec![("Shares Blocks".to_owned(), shares.to_string())])
    }
}

/// Whether a copy of a file takes no room of its own.
fn shares_blocks(scratch: &Path) -> kernel::Result<bool> {
    let folder = Folder::open(scratch)?;
    let (one, other) = (OsStr::new("share-1"), OsStr::new("share-2"));
    for name in [one, other] {
        folder.unlink(name)?;
    }
    let mut file = folder.make_file(one)?;
    let written = file.write_all(&[1; 4096]);
    let shared = written.is_ok() && fsutil::share_blocks(&folder.read_file(one)?, &folder.make_file(other)?)?;
    for name in [one, other] {
        folder.unlink(name)?;
    }
    Ok(shared)
}
