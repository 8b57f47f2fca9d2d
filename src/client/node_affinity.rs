//! Node selectors and node affinity: shared by those who place pods and those who count the places.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod,
};

fn of_pod(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

/// The node has what the pod requires of labels and fields.
pub fn fits_node(pod: &Pod, node: &Node) -> bool {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let labelled =
        selector.into_iter().flatten().all(|(key, value)| label(node, key) == Some(value));
    let required = of_pod(pod)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    labelled
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| term_fits(term, node))
        })
}

/// Sum of the weights of the preferences the node meets.
pub fn node_preference(pod: &Pod, node: &Node) -> i64 {
    let preferred = of_pod(pod).and_then(|affinity| {
        affinity.preferred_during_scheduling_ignored_during_execution.as_ref()
    });
    let met =
        preferred.into_iter().flatten().filter(|preferred| term_fits(&preferred.preference, node));
    met.map(|preferred| i64::from(preferred.weight)).sum()
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(key)
}

/// A term without requirements fits nothing.
fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&NONE);
    let mut empty = true;
    for requirement in term.match_expressions.iter().flatten() {
        empty = false;
        if !holds(requirement, labels.get(&requirement.key)) {
            return false;
        }
    }
    for requirement in term.match_fields.iter().flatten() {
        empty = false;
        let field = node.metadata.name.as_ref().filter(|_| requirement.key == "metadata.name");
        if !holds(requirement, field) {
            return false;
        }
    }
    !empty
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |wanted: fn(&i64, &i64) -> bool| {
        let value = value.and_then(|value| value.parse().ok());
        let limit = values.first().and_then(|limit| limit.parse().ok());
        value.zip(limit).is_some_and(|(value, limit)| wanted(&value, &limit))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}
