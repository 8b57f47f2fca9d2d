//! The one way to talk to the API: typed verbs over a [`Transport`], shared object caches, the work queue with the
//! reconcile loop, and the event recorder.
//!
//! Deliberately unknown here: what any kind means, how the API server stores anything, and whether it runs in the
//! same process. The in-process transport is made where the server is composed; [`TlsTransport`] is the other one.
//!
//! Start reading at [`Client`] (`verbs.rs`), then [`Cache`] (`cache.rs`) and [`Controller`] (`reconcile.rs`).

mod backoff;
mod cache;
mod caches;
mod error;
mod mailbox;
mod node_affinity;
mod object;
mod queue;
mod reconcile;
mod recorder;
mod request;
mod tasks;
mod tls;
mod toleration;
mod transport;
mod verbs;
mod watch;

#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use cache::{Cache, Scope};
pub use caches::{Caches, NODE_LEASE_NAMESPACE, ROOT_CA_CONFIG_MAP};
pub use error::{Error, Result};
pub use mailbox::{Change, Subscription};
pub use node_affinity::{fits_node, node_preference};
pub use object::{Key, Object, PartialObject, controller_of, key_of, reference, revision_of};
pub use queue::Queue;
pub use reconcile::{Controller, Outcome};
pub use recorder::{EventType, Recorder};
pub use request::{DeleteParams, ListParams, Patch, Propagation, ResourcePath};
pub use tasks::Tasks;
pub use tls::{Dial, Dialed, Identity, TlsTransport};
pub use toleration::tolerates;
pub use transport::{Body, BoxError, Transport, full};
pub use verbs::{Client, List};
pub use watch::{WatchEvent, Watcher};
