//! The pure cycle: one pod, one snapshot, one answer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::filter::{self, Refusal};
use crate::interpod::InterPod;
pub use crate::interpod::Namespaces;
use crate::score::{self, Candidate};
use crate::snapshot::{NodeState, PodFacts, Snapshot};
use crate::spread::Spread;

/// Why no node takes the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// In upstream's form: `0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: ...`.
    pub message: String,
}

/// The name of the node for a pod.
pub fn place(
    facts: &PodFacts,
    snapshot: &Snapshot,
    namespaces: &Namespaces,
) -> Result<String, Unschedulable> {
    if let Some(why) = missing_claim(&facts.pod) {
        let refusals = vec![Refusal::for_good(""); snapshot.nodes().count()];
        return Err(Unschedulable { message: message(Some(&why), &refusals) });
    }
    let interpod = InterPod::new(facts, snapshot, namespaces);
    let spread = Spread::new(&facts.pod, snapshot);
    let mut candidates = Vec::new();
    let mut refusals = Vec::new();
    for (name, node, state) in snapshot.nodes() {
        match refusal(facts, node, state, interpod.as_ref(), spread.as_ref()) {
            None => candidates.push(Candidate { name, node, state }),
            Some(refusal) => refusals.push(refusal),
        }
    }
    match score::best(facts, &candidates, interpod.as_ref(), spread.as_ref()) {
        Some(best) => Ok(candidates[best].name.to_owned()),
        None => Err(Unschedulable { message: message(None, &refusals) }),
    }
}

fn refusal(
    facts: &PodFacts,
    node: &Node,
    state: &NodeState,
    interpod: Option<&InterPod<'_>>,
    spread: Option<&Spread<'_>>,
) -> Option<Refusal> {
    filter::node(facts, node, state)
        .or_else(|| spread.and_then(|spread| spread.refusal(node)))
        .or_else(|| interpod.and_then(|interpod| interpod.refusal(node)))
}

/// Persistent volumes are not served, so no claim of one exists.
fn missing_claim(pod: &Pod) -> Option<String> {
    let mut volumes = pod.spec.as_ref()?.volumes.iter().flatten();
    volumes.find_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(format!("persistentvolumeclaim {:?} not found", claim.claim_name)),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{pod}-{}\"",
                volume.name
            ))
        }
        (None, None) => None,
    })
}

/// `general` says why no node will do, whatever the single ones would say.
fn message(general: Option<&str>, refusals: &[Refusal]) -> String {
    let count = refusals.len();
    if count == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let reasons = refusals.iter().flat_map(|refusal| refusal.reasons.iter().map(String::as_str));
    let preemption = refusals.iter().map(|refusal| match refusal.resolvable {
        true => "No preemption victims found for incoming pod",
        false => "Preemption is not helpful for scheduling",
    });
    // Claims of devices are not served, so upstream's sentence on them always holds.
    let available = format!("0/{count} nodes are available");
    let reasons = general.map_or_else(|| tally(reasons), str::to_owned);
    let preemption = tally(preemption);
    format!(
        "{available}: {reasons}. no new claims to deallocate, preemption: {available}: {preemption}."
    )
}

/// `1 this, 2 that`, ordered as upstream orders: by the text that starts with the number.
fn tally<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}
