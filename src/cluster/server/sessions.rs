//! The tunnels of nodes: one per node, the newest counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::Tasks;

/// Nodes that may have a tunnel at once.
const SESSIONS_MAX: usize = 2000;

#[derive(Default)]
pub(crate) struct Sessions {
    held: Arc<Mutex<Held>>,
    tasks: Tasks,
}

#[derive(Default)]
struct Held {
    next: u64,
    by_node: BTreeMap<String, (u64, tunnel::Session)>,
}

impl Sessions {
    /// Keeps a node's session until it ends; an older one of the same node is ended.
    pub(crate) fn insert(&self, node: &str, session: tunnel::Session) {
        let mut held = lock(&self.held);
        if held.by_node.len() >= SESSIONS_MAX && !held.by_node.contains_key(node) {
            tracing::warn!(node, "tunnel refused, {SESSIONS_MAX} nodes have one already");
            return session.close();
        }
        held.next += 1;
        let id = held.next;
        if let Some((_, old)) = held.by_node.insert(node.to_owned(), (id, session.clone())) {
            old.close();
        }
        drop(held);
        tracing::info!(node, "tunnel is up");
        let (held, node) = (self.held.clone(), node.to_owned());
        self.tasks.spawn(async move {
            let why = session.closed().await;
            let mut held = lock(&held);
            if held.by_node.get(&node).is_some_and(|(current, _)| *current == id) {
                held.by_node.remove(&node);
                tracing::info!(node, %why, "tunnel is down");
            }
        });
    }

    /// A stream to the kubelet of a node.
    pub(crate) async fn dial(&self, node: &str, address: &str) -> io::Result<tunnel::BoxIo> {
        let session = lock(&self.held).by_node.get(node).map(|(_, session)| session.clone());
        let Some(session) = session else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                format!("node {node:?} has no tunnel to this server"),
            ));
        };
        session.dial("tcp", address).await
    }

    pub(crate) fn close(&self) {
        for (_, session) in std::mem::take(&mut lock(&self.held).by_node).into_values() {
            session.close();
        }
    }

    pub(crate) fn nodes(&self) -> Vec<String> {
        lock(&self.held).by_node.keys().cloned().collect()
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
