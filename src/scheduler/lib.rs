//! The scheduler: gives every pending pod a node.
//!
//! [`place::place`] is the pure cycle over a [`snapshot::Snapshot`]; `queue.rs` decides when a pod is tried (again);
//! `run.rs` feeds both from the caches and binds. A pod counts on its node from the moment it is placed, so that two
//! pods are never given the same room.
//!
//! Deliberately unknown here: volumes, claims and devices; and there is no preemption: a pod that does not fit waits
//! until room is made by others, whatever its priority.
//!
//! Start reading at [`run`], then `place.rs`.

mod affinity;
mod filter;
mod interpod;
pub mod place;
mod queue;
mod requests;
mod run;
mod score;
pub mod snapshot;
mod spread;
mod taints;

#[cfg(test)]
mod tests;

use client::{Caches, Client};
use tokio::sync::watch;

/// The name pods ask for this scheduler by.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Runs until shutdown, on caches of its own.
pub async fn run(client: Client, shutdown: watch::Receiver<bool>) {
    let caches = Caches::start(&client);
    run_with(client, &caches, shutdown).await;
}

/// Runs until shutdown, on caches shared with others.
pub async fn run_with(client: Client, caches: &Caches, shutdown: watch::Receiver<bool>) {
    run::Scheduler::new(client, caches).run(shutdown).await;
}
