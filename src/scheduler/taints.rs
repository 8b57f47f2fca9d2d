//! Taints of nodes and what pods tolerate.

use client::tolerates;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn tolerations(pod: &Pod) -> impl Iterator<Item = &Toleration> {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref()).into_iter().flatten()
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten()
}

/// A taint keeps the pod away.
pub(crate) fn untolerated(pod: &Pod, node: &Node) -> bool {
    let hard =
        taints(node).filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    hard.into_iter().any(|taint| !tolerations(pod).any(|toleration| tolerates(toleration, taint)))
}

/// The node is cordoned and the pod does not tolerate that.
pub(crate) fn cordoned(pod: &Pod, node: &Node) -> bool {
    let taint = Taint {
        key: UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        value: None,
        time_added: None,
    };
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    cordoned && !tolerations(pod).any(|toleration| tolerates(toleration, &taint))
}

/// How many soft taints the pod does not tolerate.
pub(crate) fn disliked(pod: &Pod, node: &Node) -> i64 {
    let soft = taints(node).filter(|taint| taint.effect == "PreferNoSchedule");
    let disliked = soft.filter(|taint| {
        let effect = |toleration: &&Toleration| {
            toleration
                .effect
                .as_deref()
                .is_none_or(|effect| effect.is_empty() || effect == "PreferNoSchedule")
        };
        !tolerations(pod).filter(effect).any(|toleration| tolerates(toleration, taint))
    });
    i64::try_from(disliked.count()).unwrap_or(i64::MAX)
}
