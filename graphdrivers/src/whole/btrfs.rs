//! Snapshots of btrfs: a layer is a subvolume, made and removed in a time that does not depend on its size.

use std::ffi::OsStr;
use std::path::Path;

use kernel::btrfs;
use kernel::fsutil::{Folder, filesystem_name};
use plugin_api::{Fault, FaultKind};

use super::{Copies, Whole};
use crate::backend::{Stack, TREE};
use crate::kernel_fault;

/// Layers as subvolumes.
pub type Btrfs = Whole<Subvolumes>;

/// Subvolumes and their snapshots.
#[derive(Debug, Default)]
pub struct Subvolumes;

impl Copies for Subvolumes {
    const NAME: &'static str = "btrfs";

    fn require(scratch: &Path) -> Result<(), Fault> {
        let refuse = |why: String| {
            let message = format!("keep btrfs layers in {}: {why}", scratch.display());
            Fault::new(FaultKind::Unsupported, message)
        };
        let found = filesystem_name(scratch).map_err(kernel_fault)?;
        if found != "btrfs" {
            return Err(refuse(format!("its file system is {found}, not btrfs")));
        }
        let try_out = || {
            let folder = Folder::open(scratch)?;
            let [one, other] = ["origin", "snapshot"].map(OsStr::new);
            btrfs::create(&folder, one)?;
            btrfs::snapshot(&folder.descend(Path::new(one))?, &folder, other)?;
            Ok(btrfs::destroy(&folder, other)? && btrfs::destroy(&folder, one)?)
        };
        match try_out() {
            Ok(true) => Ok(()),
            Ok(false) => Err(refuse("its subvolumes cannot be removed".to_owned())),
            Err(error) => Err(refuse("subvolumes cannot be made".to_owned()).because(kernel_fault(error))),
        }
    }

    fn first(stack: &Stack) -> Result<(), Fault> {
        let (mode, uid, gid) = stack.root()?;
        let make = || {
            let home = Folder::open(&stack.home)?;
            btrfs::create(&home, OsStr::new(TREE))?;
            let tree = home.descend(Path::new(TREE))?;
            tree.chown_self(uid, gid)?;
            tree.chmod_self(mode)
        };
        make().map_err(kernel_fault)
    }

    fn again(parent: &Path, stack: &Stack) -> Result<(), Fault> {
        let snapshot = || {
            let home = Folder::open(&stack.home)?;
            btrfs::snapshot(&Folder::open(parent)?, &home, OsStr::new(TREE))
        };
        snapshot().map_err(kernel_fault)
    }

    fn rows(_state: &Path) -> Result<Vec<(String, String)>, Fault> {
        Ok(Vec::new())
    }
}
