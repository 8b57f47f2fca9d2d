//! What a node keeps on its disk to start its pods without the API server.
//!
//! ```text
//! DATA/agent/record/           0700
//!   key                        0600, 32 random bytes
//!   node                       the pod range
//!   pods/UID                   the pod with its status, the objects it shows, the variables of its Services
//! ```
//!
//! Every file but the key is sealed (`seal`): encrypted, because it may hold Secrets, and authenticated, so that what was
//! damaged is told from what was written. Files are replaced as a whole and only when what they say has changed
//! (`content` decides what counts). A file that cannot be read is named in the log and left out.

mod content;
mod seal;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use content::{Cause, NodeRecord, PodRecord, Recorded};
pub use store::recorded_pods;
pub(crate) use store::{Loaded, Store};
