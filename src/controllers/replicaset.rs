//! The ReplicaSet controller: feeds, observation, registration.

mod plan;
mod rank;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Controller, Error, Key, Outcome, controller_of, key_of};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::shell::{self, Shell};
use crate::{ownership, pods};

pub(crate) use plan::{Failure, Observed, plan};

const WORKERS: usize = 5;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("replicaset");
    controller
        .feed(&shell.caches.replica_sets, |old, new| new.or(old).map(key_of).into_iter().collect());
    let sets = shell.caches.replica_sets.clone();
    controller.feed(&shell.caches.pods, move |old, new| ownership::concerned(&sets, old, new));
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

async fn reconcile(shell: Arc<Shell>, key: Key) -> Result<Outcome, Error> {
    let Some(mut observed) = observe(&shell, &key) else { return Ok(Outcome::Done) };
    let result = shell.perform(plan(&observed, shell::now())).await;
    if let Err(error) = &result
        && !error.is_conflict()
    {
        let reason = plan::failure_reason(&observed);
        observed.failure = Some(Failure { reason: reason.to_owned(), message: error.to_string() });
        shell.perform(plan(&observed, shell::now())).await?;
    }
    result
}

fn observe(shell: &Shell, key: &Key) -> Option<Observed> {
    let set = shell.caches.replica_sets.get(&key.0, &key.1)?;
    let select = ownership::selector(&set.spec.as_ref()?.selector);
    let uid = set.metadata.uid.as_deref();
    let concerns = |pod: &&Arc<Pod>| ownership::is_claimable(&pod.metadata, uid, &select);
    let pods = shell.caches.pods.list_in(&key.0);
    let related = related(shell, &set, &pods);
    let pods = pods.iter().filter(concerns).map(|pod| (**pod).clone()).collect();
    Some(Observed { set: (*set).clone(), pods, related, failure: None })
}

/// Counts, per node, the active pods of all sets that have the same owner as this one.
fn related(shell: &Shell, set: &ReplicaSet, pods: &[Arc<Pod>]) -> BTreeMap<String, usize> {
    let owner = controller_of(&set.metadata).map(|owner| owner.uid.as_str());
    let siblings: Vec<String> = match owner {
        None => set.metadata.uid.iter().cloned().collect(),
        Some(_) => {
            let sets = shell
                .caches
                .replica_sets
                .list_in(set.metadata.namespace.as_deref().unwrap_or_default());
            let siblings =
                sets.iter().filter(|other| ownership::is_controlled_by(&other.metadata, owner));
            siblings.filter_map(|other| other.metadata.uid.clone()).collect()
        }
    };
    let mut counts = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pods::is_active(pod) && !pods::node_name(pod).is_empty()) {
        let of_sibling =
            controller_of(&pod.metadata).is_some_and(|owner| siblings.contains(&owner.uid));
        if of_sibling {
            *counts.entry(pods::node_name(pod).to_owned()).or_insert(0) += 1;
        }
    }
    counts
}
