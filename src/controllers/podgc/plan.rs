//! Plans which pods to remove.

use std::collections::{BTreeMap, BTreeSet};

use client::Propagation;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use crate::action::{Action, Deletion};
use crate::pods;

/// Finished pods that may stay.
const FINISHED_MAX: usize = 12_500;
/// How long a node must be gone before its pods go: it may only be slow to register.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

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
}

/// The missing nodes as they are now, with the times that are known.
pub(crate) fn missing(observed: &Observed, known: &Missing, now: Timestamp) -> Missing {
    let named = observed.pods.iter().map(pods::node_name).filter(|node| !node.is_empty());
    let gone = named.filter(|node| !observed.nodes.contains(*node));
    gone.map(|node| (node.to_owned(), known.get(node).copied().unwrap_or(now))).collect()
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
            let end = since.checked_add(QUARANTINE).unwrap_or(Timestamp::MAX);
            if end <= now {
                actions.extend(orphaned(pod, now));
            } else {
                wake = Some(wake.map_or(end, |wake| wake.min(end)));
            }
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
fn orphaned(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pods::is_finished(pod) {
        let message = "PodGC: node no longer exists";
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
