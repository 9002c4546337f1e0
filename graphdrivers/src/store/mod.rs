//! The one store of layers behind every door.
//!
//! ```text
//! STATE/state.redb            which layer is which, and how far it is
//! STATE/layers/NUMBER/fs      what the layer itself holds
//! STATE/layers/NUMBER/…       whatever else its back end keeps
//! STATE/staging/NUMBER        a layer on its way in; swept at open
//! STATE/trash/N               on its way out; emptied in the background and at open
//! ```
//!
//! A layer is there when its record is. It is built in `staging`, renamed into `layers`, then recorded
//! together with the name that a door gives it: one write, one sync. An archive goes into a new layer that
//! takes the place of the empty one when it is wholly on disk. To remove a layer is to forget it, then to
//! move it to `trash`; what no record speaks of is swept at open. An open layer's empty folders are not
//! flushed: where a power cut took them, they are made anew.

mod chain;
pub(crate) mod names;
mod rows;
mod upgrade;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::fsutil::{self, Flusher, Folder, Lock, Trash, lock_dir};
use kernel::record::{Batch, Records};
use plugin_api::graph::Usage;
use plugin_api::{Fault, FaultKind};

use crate::backend::{Backend, Stack, TREE, View};
use crate::kernel_fault;
use chain::{Index, Task};
use rows::Counter;
pub use rows::{Number, Row, State};

/// How long unlinking may take before nobody waits for it any more.
const SETTLES: Duration = Duration::from_secs(60);

/// A layer to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fresh {
    /// The layer below it.
    pub parent: Option<Number>,
    /// Whether it is made to be written through a mount, not filled by an archive.
    pub writable: bool,
    /// SELinux label of its mounts.
    pub label: Option<String>,
    /// Most bytes that may be written into it.
    pub limit: Option<u64>,
}

/// Layers of one state folder.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    backend: Box<dyn Backend>,
    records: Records,
    index: Mutex<Index>,
    counter: Counter,
    trash: Trash,
    flusher: Flusher,
    // Last: everything above is closed before the state folder is let go.
    _lock: Lock,
}

impl Store {
    /// Opens the store and repairs what a death left. `state` exists, belongs to root and is closed to
    /// others. A second opening while this one lives is refused as in use.
    pub fn open(state: &Path, backend: Box<dyn Backend>) -> Result<Self, Fault> {
        // Mount tables know no relative paths and no links.
        let state = state.canonicalize().map_err(|error| {
            let message = format!("open state folder {}", state.display());
            Fault::not_found(message).because(error)
        })?;
        let lock = lock_dir(&state).map_err(kernel_fault)?;
        let records = Records::open(&state.join("state.redb")).map_err(kernel_fault)?;
        for name in ["layers", "staging"] {
            fsutil::make_dir(&state.join(name), 0o700).map_err(kernel_fault)?;
        }
        upgrade::run(&state, &records)?;
        names::keep_driver(&records, backend.name())?;
        let store = Self {
            index: Mutex::new(Index::new(rows::load(&records)?)),
            counter: Counter::load(&records)?,
            trash: Trash::open(&state.join("trash")).map_err(kernel_fault)?,
            flusher: Flusher::open(&state).map_err(kernel_fault)?,
            state,
            backend,
            records,
            _lock: lock,
        };
        store.sweep()?;
        store.require()?;
        store.rebuild()?;
        Ok(store)
    }

    /// Whatever no record speaks of was on its way in or out.
    fn sweep(&self) -> Result<(), Fault> {
        for (folder, keep) in [("staging", false), ("layers", true)] {
            let path = self.state.join(folder);
            let folder = Folder::open(&path).map_err(kernel_fault)?;
            for entry in folder.entries().map_err(kernel_fault)? {
                let number = entry.name.to_str().and_then(Number::parse);
                let recorded = number.is_some_and(|number| self.index().row(number).is_some());
                if !(keep && recorded) {
                    let path = path.join(&entry.name);
                    tracing::info!(path = %path.display(), "sweep what a death left");
                    self.trash.take(&path).map_err(kernel_fault)?;
                }
            }
        }
        Ok(())
    }

    fn require(&self) -> Result<(), Fault> {
        let scratch = self.state.join("staging/probe");
        fsutil::make_dir(&scratch, 0o700).map_err(kernel_fault)?;
        let result = self.backend.require(&scratch);
        fsutil::remove_tree(&scratch).map_err(kernel_fault)?;
        result
    }

    /// Makes open layers' folders that a power cut took; tells of sealed ones whose content is gone.
    fn rebuild(&self) -> Result<(), Fault> {
        // A parent has the smaller number, but where it was given late.
        let all = self.index().numbers();
        for number in all {
            let home = self.home(number);
            if home.join(TREE).symlink_metadata().is_ok() {
                continue;
            }
            let (stack, state) = {
                let index = self.index();
                let row = index.find(number)?.clone();
                (self.stack_of(&index, number, &row)?, row.state)
            };
            if state == State::Sealed {
                tracing::error!(layer = %home.display(), "the content of a layer is missing");
                continue;
            }
            tracing::info!(layer = %home.display(), "make a layer's folders anew");
            if home.symlink_metadata().is_ok() {
                self.trash.take(&home).map_err(kernel_fault)?;
            }
            self.build(number, stack)?;
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records, for what the doors keep beside the layers.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The store's folder, absolute.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The way in which layers are kept.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn home(&self, number: Number) -> PathBuf {
        self.state.join("layers").join(number.to_string())
    }

    fn stack_of(&self, index: &Index, number: Number, row: &Row) -> Result<Stack, Fault> {
        let below = index.below(row.parent)?;
        Ok(Stack {
            home: self.home(number),
            below: below.into_iter().map(|number| self.home(number)).collect(),
            writable: row.writable,
            limit: row.limit,
            label: row.label.clone(),
        })
    }

    /// A layer as folders, or `NotFound`.
    pub fn stack(&self, number: Number) -> Result<Stack, Fault> {
        let index = self.index();
        let row = index.find(number)?;
        self.stack_of(&index, number, row)
    }

    /// What is recorded of a layer.
    pub fn row(&self, number: Number) -> Option<Row> {
        self.index().row(number).cloned()
    }

    /// How many layers there are.
    pub fn len(&self) -> usize {
        self.index().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A layer that lies upon this one.
    pub fn child(&self, number: Number) -> Option<Number> {
        self.index().child(number)
    }

    /// Builds a layer in `staging` and renames it into its place. What a failure leaves goes at leisure.
    fn build(&self, number: Number, stack: Stack) -> Result<(), Fault> {
        self.put_in_place(number, stack, |_| Ok(()))
    }

    fn put_in_place<T>(
        &self,
        number: Number,
        mut stack: Stack,
        fill: impl FnOnce(&Stack) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let home = self.home(number);
        stack.home = self.state.join("staging").join(number.to_string());
        let steps = || -> Result<T, Fault> {
            fsutil::make_dir(&stack.home, 0o700).map_err(kernel_fault)?;
            self.backend.build(&stack)?;
            let filled = fill(&stack)?;
            fsutil::rename(&stack.home, &home).map_err(kernel_fault)?;
            Ok(filled)
        };
        let result = steps();
        if result.is_err() {
            self.trash.take_at_leisure(&stack.home);
        }
        result
    }

    /// Makes an empty layer. `name` adds what its door calls it, to be recorded in the same step.
    pub fn create(&self, fresh: &Fresh, name: impl FnOnce(Batch, Number) -> Batch) -> Result<Number, Fault> {
        let below = {
            let mut index = self.index();
            let below = index.below(fresh.parent)?;
            // An image is seen as one more lower folder, a container's layer as the upper one.
            chain::check_depth(below.len() + usize::from(!fresh.writable))?;
            index.lean_on(fresh.parent)?;
            below
        };
        let made = self.make(fresh, &below, name);
        if made.is_err() {
            self.index().let_go(fresh.parent);
        }
        made
    }

    fn make(
        &self,
        fresh: &Fresh,
        below: &[Number],
        name: impl FnOnce(Batch, Number) -> Batch,
    ) -> Result<Number, Fault> {
        let number = self.counter.take(&self.records)?;
        let row = Row {
            parent: fresh.parent,
            writable: fresh.writable,
            label: fresh.label.clone().filter(|label| !label.is_empty()),
            limit: fresh.limit,
            state: State::Open,
            usage: None,
        };
        let home = self.home(number);
        let stack = Stack {
            home: home.clone(),
            below: below.iter().map(|number| self.home(*number)).collect(),
            writable: row.writable,
            limit: row.limit,
            label: row.label.clone(),
        };
        self.build(number, stack)?;
        let batch = name(rows::put(Batch::new(), number, &row), number);
        if let Err(error) = self.records.commit(&batch) {
            self.trash.take_at_leisure(&home);
            return Err(kernel_fault(error));
        }
        self.index().insert(number, row);
        Ok(number)
    }

    /// Records a layer whose tree is yet to come from elsewhere, by [`Self::take_over`]. Until then it counts as
    /// one whose content is missing, so that nothing is made in its place.
    pub fn expect(&self, fresh: &Fresh, name: impl FnOnce(Batch, Number) -> Batch) -> Result<Number, Fault> {
        let mut index = self.index();
        let below = index.below(fresh.parent)?;
        chain::check_depth(below.len() + usize::from(!fresh.writable))?;
        index.lean_on(fresh.parent)?;
        drop(index);
        let record = || -> Result<(Number, Row), Fault> {
            let number = self.counter.take(&self.records)?;
            let row = Row {
                parent: fresh.parent,
                writable: fresh.writable,
                label: fresh.label.clone(),
                limit: None,
                state: State::Sealed,
                usage: None,
            };
            let batch = name(rows::put(Batch::new(), number, &row), number);
            self.records.commit(&batch).map_err(kernel_fault)?;
            Ok((number, row))
        };
        let recorded = record();
        let mut index = self.index();
        match recorded {
            Ok((number, row)) => {
                index.insert(number, row);
                Ok(number)
            }
            Err(fault) => {
                index.let_go(fresh.parent);
                Err(fault)
            }
        }
    }

    /// Moves `tree`, which Docker's `overlay2` made on the same file system, into an expected layer. Flushes
    /// nothing; may be called again after a death.
    pub fn take_over(&self, number: Number, tree: &Path) -> Result<(), Fault> {
        let stack = self.stack(number)?;
        fsutil::make_dir(&stack.home, 0o700).map_err(kernel_fault)?;
        self.backend.expect_overlay(&stack)?;
        fsutil::rename(tree, &stack.tree()).map_err(kernel_fault)?;
        if stack.writable {
            let mut row = self.index().find(number)?.clone();
            row.state = State::Open;
            let batch = rows::put(Batch::new(), number, &row);
            self.records.commit(&batch).map_err(kernel_fault)?;
            self.index().replace(number, row);
        }
        Ok(())
    }

    /// Forgets a layer, together with what `forget` holds, and moves it to the trash. `InUse` while
    /// another lies upon it.
    pub fn remove(&self, number: Number, forget: Batch) -> Result<(), Fault> {
        self.index().begin(number, Task::Leaving)?;
        if let Err(error) = self.records.commit(&rows::delete(forget, number)) {
            self.index().end(number);
            return Err(kernel_fault(error));
        }
        self.index().remove(number);
        // Its place is never used again.
        self.trash.take_at_leisure(&self.home(number));
        Ok(())
    }

    /// Unpacks a plain tar into an image's layer. The layer gets a new number when the archive is wholly on
    /// disk; `name` records it for its door in the same step. A layer that is filled is filled anew. A failure
    /// leaves everything as it was.
    pub fn fill(
        &self,
        number: Number,
        archive: &mut dyn Read,
        name: impl FnOnce(Batch, Number) -> Batch,
    ) -> Result<(Number, Usage), Fault> {
        self.index().begin(number, Task::Filling)?;
        let filled = self.fill_new(number, archive, name);
        let mut index = self.index();
        let Ok((new, row, usage)) = filled else {
            index.end(number);
            return filled.map(|(new, _, usage)| (new, usage));
        };
        index.lean_on(row.parent)?;
        index.insert(new, row);
        index.remove(number);
        drop(index);
        self.trash.take_at_leisure(&self.home(number));
        Ok((new, usage))
    }

    fn fill_new(
        &self,
        number: Number,
        archive: &mut dyn Read,
        name: impl FnOnce(Batch, Number) -> Batch,
    ) -> Result<(Number, Row, Usage), Fault> {
        let (mut row, stack) = {
            let index = self.index();
            let row = index.find(number)?;
            (row.clone(), self.stack_of(&index, number, row)?)
        };
        if row.writable {
            return Err(Fault::invalid("apply an archive: the layer is a container's"));
        }
        let new = self.counter.take(&self.records)?;
        let usage = self.put_in_place(new, stack, |stack| self.backend.unpack(stack, archive))?;
        row.state = State::Sealed;
        row.usage = Some(usage);
        let record = || {
            // The content and its place are on disk before the record says so.
            self.flusher.flush()?;
            let batch = rows::put(rows::delete(Batch::new(), number), new, &row);
            self.records.commit(&name(batch, new))
        };
        if let Err(error) = record() {
            self.trash.take_at_leisure(&self.home(new));
            return Err(kernel_fault(error));
        }
        Ok((new, row, usage))
    }

    /// Declares what was written into a layer to be its content, which is on disk when this returns.
    /// `parent` is the layer that it lies upon from now on; `rename` is recorded in the same step.
    pub fn seal(&self, number: Number, parent: Option<Number>, rename: Batch) -> Result<(), Fault> {
        let mut row = {
            let mut index = self.index();
            let row = index.find(number)?.clone();
            if row.parent != parent {
                self.check_rebase(&index, number, parent)?;
                index.lean_on(parent)?;
            }
            row
        };
        let before = std::mem::replace(&mut row.parent, parent);
        row.state = State::Sealed;
        let sealed = self.flusher.flush();
        let batch = rows::put(rename, number, &row);
        let sealed = sealed.and_then(|()| self.records.commit(&batch));
        let mut index = self.index();
        let moved = before != parent;
        match sealed {
            Ok(()) => {
                if moved {
                    index.let_go(before);
                }
                index.replace(number, row);
                Ok(())
            }
            Err(error) => {
                if moved {
                    index.let_go(parent);
                }
                Err(kernel_fault(error))
            }
        }
    }

    fn check_rebase(&self, index: &Index, number: Number, parent: Option<Number>) -> Result<(), Fault> {
        if !self.backend.can_rebase() {
            let name = self.backend.name();
            let message =
                format!("give a layer another parent: {name} layers are made for the one they have");
            return Err(Fault::unsupported(message));
        }
        let below = index.below(parent)?;
        if below.contains(&number) {
            return Err(Fault::invalid(
                "give a layer another parent: it would lie upon itself",
            ));
        }
        chain::check_depth(below.len())
    }

    /// How a layer is seen.
    pub fn view(&self, number: Number) -> Result<View, Fault> {
        Ok(self.backend.view(&self.stack(number)?))
    }

    /// What a layer holds itself. Remembered of sealed layers, measured of others.
    pub fn usage(&self, number: Number) -> Result<Usage, Fault> {
        let (stack, row) = {
            let index = self.index();
            let row = index.find(number)?;
            if let (State::Sealed, Some(usage)) = (row.state, row.usage) {
                return Ok(usage);
            }
            (self.stack_of(&index, number, row)?, row.clone())
        };
        let usage = self.backend.usage(&stack)?;
        if row.state == State::Sealed {
            self.index().remember(number, usage);
        }
        Ok(usage)
    }

    /// Returns when what was removed takes no more space.
    pub fn settle(&self) -> Result<(), Fault> {
        if self.trash.wait_empty(SETTLES).map_err(kernel_fault)? {
            return Ok(());
        }
        let message = format!("wait until {} is empty", self.state.join("trash").display());
        Err(Fault::new(FaultKind::Timeout, message))
    }
}
