//! Plans one ReplicaSet: claims pods, creates and deletes them, computes the status.

use std::collections::BTreeMap;

use client::reference;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

use super::rank;
use crate::action::{Action, Deletion, Tell};
use crate::{ownership, pods};

/// Pods created or deleted by one plan.
const BURST_REPLICAS: usize = 500;

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) set: ReplicaSet,
    /// All pods of the namespace that the set controls or selects.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
    /// Active pods per node of the sets with the same owner, this one included.
    #[serde(default)]
    pub(crate) related: BTreeMap<String, usize>,
    /// What went wrong when the plan was carried out.
    #[serde(default)]
    pub(crate) failure: Option<Failure>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let claimed = claim(observed, &mut actions);
    if observed.set.metadata.deletion_timestamp.is_none() && observed.failure.is_none() {
        manage(observed, &claimed, now, &mut actions);
    }
    let status = status(observed, &claimed, now);
    actions.extend(Action::update_status(&observed.set, &status));
    actions.extend(wake(&observed.set, &claimed, now));
    actions
}

/// What was being done when a plan failed, as a condition names it.
pub(crate) fn failure_reason(observed: &Observed) -> &'static str {
    let active = claim(observed, &mut Vec::new()).iter().filter(|pod| pods::is_active(pod)).count();
    if active > wanted(&observed.set) { "FailedDelete" } else { "FailedCreate" }
}

fn claim(observed: &Observed, actions: &mut Vec<Action>) -> Vec<Pod> {
    let select = observed.set.spec.as_ref().map(|spec| ownership::selector(&spec.selector));
    let select = select.unwrap_or_else(api::LabelSelector::nothing);
    ownership::claim(&observed.set, &select, &observed.pods, pods::is_active, actions)
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

fn template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

fn manage(observed: &Observed, claimed: &[Pod], now: Timestamp, actions: &mut Vec<Action>) {
    let set = &observed.set;
    let active: Vec<&Pod> = claimed.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = wanted(set);
    let about = reference(set);
    if active.len() < wanted {
        let tell = Tell {
            about,
            done: ("SuccessfulCreate", "Created pod"),
            failed: ("FailedCreate", "Error creating"),
        };
        let missing = (wanted - active.len()).min(BURST_REPLICAS);
        if let Some(pod) = new_pod(set) {
            actions.extend((0..missing).map(|_| Action::create(&pod, Some(tell.clone()))));
        }
    } else if active.len() > wanted {
        let tell = Tell {
            about,
            done: ("SuccessfulDelete", "Deleted pod"),
            failed: ("FailedDelete", "Error deleting"),
        };
        let surplus = (active.len() - wanted).min(BURST_REPLICAS);
        let victims = rank::victims(active, &observed.related, surplus, now);
        actions.extend(
            victims
                .into_iter()
                .map(|pod| Action::delete(pod, Deletion::default(), Some(tell.clone()))),
        );
    }
}

/// The pod the template describes.
fn new_pod(set: &ReplicaSet) -> Option<Pod> {
    let template = template(set)?;
    let from = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
        namespace: set.metadata.namespace.clone(),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![ownership::owner_reference(set)]),
        ..ObjectMeta::default()
    };
    Some(Pod { metadata, spec: template.spec.clone(), status: None })
}

fn status(observed: &Observed, claimed: &[Pod], now: Timestamp) -> ReplicaSetStatus {
    let set = &observed.set;
    let old = set.status.clone().unwrap_or_default();
    let labels = template(set)
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let labels = api::LabelSelector::from_map(&labels);
    let active: Vec<&Pod> = claimed.iter().filter(|pod| pods::is_active(pod)).collect();
    let count = |wanted: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| wanted(pod)).count()).unwrap_or(i32::MAX)
    };
    let terminating = claimed.iter().filter(|pod| pods::is_terminating(pod)).count();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: nonzero(count(&|pod| ownership::matches(&labels, &pod.metadata))),
        ready_replicas: nonzero(count(&pods::is_ready)),
        available_replicas: nonzero(count(&|pod| {
            pods::is_available(pod, min_ready_seconds(set), now)
        })),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation.max(old.observed_generation),
        conditions: conditions(old.conditions, observed.failure.as_ref(), now),
    }
}

/// Upstream leaves zero counters out.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some(failure) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.clone()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// When the next pod becomes available by time alone.
fn wake(set: &ReplicaSet, claimed: &[Pod], now: Timestamp) -> Option<Action> {
    let min_ready_seconds = min_ready_seconds(set);
    let active = claimed.iter().filter(|pod| pods::is_active(pod));
    let next = active
        .filter_map(|pod| pods::available_at(pod, min_ready_seconds))
        .filter(|at| *at > now)
        .min()?;
    Some(Action::Wake(next))
}
