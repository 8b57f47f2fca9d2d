//! The working copy of a plan: sets are changed in place here, and what changed becomes actions at the end.

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::fields::{DESIRED_REPLICAS, MAX_REPLICAS, annotate, max_surge, replicas, size};
use crate::action::{Action, Deletion};
use crate::pods;

pub(super) struct Work<'a> {
    pub(super) now: Timestamp,
    original: &'a Deployment,
    /// Carries new annotations and, in its status, new conditions; the counters are the observed ones.
    pub(super) deployment: Deployment,
    pub(super) sets: Vec<Set>,
    /// Index of the set that has the current template.
    pub(super) new: Option<usize>,
    pub(super) pods: &'a [Pod],
    claims: Vec<Action>,
    events: Vec<Action>,
    deletions: Vec<Action>,
    pub(super) wake: Option<Timestamp>,
}

pub(super) struct Set {
    /// `None` when the set is yet to be created.
    original: Option<ReplicaSet>,
    pub(super) object: ReplicaSet,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        deployment: &'a Deployment,
        sets: Vec<ReplicaSet>,
        pods: &'a [Pod],
        claims: Vec<Action>,
        now: Timestamp,
    ) -> Self {
        let sets =
            sets.into_iter().map(|set| Set { original: Some(set.clone()), object: set }).collect();
        Self {
            now,
            original: deployment,
            deployment: deployment.clone(),
            sets,
            new: None,
            pods,
            claims,
            events: Vec::new(),
            deletions: Vec::new(),
            wake: None,
        }
    }

    pub(super) fn new_set(&self) -> Option<&ReplicaSet> {
        self.new.map(|index| &self.sets[index].object)
    }

    /// Indexes of the sets that do not have the current template, oldest first.
    pub(super) fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> =
            (0..self.sets.len()).filter(|index| Some(*index) != self.new).collect();
        old.sort_by(|a, b| self.created(*a).cmp(&self.created(*b)));
        old
    }

    /// Creation time, then name, as upstream orders sets; one that is yet to be created is the newest.
    pub(super) fn created(&self, index: usize) -> (Timestamp, &str) {
        let meta = &self.sets[index].object.metadata;
        let time = meta.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        (time, meta.name.as_deref().unwrap_or_default())
    }

    pub(super) fn set(&self, index: usize) -> &ReplicaSet {
        &self.sets[index].object
    }

    /// Sum of the replicas all sets are to have.
    pub(super) fn total_size(&self) -> i32 {
        self.sets.iter().map(|set| size(&set.object)).sum()
    }

    pub(super) fn add_set(&mut self, set: ReplicaSet) -> usize {
        self.sets.push(Set { original: None, object: set });
        self.sets.len() - 1
    }

    /// Gives a set a new size, with the event that tells so; true when the size changed.
    pub(super) fn scale(&mut self, index: usize, to: i32) -> bool {
        let from = size(self.set(index));
        self.annotate_replicas(index);
        if from == to {
            return false;
        }
        self.sets[index].object.spec.get_or_insert_default().replicas = Some(to);
        self.tell_scaled(index, from, to);
        true
    }

    pub(super) fn tell_scaled(&mut self, index: usize, from: i32, to: i32) {
        let direction = if from < to { "up" } else { "down" };
        let name = self.set(index).metadata.name.clone().unwrap_or_default();
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.events.push(Action::event(
            self.original,
            EventType::Normal,
            "ScalingReplicaSet",
            message,
        ));
    }

    /// Notes on a set for which size of the deployment it was scaled last.
    pub(super) fn annotate_replicas(&mut self, index: usize) {
        let desired = replicas(&self.deployment);
        let max = desired.saturating_add(max_surge(&self.deployment));
        let meta = &mut self.sets[index].object.metadata;
        annotate(meta, DESIRED_REPLICAS, &desired.to_string());
        annotate(meta, MAX_REPLICAS, &max.to_string());
    }

    pub(super) fn delete(&mut self, index: usize) {
        let action = Action::delete(self.set(index), Deletion::default(), None);
        self.deletions.push(action);
    }

    /// True while a pod of another set than the new one is not finished.
    pub(super) fn old_pods_running(&self) -> bool {
        let new = self.new_set().and_then(|set| set.metadata.uid.as_deref());
        let of_ours =
            |uid: &str| self.sets.iter().any(|set| set.object.metadata.uid.as_deref() == Some(uid));
        self.pods.iter().any(|pod| {
            let owner = client::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
            owner.is_some_and(|owner| Some(owner) != new && of_ours(owner))
                && !pods::is_finished(pod)
        })
    }

    /// The plan: claims, new sets, changed sets, events, deletions, the deployment and its status.
    pub(super) fn into_actions(self, status: &DeploymentStatus) -> Vec<Action> {
        let changes = self.deployment_actions(status);
        let mut actions = self.claims;
        for set in &self.sets {
            match &set.original {
                None => actions.push(Action::create(&set.object, None)),
                Some(original) => actions.extend(Action::update(original, &set.object)),
            }
        }
        actions.extend(self.events);
        actions.extend(self.deletions);
        actions.extend(changes);
        actions.extend(self.wake.map(Action::Wake));
        actions
    }

    /// Annotations go with the status, as upstream writes them: the generation then stays that of the user's last change.
    fn deployment_actions(&self, status: &DeploymentStatus) -> Vec<Action> {
        if self.original.spec == self.deployment.spec {
            let mut new = self.deployment.clone();
            new.status = Some(status.clone());
            return Action::update_with_status(self.original, &new).into_iter().collect();
        }
        let mut original = self.original.clone();
        // The patch before this one has moved the revision on, and it checked what we looked at.
        original.metadata.resource_version = None;
        let update = Action::update(self.original, &self.deployment);
        update.into_iter().chain(Action::update_status(&original, status)).collect()
    }
}
