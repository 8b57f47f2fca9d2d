//! Where daemons run: which nodes are meant, what a daemon tolerates, and how its pod is bound to its node.

use client::tolerates;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{ownership, pods};

pub(super) const HASH_LABEL: &str = "controller-revision-hash";
const NAME_FIELD: &str = "metadata.name";
/// What every daemon tolerates, because it is to run wherever a node is.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Tolerated by those that bring the network.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node means to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One daemon is to run there.
    Runs,
    /// None is to be started there; one that runs may stay.
    Stays,
    None,
}

/// A pod as it would be on any node, to ask about nodes.
pub(super) fn sample(set: &DaemonSet) -> Pod {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut spec = template.and_then(|template| template.spec.clone()).unwrap_or_default();
    tolerate(&mut spec);
    Pod { spec: Some(spec), ..Pod::default() }
}

pub(super) fn verdict(sample: &Pod, node: &Node) -> Verdict {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let wanted = pods::node_name(sample);
    if (!wanted.is_empty() && wanted != name) || !client::fits_node(sample, node) {
        return Verdict::None;
    }
    let spec = sample.spec.as_ref();
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effects: &[&str]| {
        let hard = |taint: &&Taint| effects.contains(&taint.effect.as_str());
        taints
            .iter()
            .filter(hard)
            .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    match untolerated(&["NoSchedule", "NoExecute"]) {
        false => Verdict::Runs,
        true if untolerated(&["NoExecute"]) => Verdict::None,
        true => Verdict::Stays,
    }
}

/// Adds what every daemon tolerates, in place of what the template says of the same taint.
fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network.unwrap_or(false).then_some(NETWORK_UNAVAILABLE);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same = |other: &&mut Toleration| {
            other.key == toleration.key
                && other.effect == toleration.effect
                && other.operator == toleration.operator
                && other.value.as_deref().unwrap_or_default().is_empty()
        };
        match tolerations.iter_mut().find(same) {
            Some(known) => *known = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// The daemon for a node; the scheduler binds it there and nowhere else.
pub(super) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Option<Pod> {
    let template = &set.spec.as_ref()?.template;
    let from = template.metadata.clone().unwrap_or_default();
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![ownership::owner_reference(set)]),
        ..ObjectMeta::default()
    };
    let mut spec = template.spec.clone().unwrap_or_default();
    tolerate(&mut spec);
    bind(spec.affinity.get_or_insert_default(), node);
    Some(Pod { metadata, spec: Some(spec), status: None })
}

/// What the affinity required is decided already: it becomes the name of the node.
fn bind(affinity: &mut Affinity, node: &str) {
    let name = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), ..NodeSelectorTerm::default() };
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node a daemon is on, or is to be on.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    let node = pods::node_name(pod);
    if !node.is_empty() {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter());
    let mut named = fields
        .flatten()
        .filter(|field| field.key == NAME_FIELD && field.operator == "In")
        .filter_map(|field| field.values.as_deref()?.first());
    named.next().map(String::as_str)
}
