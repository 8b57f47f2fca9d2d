//! Plans the Endpoints of one Service; the slices are planned next door.

use std::collections::BTreeMap;

use client::key_of;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::address::{self, Address, Port};
use super::{mirror, slices};
use crate::action::{Action, Deletion};
use crate::pods;

/// Addresses one Endpoints object holds; the slices have the rest.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// When that happened which a change of endpoints follows from; measured by those who want to know how long it took.
pub(super) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    #[serde(default)]
    pub(crate) service: Option<Service>,
    /// The pods the Service selects.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
    #[serde(default)]
    pub(crate) endpoints: Option<Endpoints>,
    /// The slices that name the Service.
    #[serde(default)]
    pub(crate) slices: Vec<EndpointSlice>,
    /// The zones of nodes that have one.
    #[serde(default)]
    pub(crate) zones: BTreeMap<String, String>,
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    let mut actions = mirror::plan(observed);
    let Some(service) = &observed.service else {
        actions.extend(forget(observed));
        return actions;
    };
    let spec = service.spec.as_ref();
    let has_selector =
        spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty());
    if !has_selector || service.metadata.deletion_timestamp.is_some() || is_external(service) {
        return actions;
    }
    actions.extend(plan_endpoints(service, &observed.pods, observed.endpoints.as_ref()));
    actions.extend(slices::plan(service, observed));
    actions
}

/// The latest of what can have changed the endpoints: a pod becoming ready or not, or the Service itself.
pub(super) fn trigger_time(service: &Service, all: &[Pod]) -> Option<String> {
    let ready =
        |pod: &Pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0);
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    all.iter().filter_map(ready).chain(created).max().map(api::time::rfc3339)
}

fn is_external(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// A Service that is gone takes what we made for it along.
fn forget(observed: &Observed) -> Vec<Action> {
    let endpoints = observed.endpoints.iter().filter(|endpoints| is_ours(endpoints));
    let endpoints = endpoints.map(|endpoints| Action::delete(endpoints, Deletion::default(), None));
    let ours = observed.slices.iter().filter(|slice| slices::is_ours(slice));
    endpoints.chain(ours.map(|slice| Action::delete(slice, Deletion::default(), None))).collect()
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|value| value == MANAGED_BY.1)
}

/// Labels of the Service, with the marks of what is made for it.
pub(super) fn labels(service: &Service, marks: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let headless =
        service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    if headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels.extend(marks.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    labels
}

fn plan_endpoints(service: &Service, pods: &[Pod], old: Option<&Endpoints>) -> Option<Action> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let ipv6 = families.and_then(|families| families.first()).is_some_and(|first| first == "IPv6");
    let addresses: Vec<Address> =
        pods.iter().filter_map(|pod| address::of_pod(service, pod, ipv6)).collect();
    let (namespace, name) = key_of(service);
    let mut new = old.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    new.metadata.labels = Some(labels(service, &[MANAGED_BY]));
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if addresses.len() > ADDRESSES_MAX {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let subsets = subsets(addresses);
    let known = old.and_then(|old| old.subsets.as_deref()).unwrap_or_default();
    if let Some(time) = trigger_time(service, pods).filter(|_| old.is_none() || known != subsets) {
        annotations.insert(TRIGGER_TIME.to_owned(), time);
    }
    if annotations.is_empty() {
        new.metadata.annotations = None;
    }
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    match old {
        None => Some(Action::create(&new, None)),
        Some(old) => Action::update(old, &new),
    }
}

/// Addresses with the same ports share a subset.
fn subsets(mut addresses: Vec<Address>) -> Vec<EndpointSubset> {
    addresses.sort_by(|a, b| (&a.ip, &a.target.uid).cmp(&(&b.ip, &b.target.uid)));
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    // Pods that end are only in the slices.
    for address in addresses
        .into_iter()
        .filter(|address| !address.terminating || address.ready)
        .take(ADDRESSES_MAX)
    {
        let group = groups.entry(address.ports).or_default();
        let list = if address.ready { &mut group.0 } else { &mut group.1 };
        list.push(EndpointAddress {
            ip: address.ip,
            hostname: address.hostname,
            node_name: address.node,
            target_ref: Some(address.target),
        });
    }
    let filled = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let subset = |(ports, (ready, not_ready)): (Vec<Port>, _)| EndpointSubset {
        addresses: filled(ready),
        not_ready_addresses: filled(not_ready),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(endpoint_port).collect()),
    };
    groups.into_iter().map(subset).collect()
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}
