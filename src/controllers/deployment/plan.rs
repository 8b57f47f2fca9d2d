//! Plans one Deployment: which path a look takes, from claimed sets to actions.

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::fields::{is_paused, is_recreate};
use super::revision::Collision;
use super::work::Work;
use super::{revision, rollout, status};
use crate::action::Action;
use crate::ownership;

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) deployment: Deployment,
    /// All sets of the namespace.
    #[serde(default)]
    pub(crate) sets: Vec<ReplicaSet>,
    /// The pods of those sets; only looked at by strategy Recreate.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let deployment = &observed.deployment;
    let Some(spec) = &deployment.spec else { return Vec::new() };
    let select = ownership::selector(&spec.selector);
    if select.is_everything() {
        let message =
            "This deployment is selecting all pods. A non-empty selector is required.".to_owned();
        return vec![Action::event(deployment, EventType::Warning, "SelectingAll", message)];
    }
    let mut claims = Vec::new();
    let sets = ownership::claim(deployment, &select, &observed.sets, |_| true, &mut claims);
    let taken: Vec<&str> =
        observed.sets.iter().filter_map(|set| set.metadata.name.as_deref()).collect();
    let mut work = Work::new(deployment, sets, &observed.pods, claims, now);
    match step(&mut work, &taken) {
        Ok(status) => work.into_actions(&status),
        Err(Collision) => count_collision(deployment),
    }
}

fn step(work: &mut Work<'_>, taken: &[&str]) -> Result<DeploymentStatus, Collision> {
    if work.deployment.metadata.deletion_timestamp.is_some() {
        revision::sync(work, taken, false)?;
        return Ok(status::counted(work));
    }
    let paused = is_paused(&work.deployment);
    status::note_pause(work, paused);
    if paused {
        revision::sync(work, taken, false)?;
        rollout::scale(work);
        rollout::clean_up(work);
        return Ok(status::counted(work));
    }
    if rollout::is_scaling(work) {
        revision::sync(work, taken, false)?;
        rollout::scale(work);
        return Ok(status::counted(work));
    }
    if is_recreate(&work.deployment) {
        recreate(work, taken)?
    } else {
        roll(work, taken)?
    }
    Ok(status::of_rollout(work))
}

fn roll(work: &mut Work<'_>, taken: &[&str]) -> Result<(), Collision> {
    revision::sync(work, taken, true)?;
    if !rollout::roll(work) && is_complete(work) {
        rollout::clean_up(work);
    }
    Ok(())
}

fn recreate(work: &mut Work<'_>, taken: &[&str]) -> Result<(), Collision> {
    revision::sync(work, taken, false)?;
    if rollout::stop_old(work) || work.old_pods_running() {
        return Ok(());
    }
    if work.new.is_none() {
        revision::sync(work, taken, true)?;
    }
    if let Some(new) = work.new {
        work.scale(new, super::fields::replicas(&work.deployment));
    }
    if is_complete(work) {
        rollout::clean_up(work);
    }
    Ok(())
}

/// Judged by the status as it was observed, so that old sets stay until the rollout is known to be over.
fn is_complete(work: &Work<'_>) -> bool {
    work.deployment
        .status
        .as_ref()
        .is_some_and(|status| status::is_complete(&work.deployment, status))
}

fn count_collision(deployment: &Deployment) -> Vec<Action> {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    Action::update_status(deployment, &status).into_iter().collect()
}
