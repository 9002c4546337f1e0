//! The directories of volumes.
//!
//! ```text
//! STATE/volumes/NAME/data   what containers see
//! STATE/trash/NUMBER        what was removed, until the sweeper has unlinked it
//! ```
//!
//! A volume leaves by one rename, so it is whole or gone; its files go behind the caller's back.
