//! Rolling updates: how many old daemons may go, or new ones come beside them, at a time.

use k8s_openapi::api::apps::v1::RollingUpdateDaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::place::Verdict;
use super::plan::{Changes, Work};
use crate::template::scaled;

/// The settings of a rolling update, unless daemons are only replaced when somebody deletes them.
fn rolling(work: &Work<'_>) -> Option<RollingUpdateDaemonSet> {
    let strategy = work.set.spec.as_ref()?.update_strategy.clone().unwrap_or_default();
    match strategy.type_.as_deref() {
        None | Some("" | "RollingUpdate") => Some(strategy.rolling_update.unwrap_or_default()),
        Some(_) => None,
    }
}

fn total(work: &Work<'_>) -> i32 {
    i32::try_from(work.wanted()).unwrap_or(i32::MAX)
}

/// Nodes that may have a new daemon beside the old one.
pub(super) fn surge(work: &Work<'_>) -> i32 {
    let settings = rolling(work).and_then(|settings| settings.max_surge);
    settings.map_or(0, |surge| scaled(&surge, total(work), true))
}

/// Nodes that may be without an available daemon.
fn unavailable(work: &Work<'_>) -> i32 {
    let settings = rolling(work).and_then(|settings| settings.max_unavailable);
    let count = scaled(&settings.unwrap_or(IntOrString::Int(1)), total(work), true);
    // Both zero would stop every update.
    if count == 0 && surge(work) == 0 { 1 } else { count }
}

pub(super) fn changes(work: &Work<'_>) -> Changes {
    match rolling(work) {
        None => Changes::default(),
        Some(_) if surge(work) > 0 => surging(work),
        Some(_) => replacing(work),
    }
}

/// The old and the new daemon of a node.
struct Pair<'a> {
    new: Option<&'a Pod>,
    old: Option<&'a Pod>,
}

/// `None` when there is more than one of a kind, which is not ours to settle.
fn pair<'a>(work: &Work<'_>, daemons: &'a [Pod]) -> Option<Pair<'a>> {
    let mut pair = Pair { new: None, old: None };
    for pod in daemons.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = if work.is_updated(pod) { &mut pair.new } else { &mut pair.old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some(pair)
}

/// The daemons of all nodes that have or should have one.
fn places<'a>(work: &'a Work<'_>) -> impl Iterator<Item = (&'a str, &'a [Pod])> {
    let wanted = work.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Runs);
    let missing = wanted.filter(|(node, _)| !work.daemons.contains_key(**node));
    let present = work.daemons.iter().map(|(node, daemons)| (node.as_str(), daemons.as_slice()));
    present.chain(missing.map(|(node, _)| (*node, &[] as &[Pod])))
}

/// Takes old daemons away as far as the missing ones allow; the next look starts new ones there.
fn replacing(work: &Work<'_>) -> Changes {
    let mut missing = 0;
    let mut useless = Vec::new();
    let mut candidates = Vec::new();
    for (_, daemons) in places(work) {
        match pair(work, daemons) {
            Some(Pair { new: Some(new), old: None }) if work.is_available(new) => {}
            Some(Pair { new: None, old: Some(old) }) if work.is_available(old) => {
                candidates.push(old.clone());
            }
            // It serves nobody, so nothing is lost with it.
            Some(Pair { new: None, old: Some(old) }) => {
                missing += 1;
                useless.push(old.clone());
            }
            _ => missing += 1,
        }
    }
    let allowed = usize::try_from(unavailable(work) - missing).unwrap_or(0);
    useless.extend(candidates.into_iter().take(allowed));
    Changes { stop: useless, ..Changes::default() }
}

/// Starts new daemons beside old ones, which go when the new ones are available.
fn surging(work: &Work<'_>) -> Changes {
    let mut changes = Changes::default();
    let mut surging = 0;
    let mut candidates = Vec::new();
    for (node, daemons) in places(work) {
        let runs = work.verdicts.get(node) == Some(&Verdict::Runs);
        match pair(work, daemons) {
            None => surging += 1,
            Some(Pair { old: None, .. }) => {}
            Some(Pair { old: Some(old), new: None }) => match (work.is_available(old), runs) {
                (_, false) => {}
                (false, true) => changes.start.push(node.to_owned()),
                (true, true) => candidates.push(node.to_owned()),
            },
            Some(Pair { old: Some(old), new: Some(new) }) => match work.is_available(new) {
                true => changes.stop.push(old.clone()),
                false => surging += 1,
            },
        }
    }
    let allowed = usize::try_from(surge(work) - surging).unwrap_or(0);
    changes.start.extend(candidates.into_iter().take(allowed));
    changes
}
