//! Plans one node: its pod range, its conditions when it is silent, its taints by condition.

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use super::cidr;
use crate::Cidr;
use crate::action::Action;

/// A node that gave no sign of life this long counts as unknown, as upstream's node-monitor-grace-period was.
const GRACE: SignedDuration = SignedDuration::from_secs(40);
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) node: Node,
    /// The last sign of life, by our own clock.
    pub(crate) heartbeat: Timestamp,
    /// The ranges other nodes have.
    #[serde(default)]
    pub(crate) used: Vec<String>,
    #[serde(deserialize_with = "cidr_from_text")]
    pub(crate) cluster_cidr: Cidr,
    pub(crate) node_mask: u8,
}

fn cidr_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cidr, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let old = &observed.node;
    let mut node = old.clone();
    let silent_at = observed.heartbeat.checked_add(GRACE).unwrap_or(Timestamp::MAX);
    let mut actions = Vec::new();
    if silent_at <= now {
        actions.extend(mark_silent(&mut node, now));
    }
    actions.extend(give_range(&mut node, observed));
    taint(&mut node, now);
    // The status goes first and unconditionally after it the spec would conflict: the spec patch is the guarded one.
    let status_change =
        node.status.as_ref().and_then(|status| Action::update_status(&unguarded(old), status));
    actions.extend(Action::update(old, &node));
    actions.extend(status_change);
    if silent_at > now {
        actions.push(Action::Wake(silent_at));
    }
    actions
}

/// The same node, so that a patch made from it does not insist on the revision.
fn unguarded(node: &Node) -> Node {
    let mut node = node.clone();
    node.metadata.resource_version = None;
    node
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets the conditions the node would report itself to Unknown.
fn mark_silent(node: &mut Node, now: Timestamp) -> Option<Action> {
    let was_ready = condition(node, "Ready").is_some_and(|condition| condition.status == "True");
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    let name = node.metadata.name.clone().unwrap_or_default();
    let message = format!("Node {name} status is now: NodeNotReady");
    was_ready.then(|| Action::event(node, EventType::Normal, "NodeNotReady", message))
}

fn give_range(node: &mut Node, observed: &Observed) -> Option<Action> {
    let spec = node.spec.get_or_insert_default();
    if spec.pod_cidr.as_deref().is_some_and(|range| !range.is_empty()) {
        return None;
    }
    let Some(range) = cidr::first_free(observed.cluster_cidr, observed.node_mask, &observed.used)
    else {
        let name = node.metadata.name.clone().unwrap_or_default();
        let message = format!("Node {name} status is now: CIDRNotAvailable");
        return Some(Action::event(node, EventType::Normal, "CIDRNotAvailable", message));
    };
    spec.pod_cidr = Some(range.clone());
    spec.pod_cidrs = Some(vec![range]);
    None
}

/// The taints that follow from conditions; others stay as they are.
fn taint(node: &mut Node, now: Timestamp) {
    let status = |kind: &str| condition(node, kind).map(|condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status("Ready") {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => {}
    }
    wanted.extend(
        PRESSURES
            .iter()
            .filter(|(kind, _)| status(kind) == Some("True"))
            .map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let spec = node.spec.get_or_insert_default();
    let mut taints = spec.taints.take().unwrap_or_default();
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, pressure)| *pressure == key)
    };
    taints.retain(|taint| {
        !ours(&taint.key) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
    });
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            taints.push(Taint { key, effect, time_added: Some(Time(now)), value: None });
        }
    }
    spec.taints = (!taints.is_empty()).then_some(taints);
}
