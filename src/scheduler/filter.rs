//! Filters: which nodes a pod can run on, and upstream's words for why not.

use k8s_openapi::api::core::v1::Node;

use crate::requests::{Amounts, CPU};
use crate::snapshot::{NodeState, PodFacts};
use crate::taints;

/// Why a node is out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// Ending other pods would help.
    pub(crate) resolvable: bool,
}

impl Refusal {
    pub(crate) fn for_good(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: false }
    }

    pub(crate) fn for_now(reason: &str) -> Self {
        Self { reasons: vec![reason.to_owned()], resolvable: true }
    }
}

/// The first filter, in upstream's order, that a node does not pass.
pub(crate) fn node(facts: &PodFacts, node: &Node, state: &NodeState) -> Option<Refusal> {
    let pod = &*facts.pod;
    if taints::cordoned(pod, node) {
        return Some(Refusal::for_good("node(s) were unschedulable"));
    }
    if taints::untolerated(pod, node) {
        return Some(Refusal::for_good("node(s) had untolerated taint(s)"));
    }
    if !client::fits_node(pod, node) {
        return Some(Refusal::for_good("node(s) didn't match Pod's node affinity/selector"));
    }
    if ports_taken(facts, state) {
        return Some(Refusal::for_now(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    resources(facts, state)
}

fn ports_taken(facts: &PodFacts, state: &NodeState) -> bool {
    let taken = |port: &crate::requests::HostPort| {
        state.pods.values().any(|other| other.host_ports.iter().any(|taken| taken.conflicts(port)))
    };
    facts.host_ports.iter().any(taken)
}

fn resources(facts: &PodFacts, state: &NodeState) -> Option<Refusal> {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    let pods = i64::try_from(state.pods.len()).unwrap_or(i64::MAX);
    if pods.saturating_add(1) > state.pods_max() {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in ordered(&facts.requests).filter(|(_, wanted)| **wanted > 0) {
        let total = state.allocatable.get(name).copied().unwrap_or(0);
        let used = state.requested.get(name).copied().unwrap_or(0);
        if *wanted > total.saturating_sub(used) {
            reasons.push(format!("Insufficient {name}"));
            resolvable &= *wanted <= total;
        }
    }
    (!reasons.is_empty()).then_some(Refusal { reasons, resolvable })
}

/// CPU first, as users are used to see it.
fn ordered(amounts: &Amounts) -> impl Iterator<Item = (&String, &i64)> {
    let cpu = amounts.iter().filter(|(name, _)| *name == CPU);
    cpu.chain(amounts.iter().filter(|(name, _)| *name != CPU))
}
