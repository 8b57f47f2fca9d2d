//! The DaemonSet controller: feeds, observation, registration.

mod history;
mod manage;
mod place;
mod plan;
mod status;
mod update;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Controller, Error, Key, Outcome, key_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::action::Action;
use crate::shell::{self, Shell};
use crate::{ownership, pods};

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 2;
/// Failed pods are replaced at first after this time, then at ever longer ones.
const REPLACE_FIRST: Duration = Duration::from_secs(1);
const REPLACE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Places of failed pods that are remembered.
const REPLACED_MAX: usize = 4096;

/// When pods that failed were replaced, and how long to wait before the next time.
type Replaced = Mutex<BTreeMap<(String, String), (Instant, Duration)>>;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("daemonset");
    controller
        .feed(&shell.caches.daemon_sets, |old, new| new.or(old).map(key_of).into_iter().collect());
    let sets = shell.caches.daemon_sets.clone();
    controller.feed(&shell.caches.pods, move |old, new| ownership::concerned(&sets, old, new));
    controller.feed(&shell.caches.controller_revisions, |old, new| {
        let owners = [old, new].into_iter().flatten();
        owners
            .filter_map(|revision| ownership::controller_key(&revision.metadata, "DaemonSet"))
            .collect()
    });
    let sets = shell.caches.daemon_sets.clone();
    controller.feed(&shell.caches.nodes, move |old, new| {
        if old.map(place) == new.map(place) {
            return Vec::new();
        }
        sets.list().iter().map(|set| key_of(&**set)).collect()
    });
    let replaced = Arc::new(Replaced::default());
    shell::run(controller, WORKERS, shell, shutdown, move |shell, key| {
        reconcile(shell, replaced.clone(), key)
    })
    .await;
}

/// What of a node decides about daemons.
#[derive(PartialEq, Eq)]
struct Place<'a> {
    labels: Option<&'a BTreeMap<String, String>>,
    taints: Vec<(&'a str, Option<&'a str>, &'a str)>,
}

fn place(node: &Node) -> Place<'_> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let taints = taints.into_iter().flatten();
    let taints = taints.map(|taint| (&*taint.key, taint.value.as_deref(), &*taint.effect));
    Place { labels: node.metadata.labels.as_ref(), taints: taints.collect() }
}

async fn reconcile(shell: Arc<Shell>, replaced: Arc<Replaced>, key: Key) -> Result<Outcome, Error> {
    let now = shell::now();
    let Some(observed) = observe(&shell, &replaced, &key, now) else { return Ok(Outcome::Done) };
    let actions = plan(&observed, now);
    note(&replaced, &observed, &actions);
    shell.perform(actions).await
}

fn observe(shell: &Shell, replaced: &Replaced, key: &Key, now: Timestamp) -> Option<Observed> {
    let set = shell.caches.daemon_sets.get(&key.0, &key.1)?;
    let select = ownership::selector(&set.spec.as_ref()?.selector);
    let uid = set.metadata.uid.as_deref();
    let concerns = |meta: &ObjectMeta| ownership::is_claimable(meta, uid, &select);
    let pods = shell.caches.pods.list_in(&key.0);
    let pods = pods.iter().filter(|pod| concerns(&pod.metadata));
    let revisions = shell.caches.controller_revisions.list_in(&key.0);
    let revisions = revisions.iter().filter(|revision| concerns(&revision.metadata));
    Some(Observed {
        pods: pods.map(|pod| (**pod).clone()).collect(),
        revisions: revisions.map(|revision| (**revision).clone()).collect(),
        nodes: shell.caches.nodes.list().iter().map(|node| (**node).clone()).collect(),
        held_back: held_back(replaced, uid.unwrap_or_default(), now),
        set: (*set).clone(),
    })
}

/// Until when failed pods of a set are left where they are, by node.
fn held_back(replaced: &Replaced, uid: &str, now: Timestamp) -> BTreeMap<String, Timestamp> {
    let mut replaced = replaced.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    replaced.retain(|_, (last, wait)| last.elapsed() < wait.saturating_mul(2));
    let of_set = replaced.iter().filter(|((set, _), _)| set == uid);
    let until = of_set.map(|((_, node), (last, wait))| {
        let left = wait.saturating_sub(last.elapsed());
        (node.clone(), now.checked_add(left).unwrap_or(Timestamp::MAX))
    });
    until.collect()
}

/// Takes down which failed pods are replaced.
fn note(replaced: &Replaced, observed: &Observed, actions: &[Action]) {
    let uid = observed.set.metadata.uid.clone().unwrap_or_default();
    for action in actions {
        let Action::Delete { target, .. } = action else { continue };
        let failed = observed.pods.iter().find(|pod| {
            pods::phase(pod) == "Failed" && pod.metadata.uid.as_ref() == Some(&target.uid)
        });
        let Some(node) = failed.and_then(place::target) else { continue };
        let mut replaced = replaced.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = (uid.clone(), node.to_owned());
        let wait = replaced.get(&place).map(|(_, wait)| wait.saturating_mul(2));
        let wait = wait.unwrap_or(REPLACE_FIRST).min(REPLACE_LIMIT);
        if replaced.len() < REPLACED_MAX {
            replaced.insert(place, (Instant::now(), wait));
        }
    }
}
