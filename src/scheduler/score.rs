//! Scores: which of the possible nodes is best. Each part gives 0 to 100 and is weighted as upstream weighs it.

use k8s_openapi::api::core::v1::Node;

use crate::interpod::InterPod;
use crate::requests::{CPU, MEMORY};
use crate::snapshot::{NodeState, PodFacts};
use crate::spread::Spread;
use crate::taints;

const BEST: i64 = 100;

/// A node that passed the filters.
pub(crate) struct Candidate<'a> {
    pub(crate) name: &'a str,
    pub(crate) node: &'a Node,
    pub(crate) state: &'a NodeState,
}

/// The index of the best candidate; of equal ones the first.
pub(crate) fn best(
    facts: &PodFacts,
    candidates: &[Candidate<'_>],
    interpod: Option<&InterPod<'_>>,
    spread: Option<&Spread<'_>>,
) -> Option<usize> {
    let pod = &*facts.pod;
    let each = |score: &dyn Fn(&Candidate<'_>) -> i64| -> Vec<i64> {
        candidates.iter().map(score).collect()
    };
    let parts = [
        (3, lower_is_better(each(&|candidate| taints::disliked(pod, candidate.node)))),
        (2, higher_is_better(each(&|candidate| client::node_preference(pod, candidate.node)))),
        (
            2,
            lower_is_better(each(&|candidate| {
                spread.map_or(0, |spread| spread.crowding(candidate.node))
            })),
        ),
        (
            2,
            higher_is_better(each(&|candidate| {
                interpod.map_or(0, |interpod| interpod.preference(candidate.node))
            })),
        ),
        (1, each(&|candidate| least_allocated(facts, candidate.state))),
        (1, each(&|candidate| balanced(facts, candidate.state))),
    ];
    let total =
        |index: usize| parts.iter().map(|(weight, scores)| weight * scores[index]).sum::<i64>();
    (0..candidates.len()).rev().max_by_key(|index| total(*index))
}

/// Spreads values over the scale, the lowest at 0.
fn higher_is_better(values: Vec<i64>) -> Vec<i64> {
    let (low, high) =
        (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
    if low == high {
        return vec![0; values.len()];
    }
    values.into_iter().map(|value| BEST * (value - low) / (high - low)).collect()
}

fn lower_is_better(values: Vec<i64>) -> Vec<i64> {
    let high = values.iter().max().copied().unwrap_or(0);
    if high == 0 {
        return vec![BEST; values.len()];
    }
    values.into_iter().map(|value| BEST - BEST * value / high).collect()
}

/// The share that stays free, in the mean of CPU and memory.
fn least_allocated(facts: &PodFacts, state: &NodeState) -> i64 {
    let free = |name: &str| {
        let total = state.allocatable.get(name).copied().unwrap_or(0);
        let wanted = facts.estimated.get(name).copied().unwrap_or(0);
        let used = state.estimated.get(name).copied().unwrap_or(0).saturating_add(wanted);
        if total <= 0 || used > total { 0 } else { (total - used).saturating_mul(BEST) / total }
    };
    i64::midpoint(free(CPU), free(MEMORY))
}

/// How alike the used shares of CPU and memory are.
fn balanced(facts: &PodFacts, state: &NodeState) -> i64 {
    let used = |name: &str| {
        let total = state.allocatable.get(name).copied().unwrap_or(0);
        let wanted = facts.requests.get(name).copied().unwrap_or(0);
        let used = state.requested.get(name).copied().unwrap_or(0).saturating_add(wanted);
        if total <= 0 { 1.0 } else { (used as f64 / total as f64).min(1.0) }
    };
    let deviation = (used(CPU) - used(MEMORY)).abs() / 2.0;
    ((1.0 - deviation) * BEST as f64) as i64
}
