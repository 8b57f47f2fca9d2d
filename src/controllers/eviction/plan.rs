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
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let pod = &observed.pod;
    if !pods::is_active(pod) {
        return Vec::new();
    }
    let tolerations =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let Some(end) =
        observed.taints.iter().filter_map(|taint| tolerated_until(taint, tolerations, now)).min()
    else {
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

/// When the pod has to go because of a taint; `None` when it may stay.
fn tolerated_until(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    let mut fitting =
        tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if fitting.peek().is_none() {
        return Some(now);
    }
    let seconds = fitting.filter_map(|toleration| toleration.toleration_seconds).min()?;
    Some(since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX))
}
