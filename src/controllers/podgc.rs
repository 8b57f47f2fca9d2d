//! Removes pods that nobody else will: those of nodes that are gone, those deleted before they had a node, and
//! finished ones beyond a limit.

mod plan;

use std::sync::Arc;

use client::{Controller, Error, Outcome};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;

use crate::pods;
use crate::shell::{self, Shell};
use crate::since::Since;

pub(crate) use plan::{Observed, plan};

/// All pods are looked at together, so there is one key.
const KEY: &str = "pods";

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<&'static str>::new("podgc");
    controller.feed(&shell.caches.nodes, |_, new| match new {
        None => vec![KEY],
        Some(node) if plan::is_out_of_service(node) => vec![KEY],
        Some(_) => Vec::new(),
    });
    let nodes = shell.caches.nodes.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        let Some(pod) = new else { return Vec::new() };
        let node = pods::node_name(pod);
        let unassigned_end = node.is_empty() && pod.metadata.deletion_timestamp.is_some();
        let home = nodes.get("", node);
        let lost = pod.metadata.deletion_timestamp.is_some()
            && home.as_ref().is_some_and(|node| plan::is_out_of_service(node));
        let homeless = !node.is_empty() && home.is_none();
        let just_finished = pods::is_finished(pod) && !old.is_some_and(pods::is_finished);
        if unassigned_end || homeless || lost || just_finished { vec![KEY] } else { Vec::new() }
    });
    let missing = Arc::new(Since::default());
    shell::run(controller, 1, shell, shutdown, move |shell, _| {
        let missing = missing.clone();
        async move { reconcile(shell, &missing).await }
    })
    .await;
}

async fn reconcile(shell: Arc<Shell>, missing: &Since<String>) -> Result<Outcome, Error> {
    let now = shell::now();
    let all = shell.caches.nodes.list();
    let names = |wanted: fn(&Node) -> bool| {
        all.iter()
            .filter(|node| wanted(node))
            .filter_map(|node| node.metadata.name.clone())
            .collect()
    };
    let mut observed = Observed {
        pods: Vec::new(),
        nodes: names(|_| true),
        missing_since: plan::Missing::new(),
        out_of_service: names(plan::is_out_of_service),
        life: shell.config.node_life,
    };
    let concerns = |pod: &&Arc<Pod>| {
        let node = pods::node_name(pod);
        pods::is_finished(pod)
            || node.is_empty()
            || !observed.nodes.contains(node)
            || observed.out_of_service.contains(node)
    };
    observed.pods =
        shell.caches.pods.list().iter().filter(concerns).map(|pod| (**pod).clone()).collect();
    observed.missing_since = missing.only(plan::missing(&observed), now);
    shell.perform(plan(&observed, now)).await
}
