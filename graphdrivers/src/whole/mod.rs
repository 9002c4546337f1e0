//! Layers that are whole trees each: a layer begins as its parent's copy and is seen as one folder.
//!
//! ```text
//! HOME/fs     everything that the layer shows
//! ```
//!
//! How the copy comes about is all that differs: [`vfs`] copies files, [`btrfs`] takes a snapshot. What a layer
//! holds itself is found by comparing two trees.

pub mod btrfs;
pub mod vfs;

use std::fmt::Debug;
use std::io::Read;
use std::path::Path;

use kernel::fsutil::{Folder, filesystem_name};
use plugin_api::Fault;
use plugin_api::graph::Usage;

use crate::archive::apply::Into as Place;
use crate::archive::{self, walk};
use crate::backend::{Backend, Stack, View};
use crate::kernel_fault;

/// A way of making one tree out of another.
pub trait Copies: Send + Sync + Debug {
    /// Its name in configuration and messages.
    const NAME: &'static str;

    /// Refuses a file system on which it would go wrong. `scratch` is an empty folder there.
    fn require(scratch: &Path) -> Result<(), Fault>;

    /// Makes an empty tree for a layer upon nothing.
    fn first(stack: &Stack) -> Result<(), Fault>;

    /// Makes the layer's tree like `parent`. When it is seen after a power cut, it is whole.
    fn again(parent: &Path, stack: &Stack) -> Result<(), Fault>;

    /// Further rows for people.
    fn rows(state: &Path) -> Result<Vec<(String, String)>, Fault>;
}

/// Whole trees, made in the way `C`.
#[derive(Debug, Default)]
pub struct Whole<C>(C);

impl<C: Copies> Backend for Whole<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn require(&self, scratch: &Path) -> Result<(), Fault> {
        C::require(scratch)
    }

    fn status(&self, state: &Path) -> Result<Vec<(String, String)>, Fault> {
        let backing = filesystem_name(state).map_err(kernel_fault)?;
        let mut rows = vec![("Backing Filesystem".to_owned(), backing)];
        rows.extend(C::rows(state)?);
        Ok(rows)
    }

    fn build(&self, stack: &Stack) -> Result<(), Fault> {
        if stack.limit.is_some() {
            let message = format!("{} layers have no size limit, drop the size option", C::NAME);
            return Err(Fault::unsupported(message));
        }
        match stack.lowers().first() {
            Some(parent) => C::again(parent, stack),
            None => C::first(stack),
        }
    }

    fn view(&self, stack: &Stack) -> View {
        View::Directory { path: stack.tree() }
    }

    fn unpack(&self, stack: &Stack, archive: &mut dyn Read) -> Result<Usage, Fault> {
        archive::unpack(&stack.tree(), Place::Tree, archive)?;
        self.usage(stack)
    }

    fn usage(&self, stack: &Stack) -> Result<Usage, Fault> {
        let own = Folder::open(&stack.tree()).map_err(kernel_fault)?;
        let parent = stack.lowers().into_iter().next();
        let parent = parent.map(|path| Folder::open(&path)).transpose();
        Ok(walk::usage(&own, parent.map_err(kernel_fault)?.as_ref())?)
    }

    fn metadata(&self, stack: &Stack) -> Vec<(String, String)> {
        vec![("UpperDir".to_owned(), stack.tree().to_string_lossy().into_owned())]
    }
}
