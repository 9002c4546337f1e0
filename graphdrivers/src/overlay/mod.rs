//! Layers stacked by the kernel's overlay file system.
//!
//! ```text
//! HOME/fs     what the layer itself holds: its upper folder, or one of the lowers of those above
//! HOME/work   the kernel's own, for layers that are written
//! ```

mod probe;

use std::io::{Read, Write};
use std::path::Path;

use kernel::fsutil;
use plugin_api::Fault;
use plugin_api::graph::{Change, Usage};

use crate::archive::apply::Into as Place;
use crate::archive::{self, diff};
use crate::backend::{Backend, Native, Stack, View, make_root};
use crate::kernel_fault;

/// The kernel's folder beside an upper one.
const WORK: &str = "work";

/// Overlays.
#[derive(Debug, Default)]
pub struct Overlay;

impl Backend for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn require(&self, scratch: &Path) -> Result<(), Fault> {
        probe::require(scratch)
    }

    fn status(&self, state: &Path) -> Result<Vec<(String, String)>, Fault> {
        probe::rows(state)
    }

    fn build(&self, stack: &Stack) -> Result<(), Fault> {
        if stack.limit.is_some() {
            let message = "overlay layers have no size limit here, drop the size option";
            return Err(Fault::unsupported(message));
        }
        make_root(stack)?;
        if stack.writable {
            fsutil::make_dir(&stack.home.join(WORK), 0o700).map_err(kernel_fault)?;
        }
        Ok(())
    }

    fn expect_overlay(&self, stack: &Stack) -> Result<(), Fault> {
        if stack.writable {
            fsutil::make_dir(&stack.home.join(WORK), 0o700).map_err(kernel_fault)?;
        }
        Ok(())
    }

    fn view(&self, stack: &Stack) -> View {
        let own = stack.tree();
        if stack.below.is_empty() {
            return View::Directory { path: own };
        }
        let mut lowers = stack.lowers();
        let upper = if stack.writable {
            Some((own, stack.home.join(WORK)))
        } else {
            lowers.insert(0, own);
            None
        };
        View::Overlay {
            lowers,
            upper,
            label: stack.label.clone(),
        }
    }

    fn unpack(&self, stack: &Stack, archive: &mut dyn Read) -> Result<Usage, Fault> {
        archive::unpack(&stack.tree(), Place::Layer(&stack.lowers()), archive)?;
        self.usage(stack)
    }

    fn metadata(&self, stack: &Stack) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut rows = vec![("UpperDir".into(), text(&stack.tree()))];
        if stack.writable {
            rows.push(("WorkDir".into(), text(&stack.home.join(WORK))));
        }
        if !stack.below.is_empty() {
            let lowers: Vec<String> = stack.lowers().iter().map(|path| text(path)).collect();
            rows.push(("LowerDir".into(), lowers.join(":")));
        }
        rows
    }

    fn can_rebase(&self) -> bool {
        true
    }

    fn native(&self) -> Option<&dyn Native> {
        Some(self)
    }
}

impl Native for Overlay {
    fn diff(&self, stack: &Stack, out: &mut dyn Write) -> Result<(), Fault> {
        Ok(diff::archive(&stack.tree(), stack.root()?, out)?)
    }

    fn changes(&self, stack: &Stack) -> Result<Vec<Change>, Fault> {
        Ok(diff::changes(&stack.tree(), &stack.lowers())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_write_into_their_own_tree_and_images_are_read_only() {
        let stack = |below: &[&str], writable| Stack {
            home: "/s/2".into(),
            below: below.iter().map(Into::into).collect(),
            writable,
            limit: None,
            label: None,
        };
        let base = Overlay.view(&stack(&[], false));
        let path = "/s/2/fs".into();
        assert_eq!(base, View::Directory { path });
        let image = Overlay.view(&stack(&["/s/1", "/s/0"], false));
        let expected = View::Overlay {
            lowers: ["/s/2/fs", "/s/1/fs", "/s/0/fs"].map(Into::into).to_vec(),
            upper: None,
            label: None,
        };
        assert_eq!(image, expected);
        let container = Overlay.view(&stack(&["/s/1", "/s/0"], true));
        let expected = View::Overlay {
            lowers: ["/s/1/fs", "/s/0/fs"].map(Into::into).to_vec(),
            upper: Some(("/s/2/fs".into(), "/s/2/work".into())),
            label: None,
        };
        assert_eq!(container, expected);
    }
}
