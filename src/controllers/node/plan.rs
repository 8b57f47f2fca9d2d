//! Plans one node: its pod range, its conditions when it is silent, its taints by condition, and its pods when nobody
//! can tell how they are.

use std::time::Duration;

use client::{EventType, key_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::json;

use super::cidr;
use crate::action::Action;
use crate::{Cidr, NodeLife, pods};

const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_EXECUTE: &str = "NoExecute";
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
    /// Nobody has looked at this node before.
    #[serde(default)]
    pub(crate) is_new: bool,
    #[serde(skip)]
    pub(crate) life: NodeLife,
    /// Whether its pods may be sent away.
    #[serde(default)]
    pub(crate) eviction: Eviction,
    /// Its pods; only needed of a node that may be silent.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
    #[serde(flatten)]
    pub(crate) ranges: Ranges,
}

/// What a pod range is chosen from.
#[derive(Deserialize)]
pub(crate) struct Ranges {
    #[serde(deserialize_with = "cidr_from_text")]
    pub(crate) cluster_cidr: Cidr,
    pub(crate) node_mask: u8,
    /// The ranges other nodes have.
    #[serde(default)]
    pub(crate) used: Vec<String>,
    /// The range a node of this name had before.
    #[serde(default)]
    pub(crate) former: Option<String>,
    /// Ranges that nodes had which are gone, and may come back.
    #[serde(default)]
    pub(crate) left: Vec<String>,
}

/// Whether the pods of a node may be sent away because of its condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Eviction {
    #[default]
    Now,
    Later(Timestamp),
    /// Too much is disrupted; what has begun goes on.
    Halted,
    /// All nodes are out of order: what has begun ends too.
    Withdrawn,
}

fn cidr_from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cidr, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let old = &observed.node;
    let mut actions = Vec::new();
    if observed.is_new {
        actions.push(told(old, "RegisteredNode", "Registered Node", "in Controller"));
    }
    let silent_at = silent_at(observed);
    let mut node = old.clone();
    if silent_at <= now {
        let was_ready = condition(old, "Ready").is_some_and(|ready| ready.status == "True");
        mark_silent(&mut node, now);
        let change = node.status.as_ref().and_then(|status| Action::update_status(old, status));
        if let Some(change) = change {
            // The change brings us back here for all that follows from it.
            actions.push(change);
            actions.extend(was_ready.then(|| status_is(old, "NodeNotReady")));
            return actions;
        }
    }
    actions.extend(give_range(&mut node, &observed.ranges));
    let wake = taint(&mut node, observed.eviction, now);
    actions.extend(Action::update(old, &node));
    if silent_at <= now {
        actions.extend(observed.pods.iter().flat_map(|pod| not_ready(pod, now)));
    }
    actions.extend(wake.map(Action::Wake));
    if silent_at > now {
        actions.push(Action::Wake(silent_at));
    }
    actions
}

/// The node is gone.
pub(crate) fn removed(node: &Node) -> Action {
    told(node, "RemovingNode", "Removing Node", "from Controller")
}

/// True when the plan sends the pods of a node away that could stay before.
pub(crate) fn begins_eviction(old: &Node, actions: &[Action]) -> bool {
    let evicts = |taint: &serde_json::Value| {
        taint["effect"] == NO_EXECUTE && (taint["key"] == NOT_READY || taint["key"] == UNREACHABLE)
    };
    !taints(old).iter().any(is_ours_to_evict)
        && actions.iter().any(|action| match action {
            Action::Patch { body, .. } => {
                body["spec"]["taints"].as_array().is_some_and(|all| all.iter().any(evicts))
            }
            _ => false,
        })
}

fn silent_at(observed: &Observed) -> Timestamp {
    let life = &observed.life;
    let known = condition(&observed.node, "Ready").is_some();
    let grace = if known { life.monitor_grace } else { life.startup_grace };
    after(observed.heartbeat, grace)
}

fn after(start: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    start.checked_add(wait).unwrap_or(Timestamp::MAX)
}

fn told(node: &Node, reason: &'static str, what: &str, end: &str) -> Action {
    let name = key_of(node).1;
    let message = format!("Node {name} event: {what} {name} {end}");
    Action::event(node, EventType::Normal, reason, message)
}

fn status_is(node: &Node, status: &'static str) -> Action {
    let message = format!("Node {} status is now: {status}", key_of(node).1);
    Action::event(node, EventType::Normal, status, message)
}

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets the conditions the node would report itself to Unknown.
fn mark_silent(node: &mut Node, now: Timestamp) {
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
}

/// Nobody can tell whether the pod still answers, so that Services should not send anyone there.
fn not_ready(pod: &Pod, now: Timestamp) -> Vec<Action> {
    if !pods::is_ready(pod) {
        return Vec::new();
    }
    let mut status = pod.status.clone().unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        if condition.type_ == "Ready" {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(Time(now));
        }
    }
    let message = "Node is not ready".to_owned();
    let event = Action::event(pod, EventType::Warning, "NodeNotReady", message);
    Action::update_status(pod, &json!(status)).into_iter().chain([event]).collect()
}

fn give_range(node: &mut Node, ranges: &Ranges) -> Option<Action> {
    let has_one = |node: &Node| {
        node.spec.as_ref()?.pod_cidr.as_ref().filter(|range| !range.is_empty()).cloned()
    };
    if has_one(node).is_some() {
        return None;
    }
    let Some(range) = cidr::choose(ranges) else {
        return Some(status_is(node, "CIDRNotAvailable"));
    };
    let spec = node.spec.get_or_insert_default();
    spec.pod_cidr = Some(range.clone());
    spec.pod_cidrs = Some(vec![range]);
    None
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// A taint by which the condition of a node sends its pods away.
fn is_ours_to_evict(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
}

/// The taints that follow from conditions; others stay as they are. Says when to look again.
fn taint(node: &mut Node, eviction: Eviction, now: Timestamp) -> Option<Timestamp> {
    let status = |kind: &str| condition(node, kind).map(|condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let evicted_for = match status("Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    wanted.extend(evicted_for.map(|key| (key, "NoSchedule")));
    let begun = taints(node).iter().any(is_ours_to_evict);
    let may = match eviction {
        Eviction::Now => true,
        Eviction::Later(_) | Eviction::Halted => begun,
        Eviction::Withdrawn => false,
    };
    wanted.extend(evicted_for.filter(|_| may).map(|key| (key, NO_EXECUTE)));
    let pressures = PRESSURES.iter().filter(|(kind, _)| status(kind) == Some("True"));
    wanted.extend(pressures.map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    set_taints(node, &wanted, now);
    match eviction {
        Eviction::Later(at) if evicted_for.is_some() && !begun => Some(at),
        _ => None,
    }
}

fn set_taints(node: &mut Node, wanted: &[(&str, &str)], now: Timestamp) {
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
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let (key, effect) = ((*key).to_owned(), (*effect).to_owned());
            taints.push(Taint { key, effect, time_added: Some(Time(now)), value: None });
        }
    }
    spec.taints = (!taints.is_empty()).then_some(taints);
}
