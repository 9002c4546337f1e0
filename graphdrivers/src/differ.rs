//! containerd's differ: archives into and out of the trees that mounts describe.
//!
//! An overlay whose upper folder is one of our layers is not mounted: its archive is unpacked right into the
//! layer, and what it changes is read from there. Any other overlay or bind is mounted where nobody else
//! sees it, and is gone with the thread that did it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kernel::fsutil::{self, Folder, Time};
use kernel::mount::{self, Limits, Overlay};
use plugin_api::Fault;
use plugin_api::differ::{Differ, Difference, Packed, Packing, Stream};
use plugin_api::snapshot::SnapshotMount;

use crate::archive::apply::Into;
use crate::archive::{self, ArchiveError, diff, walk};
use crate::backend::TREE;
use crate::kernel_fault;
use crate::store::Store;

/// Where trees are mounted, each thread for itself.
const ROOM: &str = "mounted";

/// Differ over the layers of one state folder, and over whatever else is mounted.
#[derive(Debug)]
pub struct Trees {
    store: Arc<Store>,
}

/// A mount, read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    /// A folder as it is.
    Folder { path: PathBuf, write: bool },
    /// Folders over each other.
    Overlay {
        lowers: Vec<PathBuf>,
        upper: Option<(PathBuf, PathBuf)>,
        /// What else was said, for the kernel.
        rest: Vec<String>,
    },
}

fn unsupported(what: &str) -> Fault {
    Fault::unsupported(format!("look at a tree: {what} is not understood here"))
}

/// A folder that is named as our own are: no detours.
fn plain(text: &str) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(text);
    let straight = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && straight {
        return Ok(path);
    }
    let text = plugin_api::id::quoted(text);
    Err(Fault::invalid(format!(
        "look at a tree: {text} is no absolute path"
    )))
}

impl Tree {
    /// The one mount that makes a tree.
    fn read(mounts: &[SnapshotMount]) -> Result<Self, Fault> {
        let [mount] = mounts else {
            return Err(unsupported("a tree of several mounts"));
        };
        match mount.kind.as_str() {
            "bind" | "rbind" | "none" => Self::bind(mount),
            "overlay" => Self::overlay(&mount.options),
            other => Err(unsupported(&format!(
                "a mount of {}",
                plugin_api::id::quoted(other)
            ))),
        }
    }

    fn bind(mount: &SnapshotMount) -> Result<Self, Fault> {
        let mut write = true;
        for option in &mount.options {
            match option.as_str() {
                "ro" => write = false,
                "rw" => write = true,
                "bind" | "rbind" => {}
                other => {
                    return Err(unsupported(&format!(
                        "the option {}",
                        plugin_api::id::quoted(other)
                    )));
                }
            }
        }
        let path = plain(&mount.source)?;
        Ok(Self::Folder { path, write })
    }

    fn overlay(options: &[String]) -> Result<Self, Fault> {
        let (mut lowers, mut upper, mut work, mut rest) = (Vec::new(), None, None, Vec::new());
        for option in options {
            match option.split_once('=') {
                Some(("lowerdir", list)) => {
                    if list.contains('\\') || list.contains("::") {
                        return Err(unsupported("a list of folders with marks in it"));
                    }
                    lowers = list.split(':').map(plain).collect::<Result<_, _>>()?;
                }
                Some(("upperdir", path)) => upper = Some(plain(path)?),
                Some(("workdir", path)) => work = Some(plain(path)?),
                _ => rest.push(option.clone()),
            }
        }
        let upper = match (upper, work) {
            (Some(upper), Some(work)) => Some((upper, work)),
            (None, None) => None,
            _ => {
                return Err(Fault::invalid(
                    "look at an overlay: of upperdir and workdir one is missing",
                ));
            }
        };
        if lowers.is_empty() {
            return Err(Fault::invalid("look at an overlay: it has no lowerdir"));
        }
        rest.retain(|option| option != "index=off");
        Ok(Self::Overlay { lowers, upper, rest })
    }

    /// The folders that are seen through each other, top first.
    fn shown(&self) -> Vec<PathBuf> {
        match self {
            Self::Folder { path, .. } => vec![path.clone()],
            Self::Overlay { lowers, upper, .. } => {
                let upper = upper.iter().map(|(upper, _)| upper);
                upper.chain(lowers).cloned().collect()
            }
        }
    }

    /// Mounts it at `target`; `write` says whether it is to be written, which a tree may forbid.
    fn mount(&self, target: &Path, write: bool) -> Result<(), Fault> {
        let limits = Limits {
            read_only: !write,
            no_suid: true,
            no_dev: true,
            no_exec: true,
            no_atime: false,
        };
        match self {
            Self::Folder { write: false, .. } | Self::Overlay { upper: None, .. } if write => {
                Err(Fault::invalid("unpack upon a tree: its mount is read-only"))
            }
            Self::Folder { path, .. } => mount::bind(path, target, limits).map_err(kernel_fault),
            Self::Overlay { rest, upper, lowers }
                if rest.is_empty() && upper.is_none() && lowers.len() == 1 =>
            {
                // One folder alone is no overlay to the kernel.
                mount::bind(&lowers[0], target, limits).map_err(kernel_fault)
            }
            Self::Overlay { rest, .. } if rest.is_empty() => self.mount_overlay(target, write),
            Self::Overlay { .. } => {
                let data = self.options(write);
                mount::mount_filesystem("overlay", "overlay", target, limits, &data).map_err(kernel_fault)
            }
        }
    }

    fn mount_overlay(&self, target: &Path, write: bool) -> Result<(), Fault> {
        let Self::Overlay { lowers, upper, .. } = self else {
            return Err(Fault::internal("mount an overlay that is none"));
        };
        let shown = self.shown();
        let upper = upper.as_ref().filter(|_| write);
        let overlay = Overlay {
            lowers: if write { lowers } else { &shown },
            upper: upper.map(|(upper, work)| (upper.as_path(), work.as_path())),
            label: None,
        };
        mount::mount_overlay(&overlay, target).map_err(kernel_fault)
    }

    /// The text that mount(2) takes.
    fn options(&self, write: bool) -> String {
        let Self::Overlay { lowers, upper, rest } = self else {
            return String::new();
        };
        let text = |paths: &[PathBuf]| {
            let texts: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
            texts.join(":")
        };
        let mut options = rest.clone();
        match upper {
            Some((upper, work)) if write => {
                options.push(format!("lowerdir={}", text(lowers)));
                options.push(format!("upperdir={},workdir={}", upper.display(), work.display()));
            }
            _ => options.push(format!("lowerdir={}", text(&self.shown()))),
        }
        options.join(",")
    }
}

impl Trees {
    /// A differ over the layers of a store.
    pub fn open(store: Arc<Store>) -> Result<Self, Fault> {
        let state = store.state();
        fsutil::make_dir(&state.join(ROOM), 0o700).map_err(kernel_fault)?;
        for name in ["left", "right"] {
            fsutil::make_dir(&state.join(ROOM).join(name), 0o700).map_err(kernel_fault)?;
        }
        Ok(Self { store })
    }

    /// Whether that folder is the own tree of one of our layers: `layers/NAME/fs`.
    fn is_ours(&self, folder: &Path) -> bool {
        let below = folder.strip_prefix(self.store.state().join("layers"));
        let parts: Vec<&OsStr> = below.iter().flat_map(|path| path.iter()).collect();
        parts.len() == 2 && parts[1] == TREE
    }

    fn place(&self, name: &str) -> PathBuf {
        self.store.state().join(ROOM).join(name)
    }

    fn unpack_mounted(
        &self,
        tree: &Tree,
        blob: &mut dyn Read,
        packing: Option<Packing>,
    ) -> Result<Stream, Fault> {
        let place = self.place("right");
        let (done, stream) = archive::read_blob(blob, packing, |archive| {
            mounted([Some((&place, tree, true)), None], || {
                archive::apply::unpack(&place, Into::Tree, archive)?;
                Ok(fsutil::sync_filesystem(&place)?)
            })
        })?;
        let () = done;
        Ok(stream)
    }

    /// The upper folder that alone tells the whole difference between two trees, and the root that it lies
    /// over.
    fn native<'a>(&self, left: Option<&Tree>, right: &'a Tree) -> Option<(&'a Path, Option<PathBuf>)> {
        let Tree::Overlay {
            lowers,
            upper: Some((upper, _)),
            rest,
        } = right
        else {
            return None;
        };
        let below = left.map(Tree::shown).unwrap_or_default();
        // Below the layers of a tree upon nothing lies one that is empty.
        let same = below == *lowers || (left.is_none() && lowers.len() == 1 && is_empty(&lowers[0]).ok()?);
        (same && rest.is_empty() && self.is_ours(upper)).then(|| (upper.as_path(), lowers.first().cloned()))
    }
}

/// Mounts trees for the calling thread alone, which must be one that ends after `work`.
fn mounted<T>(
    trees: [Option<(&Path, &Tree, bool)>; 2],
    work: impl FnOnce() -> Result<T, ArchiveError>,
) -> Result<T, ArchiveError> {
    mount::private_namespace()?;
    let mut made = Vec::new();
    let mut outcome = Ok(());
    for (place, tree, write) in trees.into_iter().flatten() {
        outcome = tree.mount(place, write).map_err(ArchiveError::Told);
        if outcome.is_err() {
            break;
        }
        made.push(place);
    }
    let outcome = outcome.and_then(|()| work());
    // They would end with the thread; so they have ended when the answer goes out.
    for place in made {
        mount::unmount_detached(place)?;
    }
    outcome
}

fn is_empty(folder: &Path) -> Result<bool, Fault> {
    let folder = Folder::open(folder).map_err(kernel_fault)?;
    Ok(folder.entries().map_err(kernel_fault)?.is_empty())
}

impl Differ for Trees {
    fn apply(
        &self,
        blob: &mut dyn Read,
        packing: Option<Packing>,
        mounts: &[SnapshotMount],
    ) -> Result<Stream, Fault> {
        let tree = Tree::read(mounts)?;
        let Tree::Overlay {
            lowers,
            upper: Some((upper, _)),
            ..
        } = &tree
        else {
            return self.unpack_mounted(&tree, blob, packing);
        };
        if !self.is_ours(upper) || !is_empty(upper)? {
            return self.unpack_mounted(&tree, blob, packing);
        }
        let stream = archive::unpack_blob(upper, Into::Layer(lowers), blob, packing)?;
        // Whoever gets the answer commits, and trusts that it is there after a power cut.
        fsutil::sync_filesystem(upper).map_err(kernel_fault)?;
        Ok(stream)
    }

    fn diff(&self, asked: &Difference, out: &mut dyn Write) -> Result<Packed, Fault> {
        let right = Tree::read(&asked.right)?;
        let left = match asked.left.as_slice() {
            [] => None,
            mounts => Some(Tree::read(mounts)?),
        };
        let latest = asked.latest.map(|(seconds, nanos)| Time { seconds, nanos });
        let packed = if let Some((upper, root)) = self.native(left.as_ref(), &right) {
            let root = match root {
                Some(path) => Folder::open(&path)
                    .and_then(|root| root.stat_self())
                    .map_err(kernel_fault)?,
                None => return Err(Fault::internal("compare an overlay without lower folders")),
            };
            archive::pack_blob(out, asked.packing, |out| {
                let root = (root.mode, root.uid, root.gid);
                diff::archive_until(upper, root, latest, out)
            })
        } else {
            archive::pack_blob(out, asked.packing, |out| {
                let (old, new) = (self.place("left"), self.place("right"));
                let left = left.as_ref().map(|left| (old.as_path(), left, false));
                mounted([left, Some((&new, &right, false))], || {
                    let older = left.map(|(old, ..)| Folder::open(old)).transpose()?;
                    walk::archive_until(&Folder::open(&new)?, older.as_ref(), latest, out)
                })
            })
        };
        Ok(packed?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin_api::FaultKind;

    fn mount(kind: &str, source: &str, options: &[&str]) -> SnapshotMount {
        SnapshotMount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn mounts_are_read_as_the_kernel_reads_them() {
        let bind = Tree::read(&[mount("bind", "/a/b", &["rbind", "ro"])]).unwrap();
        let path = PathBuf::from("/a/b");
        assert_eq!(bind, Tree::Folder { path, write: false });
        let options = [
            "index=off",
            "workdir=/w",
            "upperdir=/u",
            "lowerdir=/l2:/l1",
            "userxattr",
        ];
        let overlay = Tree::read(&[mount("overlay", "overlay", &options)]).unwrap();
        assert_eq!(overlay.shown(), ["/u", "/l2", "/l1"].map(PathBuf::from));
        assert_eq!(
            overlay.options(true),
            "userxattr,lowerdir=/l2:/l1,upperdir=/u,workdir=/w"
        );
        assert_eq!(overlay.options(false), "userxattr,lowerdir=/u:/l2:/l1");
    }

    #[test]
    fn what_is_not_understood_is_left_to_others_and_what_is_wrong_is_told() {
        let kind = |mounts: &[SnapshotMount]| Tree::read(mounts).unwrap_err().kind;
        assert_eq!(kind(&[]), FaultKind::Unsupported);
        assert_eq!(kind(&[mount("ext4", "/dev/loop0", &[])]), FaultKind::Unsupported);
        assert_eq!(kind(&[mount("bind", "/a", &["X-odd"])]), FaultKind::Unsupported);
        assert_eq!(
            kind(&[mount("overlay", "o", &["lowerdir=/a\\:b:/c"])]),
            FaultKind::Unsupported
        );
        for path in ["relative", "/a/../b", ""] {
            assert_eq!(kind(&[mount("bind", path, &[])]), FaultKind::Invalid, "{path}");
        }
        assert_eq!(
            kind(&[mount("overlay", "o", &["upperdir=/u"])]),
            FaultKind::Invalid
        );
        assert_eq!(kind(&[mount("overlay", "o", &[])]), FaultKind::Invalid);
    }

    #[test]
    fn only_the_trees_of_our_layers_are_written_without_a_mount() {
        let state = tempfile::tempdir().unwrap();
        let store = crate::open_store(state.path(), "overlay").unwrap();
        let trees = Trees::open(store).unwrap();
        let base = trees.store.state();
        assert!(trees.is_ours(&base.join("layers/7/fs")));
        for path in [
            "layers/7",
            "layers/7/work",
            "layers/7/fs/etc",
            "staging/7/fs",
            "other",
        ] {
            assert!(!trees.is_ours(&base.join(path)), "{path}");
        }
        assert!(!trees.is_ours(Path::new("/layers/7/fs")));
    }
}
