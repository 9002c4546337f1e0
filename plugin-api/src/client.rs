//! The same verbs from the other side.
