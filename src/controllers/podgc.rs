//! Removes pods that nobody else will: those of nodes that are gone, those deleted before they had a node, and
//! finished ones beyond a limit.

mod plan;

use std::sync::Arc;

use client::{Controller, Error, Outcome};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::pods;
use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

/// All pods are looked at together, so there is one key.
const KEY: &str = "pods";

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<&'static str>::new("podgc");
    controller.feed(&shell.caches.nodes, |old, new| match (old, new) {
        (Some(_), None) => vec![KEY],
        _ => Vec::new(),
    });
    let nodes = shell.caches.nodes.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        let Some(pod) = new else { return Vec::new() };
        let node = pods::node_name(pod);
        let unassigned_end = node.is_empty() && pod.metadata.deletion_timestamp.is_some();
        let homeless = !node.is_empty() && nodes.get("", node).is_none();
        let just_finished = pods::is_finished(pod) && !old.is_some_and(pods::is_finished);
        if unassigned_end || homeless || just_finished { vec![KEY] } else { Vec::new() }
    });
    let missing = Arc::new(std::sync::Mutex::new(plan::Missing::new()));
    shell::run(controller, 1, shell, shutdown, move |shell, _| {
        let missing = missing.clone();
        async move { reconcile(shell, &missing).await }
    })
    .await;
}

async fn reconcile(
    shell: Arc<Shell>,
    missing: &std::sync::Mutex<plan::Missing>,
) -> Result<Outcome, Error> {
    let now = shell::now();
    let nodes =
        shell.caches.nodes.list().iter().filter_map(|node| node.metadata.name.clone()).collect();
    let mut observed = Observed { pods: Vec::new(), nodes, missing_since: plan::Missing::new() };
    let concerns = |pod: &&Arc<Pod>| {
        let node = pods::node_name(pod);
        pods::is_finished(pod) || node.is_empty() || !observed.nodes.contains(node)
    };
    observed.pods =
        shell.caches.pods.list().iter().filter(concerns).map(|pod| (**pod).clone()).collect();
    {
        let mut known = missing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *known = plan::missing(&observed, &known, now);
        observed.missing_since = known.clone();
    }
    shell.perform(plan(&observed, now)).await
}
