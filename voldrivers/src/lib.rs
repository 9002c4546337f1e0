//! Volume drivers.
//!
//! Each module is one driver, an implementation of [`plugin_api::volume::VolumeDriver`]; start with
//! [`local`].
//!
//! **Invariant:** drivers know options and nouns, never config files or JSON.
//! **Invariant:** drivers do not import each other.

pub mod local;

pub use local::open_local;
