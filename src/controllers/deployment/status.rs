//! The status of a Deployment: counters and conditions.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::fields::{available, max_unavailable, progress_deadline, replicas, status_replicas};
use super::revision::Conditions;
use super::work::Work;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition<'a>(
    deployment: &'a Deployment,
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    deployment
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

pub(super) fn new(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Replaces a condition when its status or reason changed.
pub(super) fn set(conditions: &mut Conditions, mut condition: DeploymentCondition) {
    let conditions = conditions.get_or_insert_default();
    let current = conditions.iter().position(|known| known.type_ == condition.type_);
    if let Some(current) = current {
        let known = &conditions[current];
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
        conditions.remove(current);
    }
    conditions.push(condition);
}

fn remove(conditions: &mut Conditions, kind: &str) {
    if let Some(conditions) = conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// Tells in the conditions that a rollout was paused or resumed.
pub(super) fn note_pause(work: &mut Work<'_>, paused: bool) {
    if progress_deadline(&work.deployment).is_none() {
        return;
    }
    let reason =
        condition(&work.deployment, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let change = match (paused, reason == Some("DeploymentPaused")) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    let note = new(PROGRESSING, "Unknown", change.0, change.1.to_owned(), work.now);
    set(&mut work.deployment.status.get_or_insert_default().conditions, note);
}

/// Counters and the Available condition, without a judgement of progress.
pub(super) fn counted(work: &Work<'_>) -> DeploymentStatus {
    let deployment = &work.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| {
        work.sets.iter().map(|set| count(&set.object)).sum::<i32>()
    };
    let (total, free) = (sum(&status_replicas), sum(&available));
    let ready =
        sum(&|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let terminating =
        sum(&|set| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0));
    let mut conditions = old.conditions;
    let enough = free >= replicas(deployment) - max_unavailable(deployment);
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, new(AVAILABLE, status, reason, message.to_owned(), work.now));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(total),
        updated_replicas: nonzero(work.new_set().map_or(0, status_replicas)),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(free),
        unavailable_replicas: nonzero((total - free).max(0)),
        terminating_replicas: Some(terminating),
        collision_count: old.collision_count,
        conditions,
    }
}

/// Upstream leaves zero counters out.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The status of a rollout: counters, progress, failures; sets the time to look again.
pub(super) fn of_rollout(work: &mut Work<'_>) -> DeploymentStatus {
    let mut status = counted(work);
    if progress_deadline(&work.deployment).is_none() {
        remove(&mut status.conditions, PROGRESSING);
    } else {
        judge_progress(work, &mut status);
    }
    match replica_failure(work) {
        Some(failure) => set(&mut status.conditions, failure),
        None => remove(&mut status.conditions, REPLICA_FAILURE),
    }
    work.wake = deadline(&work.deployment, &status, work.now);
    status
}

fn judge_progress(work: &Work<'_>, status: &mut DeploymentStatus) {
    let deployment = &work.deployment;
    let current = condition(deployment, PROGRESSING).cloned();
    let was_done = current.as_ref().and_then(|condition| condition.reason.as_deref()) == Some(DONE);
    if was_done && status.replicas == status.updated_replicas {
        return;
    }
    let what = match work.new_set() {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
        None => {
            format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default())
        }
    };
    if is_complete(deployment, status) {
        let message = format!("{what} has successfully progressed.");
        set(&mut status.conditions, new(PROGRESSING, "True", DONE, message, work.now));
    } else if has_progressed(deployment, status) {
        let message = format!("{what} is progressing.");
        let mut condition = new(PROGRESSING, "True", "ReplicaSetUpdated", message, work.now);
        if let Some(current) = current.filter(|current| current.status == "True") {
            condition.last_transition_time = current.last_transition_time;
        }
        remove(&mut status.conditions, PROGRESSING);
        set(&mut status.conditions, condition);
    } else if is_timed_out(deployment, status, work.now) {
        let message = format!("{what} has timed out progressing.");
        set(&mut status.conditions, new(PROGRESSING, "False", TIMED_OUT, message, work.now));
    }
}

/// All wanted pods are updated and available, and no other ones are left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = nonzero(replicas(deployment));
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let count = |value: Option<i32>| value.unwrap_or(0);
    let outdated =
        |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn progressing(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == PROGRESSING)
}

fn is_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    match progressing(status).and_then(|condition| condition.reason.as_deref()) {
        None | Some(DONE) => false,
        Some(TIMED_OUT) => true,
        Some(_) => expires(deployment, status).is_some_and(|at| at < now),
    }
}

fn expires(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let since = progressing(status)?.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(progress_deadline(deployment)?.into())).ok()
}

/// When the rollout counts as stuck, if nothing happens before.
fn deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Timestamp> {
    let reason = progressing(status)?.reason.as_deref();
    if is_complete(deployment, status) || reason == Some(TIMED_OUT) || reason == Some(DONE) {
        return None;
    }
    // Stored times have whole seconds, so one more makes sure that the deadline is over.
    let at = expires(deployment, status)?.checked_add(SignedDuration::from_secs(1)).ok()?;
    Some(at.max(now))
}

/// The failure of the new set, or else of any.
fn replica_failure(work: &Work<'_>) -> Option<DeploymentCondition> {
    let new = work.new_set().into_iter();
    let mut sets = new.chain(work.sets.iter().map(|set| &set.object));
    sets.find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.iter().flatten();
        let failure =
            conditions.into_iter().find(|condition| condition.type_ == REPLICA_FAILURE)?;
        Some(DeploymentCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    })
}
