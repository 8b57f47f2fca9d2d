//! The shell of the scheduler: one task owns snapshot and queue; bindings and notes to users run beside it.

use std::sync::Arc;

use client::{
    Cache, Change, Client, Error, EventType, Key, Patch, Recorder, Subscription, key_of, reference,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::interpod;
use crate::place::{Unschedulable, place};
use crate::queue::{Queue, Traits};
use crate::snapshot::{PodFacts, Snapshot};
use crate::{Inputs, SCHEDULER_NAME};

/// Bindings under way at once; further pods wait in the queue.
const BINDINGS_MAX: usize = 64;
/// Conditions being written at once; a pod that is left out gets its condition at the next attempt.
const NOTES_MAX: usize = 64;

pub(crate) struct Scheduler {
    client: Client,
    recorder: Recorder,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    snapshot: Snapshot,
    queue: Queue,
    bindings: JoinSet<(Key, Result<(), Error>)>,
    notes: JoinSet<()>,
}

impl Scheduler {
    pub(crate) fn new(client: Client, inputs: Inputs) -> Self {
        let Inputs { pods, nodes, namespaces } = inputs;
        Self {
            recorder: Recorder::new(client.clone(), SCHEDULER_NAME, None),
            client,
            pods,
            nodes,
            namespaces,
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            bindings: JoinSet::new(),
            notes: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        tokio::select! {
            () = both_synced(&self.pods, &self.nodes) => {}
            _ = shutdown.wait_for(|end| *end) => return,
        }
        loop {
            let due = self.work_is_due();
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|end| *end) => return,
                // What is known is taken in before anything is decided on it.
                change = next(&mut nodes) => self.node_changed(change),
                change = next(&mut pods) => self.pod_changed(change),
                Some(ended) = self.bindings.join_next() => {
                    if let Ok((key, result)) = ended {
                        self.bound(&key, result);
                    }
                }
                () = until(due) => self.place_next(),
            }
            while self.notes.try_join_next().is_some() {}
        }
    }

    /// When a pod can be placed: `Ok` at once, else at a time that may never come.
    fn work_is_due(&mut self) -> Result<(), Option<Instant>> {
        if self.bindings.len() >= BINDINGS_MAX {
            return Err(None);
        }
        if self.queue.is_ready(Instant::now()) { Ok(()) } else { Err(self.queue.deadline()) }
    }

    fn place_next(&mut self) {
        let now = Instant::now();
        let Some(key) = self.queue.pop(now) else { return };
        let Some(pod) = self.pods.get(&key.0, &key.1).filter(|pod| is_pending(pod)) else {
            self.queue.remove(&key);
            return;
        };
        let facts = PodFacts::new(pod.clone());
        let namespaces = self.namespaces.list();
        let namespaces = interpod::namespaces(namespaces.iter().map(|namespace| &**namespace));
        match place(&facts, &self.snapshot, &namespaces) {
            Ok(node) => {
                self.snapshot.assume(facts, &node);
                let (client, recorder) = (self.client.clone(), self.recorder.clone());
                self.bindings.spawn(async move {
                    let result = bind(&client, &pod, &node).await;
                    if result.is_ok() {
                        let message =
                            format!("Successfully assigned {}/{} to {node}", key.0, key.1);
                        recorder.event(&reference(&*pod), EventType::Normal, "Scheduled", message);
                    }
                    (key, result)
                });
            }
            Err(Unschedulable { message }) => {
                self.queue.failed(&key, false, now);
                self.explain(pod, message);
            }
        }
    }

    /// A binding ended.
    fn bound(&mut self, key: &Key, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.queue.remove(key);
                self.queue.wake_social(Instant::now());
            }
            Err(error) => {
                tracing::debug!(pod = %format!("{}/{}", key.0, key.1), %error, "binding failed");
                self.snapshot.forget(key);
                let pod = self.pods.get(&key.0, &key.1);
                match pod {
                    Some(pod) if is_pending(&pod) && !error.is_not_found() => {
                        self.queue.failed(key, true, Instant::now());
                    }
                    _ => self.queue.remove(key),
                }
                self.queue.wake_all(Instant::now());
            }
        }
    }

    fn node_changed(&mut self, change: Change<Node>) {
        match change {
            Change::Object { key, old, new } => {
                let matters = new.as_ref().is_some_and(|new| node_matters(old.as_deref(), new));
                self.snapshot.set_node(&key.1, new);
                if matters {
                    self.queue.wake_all(Instant::now());
                }
            }
            Change::Resync => {
                for name in self.snapshot.node_names() {
                    self.snapshot.set_node(&name, self.nodes.get("", &name));
                }
                for node in self.nodes.list() {
                    self.snapshot.set_node(&key_of(&*node).1, Some(node));
                }
                self.queue.wake_all(Instant::now());
            }
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Object { key, old, new } => self.one_pod_changed(&key, old.as_deref(), new),
            Change::Resync => {
                let mut known = self.snapshot.pod_keys();
                known.extend(self.queue.keys());
                for key in known {
                    let pod = self.pods.get(&key.0, &key.1);
                    self.one_pod_changed(&key, None, pod);
                }
                for pod in self.pods.list() {
                    self.one_pod_changed(&key_of(&*pod), None, Some(pod));
                }
            }
        }
    }

    fn one_pod_changed(&mut self, key: &Key, old: Option<&Pod>, new: Option<Arc<Pod>>) {
        let now = Instant::now();
        let was_placed = self.snapshot.is_placed(key);
        let Some(pod) = new.filter(|pod| !is_finished(pod)) else {
            self.snapshot.drop_pod(key);
            self.queue.remove(key);
            if was_placed {
                self.queue.wake_all(now);
            }
            return;
        };
        if is_pending(&pod) {
            if !self.queue.contains(key) || old.is_none_or(|old| pod_matters(old, &pod)) {
                self.queue.add(key, traits(&pod), now);
            }
            return;
        }
        let newly_placed = !was_placed && !node_name(&pod).is_empty();
        let relabelled = old.is_some_and(|old| old.metadata.labels != pod.metadata.labels);
        self.snapshot.set_pod(key, Some(pod));
        self.queue.remove(key);
        // Somebody else has placed it, or it has become what another pod looks for.
        if newly_placed || relabelled {
            self.queue.wake_social(now);
        }
    }

    /// Tells the user, by event and condition, why a pod waits.
    fn explain(&mut self, pod: Arc<Pod>, message: String) {
        self.recorder.event(
            &reference(&*pod),
            EventType::Warning,
            "FailedScheduling",
            message.clone(),
        );
        if self.notes.len() >= NOTES_MAX {
            return;
        }
        let Some(patch) = condition_patch(&pod, &message, Timestamp::now()) else { return };
        let client = self.client.clone();
        self.notes.spawn(async move {
            let (namespace, name) = key_of(&*pod);
            let patched = client
                .patch_sub::<Pod>(&namespace, &name, "status", &Patch::Strategic(patch))
                .await;
            if let Err(error) = patched {
                tracing::debug!(%error, "condition of a waiting pod not written");
            }
        });
    }
}

async fn until(due: Result<(), Option<Instant>>) {
    match due {
        Ok(()) => {}
        Err(Some(when)) => tokio::time::sleep_until(when).await,
        Err(None) => std::future::pending().await,
    }
}

async fn both_synced(pods: &Cache<Pod>, nodes: &Cache<Node>) {
    pods.synced().await;
    nodes.synced().await;
}

async fn next<K: client::Object>(changes: &mut Subscription<K>) -> Change<K> {
    changes.next().await
}

async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), Error> {
    let (namespace, name) = key_of(pod);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    client.post_sub::<Pod, _, Value>(&namespace, &name, "binding", &binding).await.map(drop)
}

fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn traits(pod: &Pod) -> Traits {
    let Some(spec) = &pod.spec else { return Traits::default() };
    let affine = spec.affinity.as_ref().is_some_and(|affinity| affinity.pod_affinity.is_some());
    Traits {
        priority: spec.priority.unwrap_or(0),
        social: affine
            || spec.topology_spread_constraints.as_ref().is_some_and(|all| !all.is_empty()),
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod asks us for a node.
fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours =
        spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == SCHEDULER_NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    ours && !gated
        && node_name(pod).is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

/// A change that may let a pod in which was refused; our own condition is none.
fn pod_matters(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
}

/// A change that may let pods in; a heartbeat is none.
fn node_matters(old: Option<&Node>, new: &Node) -> bool {
    let Some(old) = old else { return true };
    let room = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let gates = |node: &Node| {
        node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable.unwrap_or(false)))
    };
    room(old) != room(new) || gates(old) != gates(new) || old.metadata.labels != new.metadata.labels
}

/// The patch that sets the condition `PodScheduled`; `None` when it says so already.
fn condition_patch(pod: &Pod, message: &str, now: Timestamp) -> Option<Value> {
    let known = pod.status.as_ref().and_then(|status| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled")
    });
    let same = |condition: &k8s_openapi::api::core::v1::PodCondition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(message)
    };
    if known.is_some_and(same) {
        return None;
    }
    let since = known.filter(|condition| condition.status == "False");
    let since = since
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map_or(now, |time| time.0);
    Some(json!({"status": {"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": api::time::rfc3339(since),
    }]}}))
}
