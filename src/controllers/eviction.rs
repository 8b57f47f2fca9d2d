//! Evicts pods from nodes with a `NoExecute` taint that they do not, or no longer, tolerate.

mod plan;

use std::sync::Arc;

use client::{Cache, Controller, Error, Key, Outcome, key_of};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use tokio::sync::watch;

use crate::pods;
use crate::shell::{self, Shell};
use crate::since::Since;

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 4;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("eviction");
    let nodes = shell.caches.nodes.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        let Some(pod) = new.filter(|pod| pods::is_active(pod)) else {
            return old.map(key_of).into_iter().collect();
        };
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
        if no_execute(node) == old.map(no_execute).unwrap_or_default() {
            return Vec::new();
        }
        on_node(&pods, node.metadata.name.as_deref().unwrap_or_default())
    });
    let seen = Arc::new(Since::default());
    shell::run(controller, WORKERS, shell, shutdown, move |shell, key| {
        reconcile(shell, seen.clone(), key)
    })
    .await;
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

async fn reconcile(shell: Arc<Shell>, seen: Arc<Since<Key>>, key: Key) -> Result<Outcome, Error> {
    let Some(pod) = shell.caches.pods.get(&key.0, &key.1).filter(|pod| pods::is_active(pod)) else {
        seen.forget(&key);
        return Ok(Outcome::Done);
    };
    let taints = taints(&shell.caches.nodes, pods::node_name(&pod));
    if taints.is_empty() {
        let waited = seen.forget(&key);
        let actions = waited.then(|| plan::cancelled(&pod)).into_iter().collect();
        return shell.perform(actions).await;
    }
    let now = shell::now();
    let observed = Observed { pod: (*pod).clone(), taints, since: seen.first(key, now) };
    shell.perform(plan(&observed, now)).await
}
