//! Plans one DaemonSet: claims pods, keeps one on every node that is meant, replaces old ones, computes the status.

use std::collections::BTreeMap;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Deserialize;

use super::place::{self, HASH_LABEL, Verdict};
use super::{history, manage, status, update};
use crate::action::{Action, Deletion, Tell};
use crate::{ownership, pods};

/// Pods created or deleted by one plan.
const BURST: usize = 250;

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) set: DaemonSet,
    #[serde(default)]
    pub(crate) nodes: Vec<Node>,
    /// All pods of the namespace that the set controls or selects.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
    /// All revisions of the namespace that the set controls or selects.
    #[serde(default)]
    pub(crate) revisions: Vec<ControllerRevision>,
    /// Until when failed pods of a node are left where they are.
    #[serde(default)]
    pub(crate) held_back: BTreeMap<String, Timestamp>,
}

/// The set as it is, sorted by nodes.
pub(super) struct Work<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) hash: String,
    pub(super) now: Timestamp,
    pub(super) held_back: &'a BTreeMap<String, Timestamp>,
    /// What every node that is there means to the set.
    pub(super) verdicts: BTreeMap<&'a str, Verdict>,
    /// The pods by the node they are on or are to be on, the oldest first.
    pub(super) daemons: BTreeMap<String, Vec<Pod>>,
}

/// What is to change.
#[derive(Default)]
pub(super) struct Changes {
    /// Nodes that get a daemon.
    pub(super) start: Vec<String>,
    pub(super) stop: Vec<Pod>,
    pub(super) events: Vec<Action>,
    pub(super) wake: Option<Timestamp>,
}

impl Work<'_> {
    pub(super) fn min_ready_seconds(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_seconds(), self.now)
    }

    /// The pod is of the current template.
    pub(super) fn is_updated(&self, pod: &Pod) -> bool {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)) == Some(&self.hash)
    }

    pub(super) fn wanted(&self) -> usize {
        self.verdicts.values().filter(|verdict| **verdict == Verdict::Runs).count()
    }
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let set = &observed.set;
    let Some(spec) = &set.spec else { return Vec::new() };
    let select = ownership::selector(&spec.selector);
    let labels = spec.selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty);
    if labels && spec.selector.match_expressions.as_ref().is_none_or(Vec::is_empty) {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        return vec![Action::event(set, EventType::Warning, "SelectingAll", message.to_owned())];
    }
    let mut actions = Vec::new();
    let claimed = ownership::claim(set, &select, &observed.pods, |_| true, &mut actions);
    if set.metadata.deletion_timestamp.is_some() {
        return actions;
    }
    let hash = history::sync(set, &observed.revisions, &claimed, &mut actions);
    let work = work(observed, claimed, hash, now);
    let mut changes = manage::changes(&work);
    if changes.start.is_empty() && changes.stop.is_empty() {
        let more = update::changes(&work);
        changes.start.extend(more.start);
        changes.stop.extend(more.stop);
    }
    // Before the pods: creating them may fail, and the status should not wait for that.
    actions.extend(Action::update_status(set, &status::status(&work)));
    let wake = [changes.wake, status::wake(&work)].into_iter().flatten().min();
    perform(&work, changes, &mut actions);
    actions.extend(wake.map(Action::Wake));
    actions
}

fn work<'a>(observed: &'a Observed, claimed: Vec<Pod>, hash: String, now: Timestamp) -> Work<'a> {
    let set = &observed.set;
    let sample = place::sample(set);
    let verdict =
        |node: &'a Node| Some((node.metadata.name.as_deref()?, place::verdict(&sample, node)));
    let mut daemons: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for pod in claimed {
        if let Some(node) = place::target(&pod).map(str::to_owned) {
            daemons.entry(node).or_default().push(pod);
        }
    }
    daemons.values_mut().for_each(|pods| pods.sort_by(age));
    Work {
        set,
        hash,
        now,
        held_back: &observed.held_back,
        verdicts: observed.nodes.iter().filter_map(verdict).collect(),
        daemons,
    }
}

/// Pods that have their node come first, then the older, then by name.
fn age(a: &Pod, b: &Pod) -> std::cmp::Ordering {
    let key = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (pods::node_name(pod).is_empty(), created, pod.metadata.name.clone())
    };
    key(a).cmp(&key(b))
}

fn perform(work: &Work<'_>, changes: Changes, actions: &mut Vec<Action>) {
    let tell = |done, failed| Tell { about: client::reference(work.set), done, failed };
    let created = tell(("SuccessfulCreate", "Created pod"), ("FailedCreate", "Error creating"));
    let deleted = tell(("SuccessfulDelete", "Deleted pod"), ("FailedDelete", "Error deleting"));
    actions.extend(changes.events);
    for node in changes.start.iter().take(BURST) {
        let pod = place::new_pod(work.set, node, &work.hash);
        actions.extend(pod.map(|pod| Action::create(&pod, Some(created.clone()))));
    }
    for pod in changes.stop.iter().take(BURST) {
        actions.push(Action::delete(pod, Deletion::default(), Some(deleted.clone())));
    }
}
