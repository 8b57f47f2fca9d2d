//! The state a cycle looks at: nodes with the pods on them, as observed and as assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::{Key, key_of};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::requests::{self, Amounts, HostPort};

const PODS: &str = "pods";

/// A pod with what the cycle asks of it, computed once.
#[derive(Debug)]
pub struct PodFacts {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Amounts,
    /// Requests with upstream's defaults for what is not requested; only compared, never enforced.
    pub(crate) estimated: Amounts,
    pub(crate) host_ports: BTreeSet<HostPort>,
    pub(crate) has_anti_affinity: bool,
}

impl PodFacts {
    pub fn new(pod: Arc<Pod>) -> Self {
        let anti =
            pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
        Self {
            requests: requests::of_pod(&pod, false),
            estimated: requests::of_pod(&pod, true),
            host_ports: requests::host_ports(&pod),
            has_anti_affinity: anti.is_some(),
            pod,
        }
    }
}

/// A node and what is taken of it.
#[derive(Debug, Default)]
pub struct NodeState {
    /// `None` while pods name a node that is not there.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    pub(crate) estimated: Amounts,
    pub(crate) pods: BTreeMap<Key, Arc<PodFacts>>,
}

impl NodeState {
    pub(crate) fn pods_max(&self) -> i64 {
        self.allocatable.get(PODS).copied().unwrap_or(0)
    }

    fn count(&mut self, facts: &PodFacts, sign: i64) {
        for (sum, amounts) in
            [(&mut self.requested, &facts.requests), (&mut self.estimated, &facts.estimated)]
        {
            for (name, amount) in amounts {
                let entry = sum.entry(name.clone()).or_insert(0);
                *entry = entry.saturating_add(sign * amount);
            }
        }
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    places: BTreeMap<Key, String>,
    /// Pods placed by us whose binding is not yet observed.
    assumed: BTreeSet<Key>,
    anti_affine: usize,
}

impl Snapshot {
    /// The nodes that are there, ordered by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node, &NodeState)> {
        self.nodes
            .iter()
            .filter_map(|(name, state)| Some((name.as_str(), state.node.as_deref()?, state)))
    }

    /// Pods with anti-affinity terms exist.
    pub(crate) fn has_anti_affinity(&self) -> bool {
        self.anti_affine > 0
    }

    pub fn set_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        match node {
            Some(node) => {
                let state = self.nodes.entry(name.to_owned()).or_default();
                let status = node.status.as_ref();
                let room = status
                    .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
                state.allocatable = requests::amounts(room);
                state.node = Some(node);
            }
            None => {
                if let Some(state) = self.nodes.get_mut(name) {
                    state.node = None;
                }
                self.forget_empty(name);
            }
        }
    }

    /// Takes in a pod as observed; `None` when it is gone or finished.
    pub fn set_pod(&mut self, key: &Key, pod: Option<Arc<Pod>>) {
        let placed = |pod: &Arc<Pod>| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            node.filter(|node| !node.is_empty())
        };
        match pod.as_ref().and_then(placed).zip(pod) {
            Some((node, pod)) => {
                self.remove(key);
                self.insert(node, PodFacts::new(pod));
            }
            // A pod that we have placed stays counted until its binding arrives or fails.
            None if self.assumed.contains(key) => {}
            None => self.remove(key),
        }
    }

    /// A pod is gone, whether or not we have placed it.
    pub fn drop_pod(&mut self, key: &Key) {
        self.remove(key);
    }

    /// Counts a pod on a node before the binding is known to everyone.
    pub fn assume(&mut self, facts: PodFacts, node: &str) {
        let key = key_of(&*facts.pod);
        self.remove(&key);
        self.insert(node.to_owned(), facts);
        self.assumed.insert(key);
    }

    /// The binding failed.
    pub fn forget(&mut self, key: &Key) {
        if self.assumed.contains(key) {
            self.remove(key);
        }
    }

    pub fn is_placed(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// All keys of pods that are counted, to compare with a full list.
    pub fn pod_keys(&self) -> Vec<Key> {
        self.places.keys().filter(|key| !self.assumed.contains(*key)).cloned().collect()
    }

    pub fn node_names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    fn insert(&mut self, node: String, facts: PodFacts) {
        let key = key_of(&*facts.pod);
        let state = self.nodes.entry(node.clone()).or_default();
        state.count(&facts, 1);
        self.anti_affine += usize::from(facts.has_anti_affinity);
        state.pods.insert(key.clone(), Arc::new(facts));
        self.places.insert(key, node);
    }

    fn remove(&mut self, key: &Key) {
        self.assumed.remove(key);
        let Some(node) = self.places.remove(key) else { return };
        if let Some(state) = self.nodes.get_mut(&node)
            && let Some(facts) = state.pods.remove(key)
        {
            state.count(&facts, -1);
            self.anti_affine -= usize::from(facts.has_anti_affinity);
        }
        self.forget_empty(&node);
    }

    fn forget_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|state| state.node.is_none() && state.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}
