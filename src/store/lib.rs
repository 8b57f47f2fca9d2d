//! Revisioned keys and bytes: get, list, compare-and-set, delete, and watch from a revision.
//!
//! The current state is served from memory; durable keys are kept in one SQLite file, memory keys never touch the disk.
//! One writer thread decides and commits everything, and all writes that wait share one transaction and one fsync, so
//! an answer goes out only when the write is on the disk. A bounded change log in memory feeds the watches. Every write
//! takes the next revision; revisions grow over restarts too, because they are reserved on the disk in blocks.
//!
//! What this crate deliberately does not know: Kubernetes, JSON, namespaces, time. A value is bytes; the only thing ever
//! done to it is inserting the decimal revision at an offset that the caller names.
//!
//! Start reading at [`Store`] (`handle.rs`), then `writer.rs` (how a batch becomes a commit), `state.rs` (what is in
//! memory), `history.rs` and `watch.rs` (how a change reaches a watcher), and `disk.rs` (the file; `reader.rs` reads back
//! what the memory has no room for, `spare.rs` is for full disks).

mod disk;
mod entry;
mod error;
mod handle;
mod history;
mod key;
mod options;
mod reader;
mod spare;
mod state;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

pub use entry::{Entry, Event, EventKind, Expect, ListOptions, NewValue, Page, Revision};
pub use error::Error;
pub use handle::Store;
pub use options::{Durability, Options};
pub use watch::Watch;
