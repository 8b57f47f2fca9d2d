//! Plans one pod on a tainted node: stay, stay for a while, or go.

use client::{EventType, tolerates};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use serde::Deserialize;

use crate::action::{Action, Deletion};
use crate::pods;

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) pod: Pod,
    /// The `NoExecute` taints of the pod's node.
    #[serde(default)]
    pub(crate) taints: Vec<Taint>,
    /// Since when the pod is seen on a node with such taints, by our own clock.
    pub(crate) since: Timestamp,
}

/// The pod may stay after all.
pub(crate) fn cancelled(pod: &Pod) -> Action {
    let (namespace, name) = client::key_of(pod);
    let message = format!("Cancelling deletion of Pod {namespace}/{name}");
    Action::event(pod, EventType::Normal, "TaintManagerEviction", message)
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let pod = &observed.pod;
    if !pods::is_active(pod) {
        return Vec::new();
    }
    let tolerations =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let Some(end) = tolerated_until(observed, tolerations, now) else {
        return Vec::new();
    };
    if end > now {
        return vec![Action::Wake(end)];
    }
    let (namespace, name) = client::key_of(pod);
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    vec![
        Action::event(pod, EventType::Normal, "TaintManagerEviction", message),
        pods::disrupt(
            pod,
            None,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            now,
        ),
        Action::delete(pod, Deletion::default(), None),
    ]
}

/// When the pod has to go: at once if a taint is not tolerated at all, else after the shortest time that one is
/// tolerated for; `None` when it may stay.
fn tolerated_until(
    observed: &Observed,
    tolerations: &[Toleration],
    now: Timestamp,
) -> Option<Timestamp> {
    let mut shortest = None;
    for taint in &observed.taints {
        let mut fitting =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if fitting.peek().is_none() {
            return Some(now);
        }
        let seconds = fitting.filter_map(|toleration| toleration.toleration_seconds).min();
        shortest = shortest.into_iter().chain(seconds).min();
    }
    let wait = SignedDuration::from_secs(shortest?.max(0));
    Some(observed.since.checked_add(wait).unwrap_or(Timestamp::MAX))
}
