//! Topology spread constraints.

use std::collections::BTreeMap;

use api::LabelSelector;
use client::controller_of;
use k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::filter::Refusal;
use crate::snapshot::{NodeState, Snapshot};
use crate::{interpod, taints};

/// One constraint with the pods counted per domain.
struct Constraint<'a> {
    of: &'a TopologySpreadConstraint,
    counts: BTreeMap<String, i64>,
    /// 1 when the pod itself is counted by the constraint.
    own: i64,
}

impl Constraint<'_> {
    /// The fewest pods any domain has; too few domains count as an empty one.
    fn least(&self) -> i64 {
        let domains = i32::try_from(self.counts.len()).unwrap_or(i32::MAX);
        if self.of.min_domains.is_some_and(|min| domains < min) {
            return 0;
        }
        self.counts.values().copied().min().unwrap_or(0)
    }
}

/// What one cycle counts once for all nodes.
pub(crate) struct Spread<'a> {
    required: Vec<Constraint<'a>>,
    preferred: Vec<Constraint<'a>>,
    /// Pods of the same owner by the node they are on, for a pod that says nothing of how to spread.
    siblings: BTreeMap<String, i64>,
}

impl<'a> Spread<'a> {
    pub(crate) fn new(pod: &'a Pod, snapshot: &Snapshot) -> Option<Self> {
        let all = pod.spec.as_ref()?.topology_spread_constraints.as_deref().unwrap_or_default();
        if all.is_empty() {
            let siblings = siblings(pod, snapshot)?;
            return Some(Self { required: Vec::new(), preferred: Vec::new(), siblings });
        }
        let (required, preferred): (Vec<_>, Vec<_>) =
            all.iter().partition(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        Some(Self {
            required: count(pod, &required, snapshot),
            preferred: count(pod, &preferred, snapshot),
            siblings: BTreeMap::new(),
        })
    }

    pub(crate) fn refusal(&self, node: &Node) -> Option<Refusal> {
        for constraint in &self.required {
            let Some(domain) = label(node, &constraint.of.topology_key) else {
                return Some(Refusal::for_good(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let here = constraint.counts.get(domain).copied().unwrap_or(0);
            if here + constraint.own - constraint.least() > i64::from(constraint.of.max_skew) {
                return Some(Refusal::for_now(
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        None
    }

    /// Pods already near the node, by the soft constraints: the fewer the better.
    pub(crate) fn crowding(&self, node: &Node) -> i64 {
        let here = |constraint: &Constraint<'_>| {
            label(node, &constraint.of.topology_key)
                .and_then(|domain| constraint.counts.get(domain))
                .copied()
        };
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let siblings = self.siblings.get(name).copied().unwrap_or(0);
        self.preferred.iter().map(|constraint| here(constraint).unwrap_or(0)).sum::<i64>()
            + siblings
    }
}

/// Pods of the same controller by node.
fn siblings(pod: &Pod, snapshot: &Snapshot) -> Option<BTreeMap<String, i64>> {
    let owner = &controller_of(&pod.metadata)?.uid;
    let same = |other: &Pod| {
        other.metadata.deletion_timestamp.is_none()
            && controller_of(&other.metadata).is_some_and(|other| other.uid == *owner)
    };
    let count = |state: &NodeState| state.pods.values().filter(|other| same(&other.pod)).count();
    let counts = snapshot
        .nodes()
        .map(|(name, _, state)| (name.to_owned(), i64::try_from(count(state)).unwrap_or(i64::MAX)));
    Some(counts.collect())
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(key)
}

fn count<'a>(
    pod: &Pod,
    constraints: &[&'a TopologySpreadConstraint],
    snapshot: &Snapshot,
) -> Vec<Constraint<'a>> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&NONE);
    let mut counted = Vec::new();
    for of in constraints {
        let selector = selector(of, labels);
        let mut counts = BTreeMap::new();
        for (_, node, state) in snapshot.nodes() {
            let complete =
                constraints.iter().all(|other| label(node, &other.topology_key).is_some());
            let Some(domain) =
                label(node, &of.topology_key).filter(|_| complete && counts_node(of, pod, node))
            else {
                continue;
            };
            let same = |other: &Pod| {
                other.metadata.namespace == pod.metadata.namespace
                    && other.metadata.deletion_timestamp.is_none()
                    && selector.matches(other.metadata.labels.as_ref().unwrap_or(&NONE))
            };
            let here = state.pods.values().filter(|other| same(&other.pod)).count();
            *counts.entry(domain.clone()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
        }
        counted.push(Constraint { of, counts, own: i64::from(selector.matches(labels)) });
    }
    counted
}

/// The policies say which nodes make up the domains.
fn counts_node(constraint: &TopologySpreadConstraint, pod: &Pod, node: &Node) -> bool {
    let honors =
        |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
    (!honors(&constraint.node_affinity_policy, "Honor") || client::fits_node(pod, node))
        && (!honors(&constraint.node_taints_policy, "Ignore") || !taints::untolerated(pod, node))
}

fn selector(
    constraint: &TopologySpreadConstraint,
    labels: &BTreeMap<String, String>,
) -> LabelSelector {
    let Some(selector) = &constraint.label_selector else { return LabelSelector::nothing() };
    let mut selector = selector.clone();
    let keys = constraint.match_label_keys.iter().flatten();
    for (key, value) in keys.filter_map(|key| Some((key, labels.get(key)?))) {
        selector.match_expressions.get_or_insert_default().push(meta::LabelSelectorRequirement {
            key: key.clone(),
            operator: "In".to_owned(),
            values: Some(vec![value.clone()]),
        });
    }
    interpod::parse(&selector)
}
