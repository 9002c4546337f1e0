//! The boundary error: what a driver tells an engine.

use std::error::Error;
use std::fmt;

/// What kind of failure it is. Drives the log level, the metrics label and the caller's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The subject does not exist.
    NotFound,
    /// The subject exists and differs from what was asked for.
    AlreadyExists,
    /// The request makes no sense; nothing was changed.
    Invalid,
    /// Somebody uses the subject.
    InUse,
    /// The subject is of a kind or in a state for which this cannot be done.
    WrongState,
    /// This driver or this kernel cannot do it.
    Unsupported,
    /// No address, space, id or device is left.
    Exhausted,
    /// A part that is needed does not answer now; a retry may help.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// Somebody else changed the subject at the same time.
    Conflict,
    /// The durable state contradicts itself or the kernel.
    Corrupt,
    /// A defect of ours.
    Internal,
}

impl FaultKind {
    /// One word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::Invalid => "invalid",
            Self::InUse => "in-use",
            Self::WrongState => "wrong-state",
            Self::Unsupported => "unsupported",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

/// A failure as it leaves a driver: a kind to decide on, a sentence to read, and its cause.
///
/// The sentence says what was tried on what, then why: lower case, no full stop at its end, no secrets.
#[derive(Debug)]
pub struct Fault {
    /// What the caller may decide on.
    pub kind: FaultKind,
    /// What was tried on what, without the cause.
    pub message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fault {
    /// A failure without a deeper cause.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A failure whose sentence and causes are those of `error`.
    pub fn from_error(kind: FaultKind, error: impl Error + Send + Sync + 'static) -> Self {
        let message = error.to_string();
        let mut fault = Self::new(kind, message);
        // The error's own text is the message; what lies below it is the cause.
        if let Some(source) = error.source() {
            fault.source = Some(chain(source).into());
        }
        fault
    }

    /// The whole sentence: the message and every cause, joined by `: `.
    pub fn sentence(&self) -> String {
        match &self.source {
            None => self.message.clone(),
            Some(source) => format!("{}: {}", self.message, chain(source.as_ref())),
        }
    }
}

/// Joins an error and all its causes with `: `.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

macro_rules! shorthand {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Fault {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self::new(FaultKind::$kind, message)
            })*
        }
    };
}

shorthand! {
    /// The subject does not exist.
    not_found => NotFound,
    /// The subject exists and differs.
    already_exists => AlreadyExists,
    /// The request makes no sense.
    invalid => Invalid,
    /// Somebody uses the subject.
    in_use => InUse,
    /// Not in this state.
    wrong_state => WrongState,
    /// This cannot be done here.
    unsupported => Unsupported,
    /// Nothing is left to give.
    exhausted => Exhausted,
    /// A defect of ours.
    internal => Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_walks_the_chain_once() {
        let io = std::io::Error::from_raw_os_error(28);
        let fault = Fault::new(FaultKind::Exhausted, "mount layer 3f2a (overlay, 41 lowers)").because(io);
        assert_eq!(
            fault.sentence(),
            "mount layer 3f2a (overlay, 41 lowers): No space left on device (os error 28)"
        );
    }
}
