//! Plans the EndpointSlices of one Service: what they hold, with as few changes as possible.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::{self, Address, Port};
use super::plan::{Observed, TRIGGER_TIME, labels, trigger_time};
use super::{SERVICE_NAME, place};
use crate::action::Action;
use crate::ownership;

const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

/// The endpoints that share an address family and ports.
pub(super) struct Group {
    pub(super) family: String,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The slice carries the mark of a controller.
pub(super) fn is_managed_by(slice: &EndpointSlice, mark: (&str, &str)) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(mark.0)).is_some_and(|value| value == mark.1)
}

pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    is_managed_by(slice, MANAGED_BY)
}

pub(super) fn plan(service: &Service, observed: &Observed) -> Vec<Action> {
    let existing = observed.slices.iter().filter(|slice| is_ours(slice)).collect();
    let families = families(service);
    let groups = families.iter().flat_map(|family| groups(service, observed, family)).collect();
    let name = service.metadata.name.clone().unwrap_or_default();
    let trigger = trigger_time(service, &observed.pods);
    let model = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels(service, &[MANAGED_BY, (SERVICE_NAME, &name)])),
        annotations: trigger.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), time)])),
        owner_references: Some(vec![ownership::owner_reference(service)]),
        ..ObjectMeta::default()
    };
    place::plan(existing, groups, &model)
}

fn families(service: &Service) -> Vec<String> {
    let families =
        service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

/// The endpoints by ports: pods may mean different numbers by the same name. A Service without pods has one empty group.
fn groups(service: &Service, observed: &Observed, family: &str) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<Port>, Vec<Address>> = BTreeMap::new();
    let of_pod = |pod: &Pod| address::of_pod(service, pod, family == "IPv6");
    for address in observed.pods.iter().filter_map(of_pod) {
        groups.entry(address.ports.clone()).or_default().push(address);
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let group = |(ports, mut addresses): (Vec<Port>, Vec<Address>)| {
        addresses.sort_by(|a, b| (&a.ip, &a.target.uid).cmp(&(&b.ip, &b.target.uid)));
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert((address.ip.clone(), address.target.uid.clone())));
        Group {
            family: family.to_owned(),
            ports: ports.iter().map(port).collect(),
            endpoints: addresses.iter().map(|address| endpoint(address, &observed.zones)).collect(),
        }
    };
    groups.into_iter().map(group).collect()
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &Address, zones: &BTreeMap<String, String>) -> Endpoint {
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
        zone: address.node.as_ref().and_then(|node| zones.get(node).cloned()),
        ..Endpoint::default()
    }
}
