//! Read-only looks at whole layers, for comparisons that need the merged tree.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use kernel::fsutil::{self, Folder};
use kernel::mount::{self, Overlay};
use plugin_api::Fault;
use plugin_api::id::LayerId;

use super::Door;
use crate::backend;
use crate::holds::Stream;
use crate::kernel_fault;

/// A layer's merged tree, as long as this lives: the open folder keeps it, also when the mount in which it
/// was found is taken away meanwhile.
#[derive(Debug)]
pub(super) struct View<'a> {
    tree: Folder,
    _own: Option<OwnMount>,
    _stream: Stream<'a>,
}

impl View<'_> {
    pub(super) fn tree(&self) -> &Folder {
        &self.tree
    }
}

/// A mount made for one view.
#[derive(Debug)]
struct OwnMount(PathBuf);

impl Drop for OwnMount {
    fn drop(&mut self) {
        let gone = mount::unmount_detached(&self.0).and_then(|_| fsutil::remove_tree(&self.0));
        if let Err(error) = gone {
            tracing::warn!(
                error = plugin_api::fault::chain(&error),
                "a view is left to the next opening"
            );
        }
    }
}

impl Door {
    /// Shows a layer read-only; one that is mounted anyway is looked at where it is.
    pub(super) fn view(&self, id: &LayerId) -> Result<View<'_>, Fault> {
        let _me = self.locks.hold(id);
        let stream = self.holds.stream(id);
        let shown = |path: &Path, own, stream| {
            let tree = Folder::open(path).map_err(kernel_fault)?;
            Ok(View {
                tree,
                _own: own,
                _stream: stream,
            })
        };
        // One upper folder in two mounts is undefined, also where one of them only reads.
        if self.holds.get(id).is_some_and(|hold| hold.mounted) {
            return shown(&self.mountpoint(id), None, stream);
        }
        let (mut lowers, upper) = match self.store.view(self.number(id)?)? {
            backend::View::Directory { path } => return shown(&path, None, stream),
            backend::View::Overlay { lowers, upper, .. } => (lowers, upper),
        };
        if let Some((upper, _)) = upper {
            lowers.insert(0, upper);
        }
        let number = self.next_view.fetch_add(1, Ordering::Relaxed);
        let path = self.state.join("views").join(number.to_string());
        fsutil::make_dir(&path, 0o700).map_err(kernel_fault)?;
        let own = OwnMount(path.clone());
        let overlay = Overlay {
            lowers: &lowers,
            upper: None,
            label: None,
        };
        mount::mount_overlay(&overlay, &path).map_err(kernel_fault)?;
        shown(&path, Some(own), stream)
    }
}
