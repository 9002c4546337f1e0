//! The undo list of a verb's third beat.
//!
//! `apply` pushes one closure for each step it has taken. If a later step fails, the list is unwound
//! last to first; what undoing could not do is collected and told, and the record is then repaired by
//! the reconciler.

use std::error::Error;
use std::fmt;

use crate::fault::{Fault, chain};

type Step<'a> = Box<dyn FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + 'a>;

/// Steps taken so far, each with its way back.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<(String, Step<'a>)>,
}

impl fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.steps.iter().map(|(what, _)| what))
            .finish()
    }
}

impl<'a> Undo<'a> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to take back the step just taken; `what` reads as `delete link vethabc`.
    pub fn push<E>(&mut self, what: impl Into<String>, back: impl FnOnce() -> Result<(), E> + 'a)
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.steps
            .push((what.into(), Box::new(move || back().map_err(Into::into))));
    }

    /// The verb succeeded: forget the ways back.
    pub fn keep(mut self) {
        self.steps.clear();
    }

    /// Takes every step back, last to first, and returns the cause, with what could not be undone.
    #[must_use]
    pub fn unwind(self, cause: Fault) -> Fault {
        let mut failed = Vec::new();
        for (what, back) in self.steps.into_iter().rev() {
            if let Err(error) = back() {
                failed.push(format!("{what}: {}", chain(error.as_ref())));
            }
        }
        if failed.is_empty() {
            return cause;
        }
        let kind = cause.kind;
        let message = cause.message.clone();
        Fault::new(kind, message).because(RollbackFailed {
            cause: cause.sentence(),
            undo: failed,
        })
    }
}

/// A step failed and not everything before it could be taken back; the reconciler owns the rest.
#[derive(Debug)]
pub struct RollbackFailed {
    /// Why the verb failed.
    pub cause: String,
    /// What could not be undone, one line each.
    pub undo: Vec<String>,
}

impl fmt::Display for RollbackFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (not undone, left to repair: {})",
            self.cause,
            self.undo.join("; ")
        )
    }
}

impl Error for RollbackFailed {}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn unwinds_last_to_first_and_tells_what_stuck() {
        let order = RefCell::new(Vec::new());
        let mut undo = Undo::new();
        undo.push("first", || {
            order.borrow_mut().push(1);
            Ok::<(), Fault>(())
        });
        undo.push("second", || {
            order.borrow_mut().push(2);
            Err(Fault::internal("stuck"))
        });
        let fault = undo.unwind(Fault::internal("third failed"));
        assert_eq!(*order.borrow(), [2, 1]);
        assert!(fault.sentence().contains("second: stuck"), "{}", fault.sentence());
    }

    #[test]
    fn a_success_takes_nothing_back() {
        let mut undo = Undo::new();
        undo.push("never", || -> Result<(), Fault> {
            panic!("undone after success")
        });
        undo.keep();
    }
}
