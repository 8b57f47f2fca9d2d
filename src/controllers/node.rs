//! The node controller: pod ranges, and what to do about nodes that fall silent.

mod cidr;
mod memory;
mod plan;
mod zones;

use std::sync::{Arc, Mutex, MutexGuard};

use client::{Controller, Error, Key, NODE_LEASE_NAMESPACE, Outcome, Queue, key_of};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;

use crate::action::Action;
use crate::pods;
use crate::shell::{self, Shell};
use memory::Memory;
use zones::Zones;

pub(crate) use plan::{Observed, plan};

/// One, because two could give the same range to different nodes.
const WORKERS: usize = 1;

/// What all reconciles share: the memory, and the queue to look at other nodes again.
struct Shared {
    memory: Mutex<Memory>,
    queue: Queue<String>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<String>::new("node");
    let shared = Arc::new(Shared { memory: Mutex::default(), queue: controller.queue() });
    let name = |key: Key| vec![key.1];
    controller.feed(&shell.caches.nodes, move |old, new| {
        new.or(old).map(key_of).map(name).unwrap_or_default()
    });
    controller.feed(&shell.caches.node_leases, move |_, new| {
        new.map(key_of).map(name).unwrap_or_default()
    });
    shell::run(controller, WORKERS, shell, shutdown, move |shell, name| {
        let shared = shared.clone();
        async move { reconcile(shell, shared, name).await }
    })
    .await;
}

async fn reconcile(shell: Arc<Shell>, shared: Arc<Shared>, name: String) -> Result<Outcome, Error> {
    let (actions, node) = decide(&shell, &shared, &name);
    let evicted = node.filter(|node| plan::begins_eviction(node, &actions));
    let outcome = shell.perform(actions).await?;
    if let Some(node) = evicted {
        shared.memory().evicted(&node);
    }
    Ok(outcome)
}

/// The plan for a node; one that is gone is not returned.
fn decide(shell: &Shell, shared: &Shared, name: &str) -> (Vec<Action>, Option<Arc<Node>>) {
    let nodes = shell.caches.nodes.list();
    let mut memory = shared.memory();
    if memory.survey(Zones::survey(nodes.iter().map(|node| &**node))) {
        nodes.iter().for_each(|node| shared.queue.add(key_of(&**node).1));
    }
    let Some(node) = shell.caches.nodes.get("", name) else {
        // A range is free now, and who waits for one is told.
        let waiting = nodes.iter().filter(|node| range(node).is_none());
        waiting.for_each(|node| shared.queue.add(key_of(&**node).1));
        return (memory.forget(name).iter().map(|node| plan::removed(node)).collect(), None);
    };
    let now = shell::now();
    let observed = observe(shell, &mut memory, &node, &nodes, now);
    (plan(&observed, now), Some(node))
}

fn range(node: &Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone().filter(|range| !range.is_empty())
}

fn observe(
    shell: &Shell,
    memory: &mut Memory,
    node: &Arc<Node>,
    nodes: &[Arc<Node>],
    now: jiff::Timestamp,
) -> Observed {
    let name = key_of(&**node).1;
    let lease = shell.caches.node_leases.get(NODE_LEASE_NAMESPACE, &name);
    let used = match range(node) {
        Some(_) => Vec::new(),
        None => nodes.iter().filter_map(|node| range(node)).collect(),
    };
    let life = memory.look(node, lease.as_deref(), now);
    let settings = shell.config.node_life;
    let unknown = plan::condition(node, "Ready").is_some_and(|ready| ready.status == "Unknown");
    Observed {
        heartbeat: life.heartbeat,
        is_new: life.is_new,
        life: settings,
        eviction: memory.eviction(node, settings.eviction_pause, now),
        pods: if unknown { on_node(shell, &name) } else { Vec::new() },
        ranges: plan::Ranges {
            cluster_cidr: shell.config.cluster_cidr,
            node_mask: shell.config.node_mask,
            used,
            former: memory.former(&name),
            left: memory.left(),
        },
        node: (**node).clone(),
    }
}

fn on_node(shell: &Shell, node: &str) -> Vec<Pod> {
    let all = shell.caches.pods.list();
    all.iter().filter(|pod| pods::node_name(pod) == node).map(|pod| (**pod).clone()).collect()
}
