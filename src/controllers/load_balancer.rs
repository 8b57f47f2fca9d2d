//! Services of type LoadBalancer get the addresses of the nodes, as K3s' ServiceLB gives them, but without pods: the
//! Service proxy of every node answers at them.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Controller, Error, Key, Outcome, key_of};
use k8s_openapi::api::core::v1::{Node, Service};
use tokio::sync::watch;

use crate::endpoints::SERVICE_NAME;
use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 1;

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("load-balancer");
    let services = shell.caches.services.clone();
    controller.feed(&shell.caches.services, move |old, new| {
        if old.map(facts) == new.map(facts) {
            return Vec::new();
        }
        let mut keys: Vec<Key> = new.map(key_of).into_iter().collect();
        // Ports that are claimed or let go concern all that want them.
        if [old, new].into_iter().flatten().any(plan::is_ours) {
            keys.extend(all(&services));
        }
        keys
    });
    let services = shell.caches.services.clone();
    controller.feed(&shell.caches.nodes, move |old, new| {
        if old.map(node_facts) == new.map(node_facts) { Vec::new() } else { all(&services) }
    });
    let services = shell.caches.services.clone();
    controller.feed(&shell.caches.endpoint_slices, move |old, new| {
        let Some(slice) = new.or(old) else { return Vec::new() };
        let labels = slice.metadata.labels.as_ref();
        let name = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let service = name.and_then(|name| services.get(namespace, name));
        let local = service.filter(|service| plan::is_ours(service) && plan::is_local(service));
        local.map(|service| key_of(&*service)).into_iter().collect()
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

/// All Services that want addresses of us.
fn all(services: &Cache<Service>) -> Vec<Key> {
    let services = services.list();
    services
        .iter()
        .filter(|service| plan::is_ours(service))
        .map(|service| key_of(&**service))
        .collect()
}

fn facts(service: &Service) -> impl PartialEq + use<> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.clone());
    let ending = service.metadata.deletion_timestamp.is_some();
    (
        service.metadata.uid.clone(),
        service.metadata.labels.clone(),
        service.spec.clone(),
        balancer,
        ending,
    )
}

fn node_facts(node: &Node) -> impl PartialEq + use<> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
    let labels: Option<BTreeMap<String, String>> = node.metadata.labels.clone();
    (plan::is_ready(node), addresses, labels)
}

async fn reconcile(shell: Arc<Shell>, key: Key) -> Result<Outcome, Error> {
    let caches = &shell.caches;
    let Some(service) = caches.services.get(&key.0, &key.1) else { return Ok(Outcome::Done) };
    let mut observed = Observed { service: (*service).clone(), ..Observed::default() };
    if plan::is_ours(&service) {
        let rivals = caches.services.list();
        let rivals = rivals.iter().filter(|rival| plan::is_ours(rival));
        observed.rivals = rivals.map(|rival| (**rival).clone()).collect();
        observed.nodes = caches.nodes.list().iter().map(|node| (**node).clone()).collect();
    }
    if plan::is_local(&service) {
        let slices = caches.endpoint_slices.list_in(&key.0);
        let ours = |labels: &BTreeMap<String, String>| labels.get(SERVICE_NAME) == Some(&key.1);
        let slices = slices.iter().filter(|slice| slice.metadata.labels.as_ref().is_some_and(ours));
        observed.slices = slices.map(|slice| (**slice).clone()).collect();
    }
    shell.perform(plan(&observed)).await
}
