//! Reads the fields and annotations a rollout works with.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::template::scaled;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";
/// The value upstream takes as "no limit".
const NO_LIMIT: i32 = i32::MAX;
const DEFAULT_SHARE: &str = "25%";

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    strategy(deployment) == Some("Recreate")
}

pub(super) fn is_rolling_update(deployment: &Deployment) -> bool {
    !is_recreate(deployment)
}

fn strategy(deployment: &Deployment) -> Option<&str> {
    deployment.spec.as_ref()?.strategy.as_ref()?.type_.as_deref()
}

pub(super) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

pub(super) fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    let deadline =
        deployment.spec.as_ref().and_then(|spec: &DeploymentSpec| spec.progress_deadline_seconds);
    deadline.filter(|seconds| *seconds != NO_LIMIT)
}

pub(super) fn history_limit(deployment: &Deployment) -> Option<usize> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit)?;
    if limit == NO_LIMIT { None } else { usize::try_from(limit).ok() }
}

/// How many pods more than wanted a rolling update may make.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling_update(deployment) { fence_posts(deployment).0 } else { 0 }
}

/// How many of the wanted pods may be missing during a rolling update.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if !is_rolling_update(deployment) || replicas(deployment) == 0 {
        return 0;
    }
    fence_posts(deployment).1.min(replicas(deployment))
}

/// Surge rounds up, unavailability down; both zero would stop a rollout, so one pod may then be missing.
fn fence_posts(deployment: &Deployment) -> (i32, i32) {
    let rolling =
        deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.clone());
    let rolling = rolling.unwrap_or_default();
    let share = IntOrString::String(DEFAULT_SHARE.to_owned());
    let total = replicas(deployment);
    let surge = scaled(rolling.max_surge.as_ref().unwrap_or(&share), total, true);
    let unavailable = scaled(rolling.max_unavailable.as_ref().unwrap_or(&share), total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// The replicas a set is to have.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn status_replicas(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Available pods that will stay: a set that was just made smaller still counts the ones that are about to go.
pub(super) fn lasting(set: &ReplicaSet) -> i32 {
    available(set).min(size(set))
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn number(meta: &ObjectMeta, key: &str) -> Option<i64> {
    annotation(meta, key)?.parse().ok()
}

/// Sets an annotation; true when that changed something.
pub(super) fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) -> bool {
    if annotation(meta, key) == Some(value) {
        return false;
    }
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    true
}
