//! Comparing a status with what the API server has.

use k8s_openapi::api::core::v1::PodStatus;

pub(crate) fn ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Equal as far as the agent is concerned: other writers' conditions do not count.
pub(crate) fn same(ours: &PodStatus, sent: &PodStatus) -> bool {
    let own = |status: &PodStatus| -> Vec<_> {
        let kinds: Vec<&str> = ours.conditions.iter().flatten().map(|c| c.type_.as_str()).collect();
        let mut list: Vec<_> = status.conditions.iter().flatten().cloned().collect();
        list.retain(|c| kinds.contains(&c.type_.as_str()));
        list.sort_by(|a, b| a.type_.cmp(&b.type_));
        list
    };
    let bare = |status: &PodStatus| PodStatus { conditions: None, ..status.clone() };
    ours == sent || (own(ours) == own(sent) && bare(ours) == bare(sent))
}
