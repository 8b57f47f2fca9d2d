//! Endpoints and EndpointSlices of Services with a selector: which addresses a Service stands for.

mod address;
mod mirror;
mod place;
mod plan;
mod slices;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Controller, Error, Key, Outcome, key_of};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio::sync::watch;

use crate::shell::{self, Shell};

pub(crate) use plan::{Observed, plan};

const WORKERS: usize = 4;
/// What of a long name a generated name begins with.
const GENERATED_PREFIX_MAX: usize = 58;
const ZONE: &str = "topology.kubernetes.io/zone";
/// By which a slice names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(crate) async fn run(shell: Arc<Shell>, shutdown: watch::Receiver<bool>) {
    let mut controller = Controller::<Key>::new("endpoints");
    controller
        .feed(&shell.caches.services, |old, new| new.or(old).map(key_of).into_iter().collect());
    let services = shell.caches.services.clone();
    controller.feed(&shell.caches.pods, move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && address::facts(old) == address::facts(new)
        {
            return Vec::new();
        }
        let mut keys: Vec<Key> = Vec::new();
        for pod in [old, new].into_iter().flatten() {
            let around = services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
            keys.extend(
                around
                    .iter()
                    .filter(|service| selects(service, pod))
                    .map(|service| key_of(&**service)),
            );
        }
        keys.sort();
        keys.dedup();
        keys
    });
    controller
        .feed(&shell.caches.endpoints, |old, new| new.or(old).map(key_of).into_iter().collect());
    controller.feed(&shell.caches.endpoint_slices, |old, new| {
        let slice = new.or(old);
        let service =
            slice.and_then(|slice| slice.metadata.labels.as_ref()?.get(SERVICE_NAME).cloned());
        let namespace = slice.and_then(|slice| slice.metadata.namespace.clone());
        namespace.zip(service).into_iter().collect()
    });
    let services = shell.caches.services.clone();
    controller.feed(&shell.caches.nodes, move |old, new| {
        if old.and_then(zone) == new.and_then(zone) {
            return Vec::new();
        }
        services.list().iter().map(|service| key_of(&**service)).collect()
    });
    shell::run(controller, WORKERS, shell, shutdown, reconcile).await;
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE)
}

/// The Service has a selector and it fits the pod.
fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .filter(|labels| !labels.is_empty());
    let labels = pod.metadata.labels.as_ref();
    selector.is_some_and(|selector| {
        selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    })
}

async fn reconcile(shell: Arc<Shell>, key: Key) -> Result<Outcome, Error> {
    let caches = &shell.caches;
    let service = caches.services.get(&key.0, &key.1);
    let of_service = |labels: &Option<BTreeMap<String, String>>| {
        labels
            .as_ref()
            .and_then(|labels| labels.get(SERVICE_NAME))
            .is_some_and(|name| *name == key.1)
    };
    let mut prefix = format!("{}-", key.1);
    prefix.truncate(GENERATED_PREFIX_MAX);
    // Slices that others named are not ours to change.
    let slices = caches.endpoint_slices.list_named(&key.0, &prefix);
    let slices = slices
        .iter()
        .filter(|slice| of_service(&slice.metadata.labels))
        .map(|slice| (**slice).clone())
        .collect();
    let pods = match &service {
        Some(service) => caches
            .pods
            .list_in(&key.0)
            .iter()
            .filter(|pod| selects(service, pod))
            .map(|pod| (**pod).clone())
            .collect(),
        None => Vec::new(),
    };
    let endpoints = caches.endpoints.get(&key.0, &key.1).map(|endpoints| (*endpoints).clone());
    let nodes = caches.nodes.list();
    let zones =
        nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, zone(node)?.clone())));
    let observed = Observed {
        service: service.map(|service| (*service).clone()),
        pods,
        endpoints,
        slices,
        zones: zones.collect(),
    };
    shell::unless_exists(shell.perform(plan(&observed)).await)
}
