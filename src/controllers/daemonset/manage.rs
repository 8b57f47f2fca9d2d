//! One daemon on every node that is meant, and none elsewhere.

use client::{EventType, key_of};
use k8s_openapi::api::core::v1::Pod;

use super::place::Verdict;
use super::plan::{Changes, Work};
use super::update;
use crate::action::Action;
use crate::pods;

pub(super) fn changes(work: &Work<'_>) -> Changes {
    let mut changes = Changes::default();
    for (node, verdict) in &work.verdicts {
        match (verdict, work.daemons.get(*node)) {
            (Verdict::Runs, None) => changes.start.push((*node).to_owned()),
            (Verdict::Runs | Verdict::Stays, Some(daemons)) => {
                keep(work, node, daemons, &mut changes);
            }
            (Verdict::None, Some(daemons)) => {
                changes.stop.extend(daemons.iter().filter(|pod| !is_ending(pod)).cloned());
            }
            (Verdict::Stays | Verdict::None, None) => {}
        }
    }
    // Nobody will ever bind these: their node went before they came to it.
    let homeless =
        work.daemons.iter().filter(|(node, _)| !work.verdicts.contains_key(node.as_str()));
    let unbound = homeless
        .flat_map(|(_, daemons)| daemons)
        .filter(|pod| pods::node_name(pod).is_empty() && !is_ending(pod));
    changes.stop.extend(unbound.cloned());
    changes
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Finished daemons are replaced, and of several one stays, or an old and a new one while they take turns.
fn keep(work: &Work<'_>, node: &str, daemons: &[Pod], changes: &mut Changes) {
    let mut running = Vec::new();
    for pod in daemons.iter().filter(|pod| !is_ending(pod)) {
        match pods::phase(pod) {
            "Failed" => match work.held_back.get(node).filter(|until| **until > work.now) {
                Some(until) => {
                    changes.wake = [changes.wake, Some(*until)].into_iter().flatten().min();
                }
                None => {
                    changes.events.push(finished(work, pod, node, true));
                    changes.stop.push(pod.clone());
                }
            },
            "Succeeded" => {
                changes.events.push(finished(work, pod, node, false));
                changes.stop.push(pod.clone());
            }
            _ => running.push(pod),
        }
    }
    if running.len() <= 1 {
        return;
    }
    if update::surge(work) == 0 {
        changes.stop.extend(running.into_iter().skip(1).cloned());
        return;
    }
    let (new, old): (Vec<&Pod>, Vec<&Pod>) =
        running.into_iter().partition(|pod| work.is_updated(pod));
    changes.stop.extend(
        new.iter()
            .chain(&old)
            .skip(1)
            .filter(|pod| Some(**pod) != old.first().copied())
            .map(|pod| (**pod).clone()),
    );
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || work.is_available(new))
    {
        changes.stop.push((*old).clone());
    }
}

fn finished(work: &Work<'_>, pod: &Pod, node: &str, failed: bool) -> Action {
    let (namespace, name) = key_of(pod);
    let (kind, reason, state, end) = match failed {
        true => (EventType::Warning, "FailedDaemonPod", "failed", "kill"),
        false => (EventType::Normal, "SucceededDaemonPod", "succeeded", "delete"),
    };
    let message =
        format!("Found {state} daemon pod {namespace}/{name} on node {node}, will try to {end} it");
    Action::event(work.set, kind, reason, message)
}
