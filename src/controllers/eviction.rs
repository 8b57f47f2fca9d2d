//! Evicts pods from nodes with a `NoExecute` taint that they do not, or no longer, tolerate.

mod plan;

use std::sync::Arc;

use client::{Cache, Controller, Error, Key, Outcome, key_of};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use tokio::sync::watch;

use crate::pods;
use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 4;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("eviction");
    let nodes = shell.caches.nodes.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        let Some(pod) = new.filter(|pod| pods::is_active(pod)) else { return Vec::new() };
        let settled = old.is_some_and(|old| old.spec == pod.spec);
        if settled || taints(&nodes, pods::node_name(pod)).is_empty() {
            Vec::new()
        } else {
            vec![key_of(pod)]
        }
    });
    let pods = shell.caches.pods.clone();
    controller.feed(&shell.caches.nodes, move |old, new| {
        let Some(node) = new else { return Vec::new() };
        let taints = no_execute(node);
        if taints.is_empty() || old.is_some_and(|old| no_execute(old) == taints) {
            return Vec::new();
        }
        on_node(&pods, node.metadata.name.as_deref().unwrap_or_default())
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

fn taints(nodes: &Cache<Node>, name: &str) -> Vec<Taint> {
    nodes.get("", name).map(|node| no_execute(&node)).unwrap_or_default()
}

fn on_node(pods: &Cache<Pod>, node: &str) -> Vec<Key> {
    pods.list()
        .iter()
        .filter(|pod| pods::node_name(pod) == node)
        .map(|pod| key_of(&**pod))
        .collect()
}

async fn reconcile(shell: Arc<Shell>, key: Key) -> Result<Outcome, Error> {
    let Some(pod) = shell.caches.pods.get(&key.0, &key.1) else { return Ok(Outcome::Done) };
    let taints = taints(&shell.caches.nodes, pods::node_name(&pod));
    shell.perform(plan(&Observed { pod: (*pod).clone(), taints }, shell::now())).await
}
