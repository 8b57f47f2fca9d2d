//! Endpoints that somebody wrote by hand for a Service without a selector are mirrored into slices, because slices are
//! what everybody reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{Observed, TRIGGER_TIME};
use super::slices::{Group, is_managed_by};
use super::{SERVICE_NAME, place};
use crate::action::{Action, Deletion};
use crate::ownership;

const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslicemirroring-controller.k8s.io");
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of a subset that are mirrored.
const ADDRESSES_MAX: usize = 1000;

fn is_ours(slice: &EndpointSlice) -> bool {
    is_managed_by(slice, MANAGED_BY)
}

pub(super) fn plan(observed: &Observed) -> Vec<Action> {
    let existing: Vec<&EndpointSlice> =
        observed.slices.iter().filter(|slice| is_ours(slice)).collect();
    let endpoints = observed.endpoints.as_ref().filter(|endpoints| {
        observed.service.as_ref().is_some_and(lacks_selector) && wants_mirror(endpoints)
    });
    let Some(endpoints) = endpoints else { return remove(&existing) };
    let groups = groups(endpoints);
    if groups.is_empty() {
        return remove(&existing);
    }
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let trigger = endpoints.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME));
    let trigger = trigger.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), time.clone())]));
    let model = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: trigger,
        owner_references: Some(vec![ownership::owner_reference(endpoints)]),
        ..ObjectMeta::default()
    };
    place::plan(existing, groups, &model)
}

fn remove(slices: &[&EndpointSlice]) -> Vec<Action> {
    slices.iter().map(|slice| Action::delete(*slice, Deletion::default(), None)).collect()
}

fn lacks_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty) && service.metadata.deletion_timestamp.is_none()
}

fn wants_mirror(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let leader = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER));
    skipped.is_none_or(|skip| skip != "true") && !leader && meta.deletion_timestamp.is_none()
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not).take(ADDRESSES_MAX) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let known =
                groups.iter_mut().position(|group| group.family == family && group.ports == ports);
            let endpoint = endpoint(address, ready);
            match known {
                Some(index) => groups[index].endpoints.push(endpoint),
                None => groups.push(Group {
                    family: family.to_owned(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
