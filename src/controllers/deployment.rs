//! The Deployment controller: feeds, observation, registration.

mod fields;
mod plan;
mod revision;
mod rollout;
mod status;
mod work;

use std::sync::Arc;

use client::{Controller, Error, Key, Outcome, controller_of, key_of};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use tokio::sync::watch;

use crate::ownership;
use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 5;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("deployment");
    controller
        .feed(&shell.caches.deployments, |old, new| new.or(old).map(key_of).into_iter().collect());
    let deployments = shell.caches.deployments.clone();
    controller.feed(&shell.caches.replica_sets, move |old, new| {
        let mut keys: Vec<Key> = [old, new].into_iter().flatten().filter_map(owner).collect();
        if let Some(orphan) = new.filter(|set| controller_of(&set.metadata).is_none()) {
            keys.extend(selecting(&deployments.list_in(&key_of(orphan).0), orphan));
        }
        keys.dedup();
        keys
    });
    // A Recreate rollout waits for the end of the old pods.
    let sets = shell.caches.replica_sets.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        let (Some(pod), None) = (old, new) else { return Vec::new() };
        let set = ownership::controller_key(&pod.metadata, "ReplicaSet")
            .and_then(|key| sets.get(&key.0, &key.1));
        set.and_then(|set| owner(&set)).into_iter().collect()
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

fn owner(set: &ReplicaSet) -> Option<Key> {
    ownership::controller_key(&set.metadata, "Deployment")
}

fn selecting(deployments: &[Arc<Deployment>], orphan: &ReplicaSet) -> Vec<Key> {
    let selects = |deployment: &&Arc<Deployment>| {
        let spec = deployment.spec.as_ref();
        spec.is_some_and(|spec| {
            ownership::matches(&ownership::selector(&spec.selector), &orphan.metadata)
        })
    };
    deployments.iter().filter(selects).map(|deployment| key_of(&**deployment)).collect()
}

async fn reconcile(shell: Arc<Shell>, key: Key) -> Result<Outcome, Error> {
    let Some(observed) = observe(&shell, &key) else { return Ok(Outcome::Done) };
    shell.perform(plan(&observed, shell::now())).await
}

fn observe(shell: &Shell, key: &Key) -> Option<Observed> {
    let deployment = shell.caches.deployments.get(&key.0, &key.1)?;
    let sets = shell.caches.replica_sets.list_in(&key.0);
    let sets: Vec<ReplicaSet> = sets.iter().map(|set| (**set).clone()).collect();
    let mut pods = Vec::new();
    if fields::is_recreate(&deployment) {
        let uids: Vec<&str> = sets.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
        let candidates = shell.caches.pods.list_in(&key.0);
        let of_a_set = |owner: &str| uids.contains(&owner);
        let owned = candidates
            .iter()
            .filter(|pod| controller_of(&pod.metadata).is_some_and(|o| of_a_set(&o.uid)));
        pods = owned.map(|pod| (**pod).clone()).collect();
    }
    Some(Observed { deployment: (*deployment).clone(), sets, pods })
}

/// Wanted replicas, surge and how many may be missing, for tests of the planner's promises.
#[cfg(test)]
pub(crate) fn limits(deployment: &Deployment) -> (i32, i32, i32) {
    (
        fields::replicas(deployment),
        fields::max_surge(deployment),
        fields::max_unavailable(deployment),
    )
}
