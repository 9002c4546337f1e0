//! What a way of keeping layers has to do.
//!
//! A back end knows folders and nothing else: no ids, no records, no locks, no doors. The
//! [store](crate::store) calls it with a layer's folder (its *home*) and the homes below it, top first; what
//! it makes there is its own affair, but for the layer's tree, which is always `HOME/fs`.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kernel::fsutil::{self, Folder};
use plugin_api::Fault;
use plugin_api::graph::{Change, Usage};

use crate::kernel_fault;

/// The name of a layer's own tree in its home.
pub const TREE: &str = "fs";

/// Mode, owner and group of a layer's root that nobody described.
const ROOT: (u32, u32, u32) = (0o755, 0, 0);

/// A layer and what lies below it, as folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The layer's own folder.
    pub home: PathBuf,
    /// The homes below it, top first.
    pub below: Vec<PathBuf>,
    /// Whether it is made to be written through a mount, not filled by an archive.
    pub writable: bool,
    /// Most bytes that may be written into it.
    pub limit: Option<u64>,
    /// SELinux label of its mounts.
    pub label: Option<String>,
}

impl Stack {
    /// The layer's own tree.
    pub fn tree(&self) -> PathBuf {
        self.home.join(TREE)
    }

    /// The trees below it, top first.
    pub fn lowers(&self) -> Vec<PathBuf> {
        self.below.iter().map(|home| home.join(TREE)).collect()
    }

    /// Mode, owner and group that the layer's root has before anything describes it: as its parent's.
    pub fn root(&self) -> Result<(u32, u32, u32), Fault> {
        let Some(parent) = self.below.first() else {
            return Ok(ROOT);
        };
        let meta = Folder::open(&parent.join(TREE)).and_then(|folder| folder.stat_self());
        let meta = meta.map_err(kernel_fault)?;
        Ok((meta.mode, meta.uid, meta.gid))
    }
}

/// How a layer is seen; the caller chooses where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// As one folder; no mount is needed.
    Directory {
        /// The folder.
        path: PathBuf,
    },
    /// As an overlay.
    Overlay {
        /// Lower folders, top first.
        lowers: Vec<PathBuf>,
        /// Upper and work folder; `None` mounts read-only.
        upper: Option<(PathBuf, PathBuf)>,
        /// SELinux label.
        label: Option<String>,
    },
}

/// A way of keeping layers below one state folder. Calls for different layers come at the same time; calls
/// that change one layer never do. What a call leaves behind when it fails, the store removes.
pub trait Backend: Send + Sync + Debug {
    /// Its name in configuration and messages: `overlay`.
    fn name(&self) -> &'static str;

    /// Refuses a file system on which it would go wrong. `scratch` is an empty folder there, removed after.
    fn require(&self, scratch: &Path) -> Result<(), Fault>;

    /// What this host can do, as rows for people. `state` is the store's folder.
    fn status(&self, state: &Path) -> Result<Vec<(String, String)>, Fault>;

    /// Makes a layer as it is before anything is written into it. `stack.home` is an empty folder, and is
    /// renamed afterwards. Nothing has to be flushed: it is made anew if a power cut takes it.
    fn build(&self, stack: &Stack) -> Result<(), Fault>;

    /// Makes what a layer needs beside a tree that Docker's `overlay2` made, and that comes to `stack.tree()`
    /// afterwards. `stack.home` is a folder, empty unless this was called before.
    fn expect_overlay(&self, _stack: &Stack) -> Result<(), Fault> {
        let message = format!(
            "adopt a layer of overlay2: {} layers are kept in another way",
            self.name()
        );
        Err(Fault::unsupported(message))
    }

    /// How a layer that was built is seen.
    fn view(&self, stack: &Stack) -> View;

    /// Unpacks a plain tar into a layer that was just built, and tells what the layer holds then: the same
    /// that a comparison with the layer below would tell. Nothing has to be flushed.
    fn unpack(&self, stack: &Stack, archive: &mut dyn Read) -> Result<Usage, Fault>;

    /// What a layer holds itself, measured now. Walks the tree where the back end counts nothing.
    fn usage(&self, stack: &Stack) -> Result<Usage, Fault> {
        let usage = fsutil::tree_usage(&stack.tree()).map_err(kernel_fault)?;
        Ok(Usage {
            bytes: usage.bytes,
            inodes: usage.inodes,
        })
    }

    /// Rows for `docker inspect`, under the keys that tools read (`UpperDir`, `LowerDir`…).
    fn metadata(&self, stack: &Stack) -> Vec<(String, String)>;

    /// Whether a layer's tree means the same over any parent, so that it may be given one late.
    fn can_rebase(&self) -> bool {
        false
    }

    /// Where a layer tells by itself how it differs from the one below. Without it, the doors compare views.
    fn native(&self) -> Option<&dyn Native> {
        None
    }
}

/// The difference of a layer against the one directly below it, read without a mount.
pub trait Native {
    /// Writes it as a plain tar with AUFS-style whiteouts.
    fn diff(&self, stack: &Stack, out: &mut dyn Write) -> Result<(), Fault>;
    /// Its paths, sorted.
    fn changes(&self, stack: &Stack) -> Result<Vec<Change>, Fault>;
}

/// Makes the root of a layer's own tree, with the mode and owner that are its parent's.
pub(crate) fn make_root(stack: &Stack) -> Result<(), Fault> {
    let (mode, uid, gid) = stack.root()?;
    let tree = stack.tree();
    fsutil::make_dir(&tree, 0o700).map_err(kernel_fault)?;
    let folder = Folder::open(&tree).map_err(kernel_fault)?;
    if (uid, gid) != (0, 0) {
        folder.chown_self(uid, gid).map_err(kernel_fault)?;
    }
    folder.chmod_self(mode).map_err(kernel_fault)
}
