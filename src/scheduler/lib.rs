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

use client::{Cache, Caches, Client, ListParams};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use tokio::sync::watch;

/// The name pods ask for this scheduler by.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// What the scheduler looks at.
pub struct Inputs {
    pub pods: Cache<Pod>,
    pub nodes: Cache<Node>,
    pub namespaces: Cache<Namespace>,
}

impl Inputs {
    /// Caches of its own.
    pub fn start(client: &Client) -> Self {
        Self {
            pods: Cache::start(client.clone(), ListParams::all()),
            nodes: Cache::start(client.clone(), ListParams::all()),
            namespaces: Cache::start(client.clone(), ListParams::all()),
        }
    }

    /// Caches shared with others.
    pub fn shared(caches: &Caches) -> Self {
        Self {
            pods: caches.pods.clone(),
            nodes: caches.nodes.clone(),
            namespaces: caches.namespaces.clone(),
        }
    }
}

/// Runs until shutdown, on caches of its own.
pub async fn run(client: Client, shutdown: watch::Receiver<bool>) {
    let inputs = Inputs::start(&client);
    run_with(client, inputs, shutdown).await;
}

/// Runs until shutdown; `client` binds and tells, `inputs` may come from another identity.
pub async fn run_with(client: Client, inputs: Inputs, shutdown: watch::Receiver<bool>) {
    run::Scheduler::new(client, inputs).run(shutdown).await;
}
