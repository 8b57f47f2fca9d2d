//! Manifests that lie in a folder of the server are applied to the cluster, when it starts and when they change.
//!
//! As K3s' auto-deploying manifests: a file's objects are created and kept as the file says by three-way apply; what a file
//! no longer has is deleted; what a deleted file had stays; `NAME.skip` beside a file lets it alone. The crate knows no kind:
//! it talks to the API as any client with the administrator's rights.
//!
//! Start reading at [`run`], then `documents` (a file's objects), `plan` (what becomes of an object), `deploy` (one file).

mod deploy;
mod documents;
mod folder;
mod loop_state;
mod plan;
mod record;
mod watcher;

pub use watcher::{Config, run};

#[cfg(test)]
mod tests;
