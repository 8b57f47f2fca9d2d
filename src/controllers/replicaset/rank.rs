//! Which pods go first when a ReplicaSet has too many.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods that are the least loss.
pub(super) fn victims<'a>(
    mut active: Vec<&'a Pod>,
    related: &BTreeMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<&'a Pod> {
    active.sort_by(|a, b| compare(a, b, related, now));
    active.truncate(count);
    active
}

/// `Less` means that `a` goes before `b`.
fn compare(a: &Pod, b: &Pod, related: &BTreeMap<String, usize>, now: Timestamp) -> Ordering {
    let on_node = |pod: &Pod| related.get(pods::node_name(pod)).copied().unwrap_or(0);
    let assigned = |pod: &Pod| !pods::node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| on_node(b).cmp(&on_node(a)))
        .then_with(|| ready_age(a, now).cmp(&ready_age(b, now)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(a, now).cmp(&age(b, now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost =
        pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages count on a logarithmic scale, so that not always the youngest goes.
fn ready_age(pod: &Pod, now: Timestamp) -> Option<u32> {
    pods::ready_since(pod).map(|since| logarithm(now, since))
}

fn age(pod: &Pod, now: Timestamp) -> u32 {
    // A pod without a creation time counts as the youngest.
    pod.metadata.creation_timestamp.as_ref().map_or(0, |time| logarithm(now, time.0))
}

fn logarithm(now: Timestamp, since: Timestamp) -> u32 {
    let nanoseconds = now.duration_since(since).as_nanos();
    u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(0, |power| power + 1)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}
