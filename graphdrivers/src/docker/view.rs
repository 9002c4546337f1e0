//! Read-only looks at whole layers, for comparisons that need the merged tree.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use kernel::fsutil;
use kernel::mount::{self, Overlay};
use plugin_api::Fault;
use plugin_api::graph::{GraphDriver, MountSpec};
use plugin_api::id::LayerId;

use super::Door;
use crate::holds::Stream;
use crate::kernel_fault;

/// A layer's merged tree, as long as this lives.
#[derive(Debug)]
pub(super) struct View<'a> {
    path: PathBuf,
    /// Whether the mount is this view's own.
    own: bool,
    _stream: Stream<'a>,
}

impl View<'_> {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if self.own {
            let gone = mount::unmount_detached(&self.path).and_then(|_| fsutil::remove_tree(&self.path));
            if let Err(error) = gone {
                tracing::warn!(
                    error = plugin_api::fault::chain(&error),
                    "a view is left to the next opening"
                );
            }
        }
    }
}

impl<D: GraphDriver> Door<D> {
    /// Shows a layer read-only; one that is mounted anyway is looked at where it is.
    pub(super) fn view(&self, id: &LayerId) -> Result<View<'_>, Fault> {
        let stream = self.holds.stream(id);
        let shown = |path, stream| View {
            path,
            own: false,
            _stream: stream,
        };
        // One upper folder in two mounts is undefined, also where one of them only reads.
        if self.holds.get(id).is_some_and(|hold| hold.mounted) {
            return Ok(shown(self.mountpoint(id), stream));
        }
        let (mut lowers, upper) = match self.spec(id)? {
            MountSpec::Directory { path } => return Ok(shown(path, stream)),
            MountSpec::Overlay { lowers, upper, .. } => (lowers, upper),
        };
        if let Some((upper, _)) = upper {
            lowers.insert(0, upper);
        }
        let number = self.next_view.fetch_add(1, Ordering::Relaxed);
        let path = self.state.join("views").join(number.to_string());
        fsutil::make_dir(&path, 0o700).map_err(kernel_fault)?;
        let overlay = Overlay {
            lowers: &lowers,
            upper: None,
            label: None,
        };
        let view = View {
            path,
            own: true,
            _stream: stream,
        };
        mount::mount_overlay(&overlay, &view.path).map_err(kernel_fault)?;
        Ok(view)
    }
}
