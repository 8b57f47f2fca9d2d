//! Plans the EndpointSlices of one Service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::SERVICE_NAME;
use super::address::{self, Address, Port};
use super::plan::labels;
use crate::action::{Action, Deletion};
use crate::ownership;

/// Endpoints one slice holds.
const ENDPOINTS_MAX: usize = 100;
const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|value| value == MANAGED_BY.1)
}

pub(super) fn plan(service: &Service, pods: &[Pod], existing: &[EndpointSlice]) -> Vec<Action> {
    let mut free: Vec<&EndpointSlice> = existing.iter().filter(|slice| is_ours(slice)).collect();
    let mut actions = Vec::new();
    for family in families(service) {
        for (ports, endpoints) in wanted(service, pods, family == "IPv6") {
            let new = slice(service, &family, &ports, endpoints);
            let same_family = |old: &&EndpointSlice| old.address_type == new.address_type;
            let same_ports = |old: &&EndpointSlice| list(&old.ports) == list(&new.ports);
            let known = free.iter().position(|old| same_family(old) && same_ports(old));
            let known = known.or_else(|| free.iter().position(same_family));
            match known.map(|index| free.remove(index)) {
                None => actions.push(Action::create(&new, None)),
                Some(old) => {
                    let mut changed = old.clone();
                    if list(&old.endpoints) != list(&new.endpoints) {
                        changed.endpoints = new.endpoints;
                    }
                    if list(&old.ports) != list(&new.ports) {
                        changed.ports = new.ports;
                    }
                    changed.metadata.labels = new.metadata.labels;
                    changed.metadata.owner_references = new.metadata.owner_references;
                    actions.extend(Action::update(old, &changed));
                }
            }
        }
    }
    actions.extend(free.into_iter().map(|slice| Action::delete(slice, Deletion::default(), None)));
    actions
}

/// An absent list and an empty one are the same.
fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

fn families(service: &Service) -> Vec<String> {
    let families =
        service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

/// The slices there should be: by ports, and none larger than allowed. A Service without pods has one empty slice.
fn wanted(service: &Service, pods: &[Pod], ipv6: bool) -> Vec<(Vec<Port>, Vec<Endpoint>)> {
    let mut groups: BTreeMap<Vec<Port>, Vec<Address>> = BTreeMap::new();
    for address in pods.iter().filter_map(|pod| address::of_pod(service, pod, ipv6)) {
        groups.entry(address.ports.clone()).or_default().push(address);
    }
    if groups.is_empty() {
        return vec![(Vec::new(), Vec::new())];
    }
    let mut slices = Vec::new();
    for (ports, mut addresses) in groups {
        addresses.sort_by(|a, b| (&a.ip, &a.target.uid).cmp(&(&b.ip, &b.target.uid)));
        for chunk in addresses.chunks(ENDPOINTS_MAX) {
            slices.push((ports.clone(), chunk.iter().map(endpoint).collect()));
        }
    }
    slices
}

fn endpoint(address: &Address) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(address.ready),
            serving: Some(address.serving),
            terminating: Some(address.terminating),
        }),
        hostname: address.hostname.clone(),
        node_name: address.node.clone(),
        target_ref: Some(address.target.clone()),
        ..Endpoint::default()
    }
}

fn slice(
    service: &Service,
    family: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let port = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service, &[MANAGED_BY, (SERVICE_NAME, &name)])),
            owner_references: Some(vec![ownership::owner_reference(service)]),
            ..ObjectMeta::default()
        },
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(port).collect()),
    }
}
