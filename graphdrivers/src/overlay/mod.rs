//! Layers as folders, stacked by the kernel's overlay file system.
//!
//! ```text
//! STATE/state.redb            which layer is which, and how far it is
//! STATE/layers/SHORT/fs       what the layer itself holds
//! STATE/layers/SHORT/work     the kernel's own, for containers' layers
//! STATE/staging/SHORT.N       a layer or an archive on its way in; swept at open
//! STATE/trash/N               on its way out; emptied in the background and at open
//! ```
//!
//! SHORT comes from a durable counter and is never used twice. A layer is there when its record is: it is
//! built in `staging`, renamed into `layers`, then recorded; and forgotten before it is moved to `trash`.

mod driver;
mod plan;
mod probe;
mod store;

pub use driver::Driver;
