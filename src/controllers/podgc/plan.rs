//! Plans which pods to remove.

use std::collections::{BTreeMap, BTreeSet};

use client::Propagation;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use serde::Deserialize;

use crate::action::{Action, Deletion};
use crate::{NodeLife, pods};

/// Finished pods that may stay.
const FINISHED_MAX: usize = 12_500;
/// A node with this taint will not come back as it was.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Since when nodes that pods name are gone.
pub(crate) type Missing = BTreeMap<String, Timestamp>;

#[derive(Deserialize)]
pub(crate) struct Observed {
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
    #[serde(default)]
    pub(crate) nodes: BTreeSet<String>,
    #[serde(default)]
    pub(crate) missing_since: Missing,
    /// Nodes that are declared lost.
    #[serde(default)]
    pub(crate) out_of_service: BTreeSet<String>,
    #[serde(skip)]
    pub(crate) life: NodeLife,
}

/// The node is not ready and somebody has declared it lost.
pub(crate) fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE)
        && !conditions.into_iter().flatten().any(ready)
}

/// The nodes that pods name and that are not there.
pub(crate) fn missing(observed: &Observed) -> BTreeSet<String> {
    let named = observed.pods.iter().map(pods::node_name).filter(|node| !node.is_empty());
    named.filter(|node| !observed.nodes.contains(*node)).map(str::to_owned).collect()
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut wake: Option<Timestamp> = None;
    for pod in &observed.pods {
        let node = pods::node_name(pod);
        if node.is_empty() {
            if pod.metadata.deletion_timestamp.is_some() {
                actions.push(remove(pod));
            }
        } else if let Some(since) = observed.missing_since.get(node) {
            let quarantine = SignedDuration::try_from(observed.life.removal_quarantine);
            let end = since.checked_add(quarantine.unwrap_or(SignedDuration::MAX));
            let end = end.unwrap_or(Timestamp::MAX);
            if end <= now {
                actions.extend(lost(pod, "PodGC: node no longer exists", now));
            } else {
                wake = Some(wake.map_or(end, |wake| wake.min(end)));
            }
        } else if pod.metadata.deletion_timestamp.is_some()
            && observed.out_of_service.contains(node)
        {
            actions.extend(lost(pod, "PodGC: node is out of service", now));
        }
    }
    actions.extend(surplus(&observed.pods));
    actions.extend(wake.map(Action::Wake));
    actions
}

fn remove(pod: &Pod) -> Action {
    Action::delete(pod, Deletion { force: true, propagation: Some(Propagation::Background) }, None)
}

/// A pod that can no longer run is told failed before it goes, for those who look at it last.
fn lost(pod: &Pod, message: &str, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pods::is_finished(pod) {
        actions.push(pods::disrupt(pod, Some("Failed"), "DeletionByPodGC", message, now));
    }
    actions.push(remove(pod));
    actions
}

/// The oldest finished pods beyond the limit.
fn surplus(all: &[Pod]) -> Vec<Action> {
    let mut finished: Vec<&Pod> = all.iter().filter(|pod| pods::is_finished(pod)).collect();
    let Some(count) = finished.len().checked_sub(FINISHED_MAX) else { return Vec::new() };
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    finished.into_iter().take(count).map(remove).collect()
}
