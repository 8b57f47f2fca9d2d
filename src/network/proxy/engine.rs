//! The objects as last seen, the ruleset that follows from them, and which of it has to be planned again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::Key;

use super::Node;
use super::health::Report;
use super::plan;
use super::state::{Ids, State};
use super::transaction::{Step, Transaction};
use super::values::{Datagrams, Fragment, Owner};
use crate::inputs::{Pod, Service, Slice};

/// Everything the ruleset depends on. Decides without IO.
pub(crate) struct Engine {
    node: Node,
    services: HashMap<Arc<Key>, Arc<Service>>,
    /// By Service, then by name.
    slices: HashMap<Key, BTreeMap<String, Arc<Slice>>>,
    pods: HashMap<Arc<Key>, Arc<Pod>>,
    ids: Ids,
    state: State,
    health: BTreeMap<u16, Report>,
    dirty: BTreeSet<Owner>,
}

impl Engine {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            node,
            services: HashMap::new(),
            slices: HashMap::new(),
            pods: HashMap::new(),
            ids: Ids::default(),
            state: State::default(),
            health: BTreeMap::new(),
            dirty: [Owner::Node].into(),
        }
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// What the node is changes how everything is planned. True when it did.
    pub(crate) fn set_node(&mut self, node: Node) -> bool {
        if self.node == node {
            return false;
        }
        self.node = node;
        self.dirty.insert(Owner::Node);
        self.dirty.extend(self.services.keys().cloned().map(Owner::Service));
        self.dirty.extend(self.pods.keys().cloned().map(Owner::Pod));
        true
    }

    pub(crate) fn change_service(&mut self, key: &Key, new: Option<Arc<Service>>) {
        let key = Arc::new(key.clone());
        match new {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        self.dirty.insert(Owner::Service(key));
    }

    /// A slice may also move from one Service to another.
    pub(crate) fn change_slice(&mut self, key: &Key, old: Option<&Slice>, new: Option<Arc<Slice>>) {
        if let Some(old) = old.filter(|old| !old.service.is_empty()) {
            let service = (key.0.clone(), old.service.to_string());
            if let Some(slices) = self.slices.get_mut(&service) {
                slices.remove(&key.1);
                if slices.is_empty() {
                    self.slices.remove(&service);
                }
            }
            self.dirty.insert(Owner::Service(Arc::new(service)));
        }
        if let Some(new) = new.filter(|new| !new.service.is_empty()) {
            let service = (key.0.clone(), new.service.to_string());
            self.slices.entry(service.clone()).or_default().insert(key.1.clone(), new);
            self.dirty.insert(Owner::Service(Arc::new(service)));
        }
    }

    pub(crate) fn change_pod(&mut self, key: &Key, new: Option<Arc<Pod>>) {
        let key = Arc::new(key.clone());
        match new {
            Some(pod) => drop(self.pods.insert(key.clone(), pod)),
            None => drop(self.pods.remove(&key)),
        }
        self.dirty.insert(Owner::Pod(key));
    }

    pub(crate) fn reset_services(&mut self, all: Vec<Arc<Service>>) {
        self.dirty.extend(self.services.drain().map(|(key, _)| Owner::Service(key)));
        for service in all {
            self.change_service(&client::key_of(&*service), Some(service));
        }
    }

    pub(crate) fn reset_slices(&mut self, all: Vec<Arc<Slice>>) {
        let gone = self.slices.drain().map(|(key, _)| Owner::Service(Arc::new(key)));
        self.dirty.extend(gone);
        for slice in all {
            self.change_slice(&client::key_of(&*slice), None, Some(slice));
        }
    }

    pub(crate) fn reset_pods(&mut self, all: Vec<Arc<Pod>>) {
        self.dirty.extend(self.pods.drain().map(|(key, _)| Owner::Pod(key)));
        for pod in all {
            self.change_pod(&client::key_of(&*pod), Some(pod));
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Plans again what may have changed, and returns the difference.
    pub(crate) fn plan(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        for owner in std::mem::take(&mut self.dirty) {
            let fragment = match &owner {
                Owner::Node => plan::node(&self.node),
                Owner::Service(key) => self.plan_service(key),
                Owner::Pod(key) => match self.pods.get(key) {
                    Some(pod) => plan::pod(pod, &self.node),
                    None => Fragment::default(),
                },
            };
            self.state.change(&owner, fragment, &self.node, &mut transaction);
        }
        transaction
    }

    fn plan_service(&mut self, key: &Arc<Key>) -> Fragment {
        let ids = &mut self.ids;
        let none = BTreeMap::new();
        let slices = self.slices.get(&**key).unwrap_or(&none);
        let fragment = match self.services.get(key) {
            Some(service) => {
                let slices = slices.values().map(|slice| &**slice);
                plan::service(service, slices, &self.node, |protocol, port| {
                    ids.get(key, (protocol, port))
                })
            }
            None => Fragment::default(),
        };
        ids.retain(key, &fragment.ids);
        self.note_health(key, fragment.usable_here);
        fragment
    }

    fn note_health(&mut self, key: &Key, local_endpoints: usize) {
        let service = self.services.get(key);
        let routing = service.map(|service| &service.routing).filter(|it| it.external_local);
        let port = routing.map(|it| it.health_port).filter(|port| *port != 0);
        let is_own = |report: &Report| (&report.namespace, &report.name) == (&key.0, &key.1);
        self.health.retain(|other, report| Some(*other) == port || !is_own(report));
        if let Some(port) = port {
            let (namespace, name) = key.clone();
            self.health.insert(port, Report { namespace, name, local_endpoints });
        }
    }

    /// The steps that make everything anew, in place of whatever there is.
    pub(crate) fn everything(&self) -> Vec<Step> {
        let mut steps = vec![Step::Replace(Box::new(self.node.clone()))];
        steps.extend(self.state.all(&self.node).steps());
        steps
    }

    pub(crate) fn datagrams(&self) -> Datagrams {
        self.state.datagrams()
    }

    /// What load balancers are told, by port.
    pub(crate) fn health(&self) -> &BTreeMap<u16, Report> {
        &self.health
    }

    /// A failed update is tried again.
    pub(crate) fn set_node_dirty(&mut self) {
        self.dirty.insert(Owner::Node);
    }
}
