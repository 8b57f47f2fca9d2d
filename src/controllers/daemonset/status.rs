//! The status of a DaemonSet: how many nodes are meant, and how far their daemons are.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::place::Verdict;
use super::plan::Work;
use crate::pods;

pub(super) fn status(work: &Work<'_>) -> DaemonSetStatus {
    let old = work.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: work.set.metadata.generation.max(old.observed_generation),
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for (node, verdict) in &work.verdicts {
        let daemon = work.daemons.get(*node).and_then(|daemons| daemons.first());
        if *verdict != Verdict::Runs {
            status.number_misscheduled += i32::from(daemon.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(daemon) = daemon else { continue };
        status.current_number_scheduled += 1;
        if pods::is_ready(daemon) {
            status.number_ready += 1;
            available += i32::from(work.is_available(daemon));
        }
        updated += i32::from(work.is_updated(daemon));
    }
    status.updated_number_scheduled = nonzero(updated);
    status.number_available = nonzero(available);
    status.number_unavailable = nonzero(status.desired_number_scheduled - available);
    status
}

/// Upstream leaves these counters out when they are zero.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// When the next daemon becomes available by time alone.
pub(super) fn wake(work: &Work<'_>) -> Option<Timestamp> {
    let seconds = work.min_ready_seconds();
    let daemons = work.daemons.values().flatten().filter(|pod| pods::is_active(pod));
    daemons.filter_map(|pod| pods::available_at(pod, seconds)).filter(|at| *at > work.now).min()
}
