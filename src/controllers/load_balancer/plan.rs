//! Plans the addresses of one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use client::{EventType, key_of};
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;

use crate::action::Action;

/// As K3s has them: once a node has this label, only those where it is `true` are used.
const ENABLED: &str = "svccontroller.k3s.cattle.io/enablelb";
/// With the label above: a Service of a pool only gets the nodes of that pool.
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What a plan is made from.
#[derive(Default, Deserialize)]
pub(crate) struct Observed {
    pub(crate) service: Service,
    #[serde(default)]
    pub(crate) nodes: Vec<Node>,
    /// All Services that want addresses of us, this one included.
    #[serde(default)]
    pub(crate) rivals: Vec<Service>,
    /// The slices of the Service, when only nodes with endpoints are to answer.
    #[serde(default)]
    pub(crate) slices: Vec<EndpointSlice>,
}

/// A port on a node: only one Service can have it.
type Place<'a> = (&'a str, &'a str, i32, &'a str);

fn kind(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP")
}

/// The Service wants addresses, and nobody else is asked for them.
pub(crate) fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    kind(service) == "LoadBalancer"
        && class.is_none_or(str::is_empty)
        && service.metadata.deletion_timestamp.is_none()
}

/// Only nodes with endpoints answer.
pub(crate) fn is_local(service: &Service) -> bool {
    let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
    policy == Some("Local")
}

pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    let service = &observed.service;
    if !is_ours(service) {
        let clear = kind(service) != "LoadBalancer" && !ingress(service).is_empty();
        let cleared = clear.then(|| with_ingress(service, Vec::new())).flatten();
        return cleared.into_iter().collect();
    }
    if let Some(holder) = conflict(observed) {
        let message = format!("Error syncing load balancer: {holder}");
        let event = Action::event(service, EventType::Warning, "SyncLoadBalancerFailed", message);
        return with_ingress(service, Vec::new()).into_iter().chain([event]).collect();
    }
    let addresses = addresses(observed);
    let entry = |ip: &String| LoadBalancerIngress {
        ip: Some(ip.clone()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    };
    let Some(change) = with_ingress(service, addresses.iter().map(entry).collect()) else {
        return Vec::new();
    };
    let event = if addresses.is_empty() {
        let message = "There are no available nodes for LoadBalancer".to_owned();
        Action::event(service, EventType::Warning, "UnAvailableLoadBalancer", message)
    } else {
        let before: Vec<&str> =
            ingress(service).iter().filter_map(|entry| entry.ip.as_deref()).collect();
        let (before, after) = (before.join(" "), addresses.join(" "));
        let message = format!("Updated LoadBalancer with new IPs: [{before}] -> [{after}]");
        Action::event(service, EventType::Normal, "UpdatedLoadBalancer", message)
    };
    vec![change, event]
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// The change to these entries, if it is one.
fn with_ingress(service: &Service, entries: Vec<LoadBalancerIngress>) -> Option<Action> {
    if ingress(service) == entries {
        return None;
    }
    let mut status = service.status.clone().unwrap_or_default();
    status.load_balancer =
        Some(LoadBalancerStatus { ingress: (!entries.is_empty()).then_some(entries) });
    Action::update_status(service, &status)
}

fn label<'a>(
    labels: Option<&'a std::collections::BTreeMap<String, String>>,
    key: &str,
) -> Option<&'a str> {
    labels?.get(key).map(String::as_str)
}

/// The ready nodes that may answer for a Service.
fn eligible<'a>(service: &Service, nodes: &'a [Node]) -> Vec<&'a Node> {
    let of = |node: &'a Node, key| label(node.metadata.labels.as_ref(), key);
    let chosen = nodes.iter().any(|node| of(node, ENABLED).is_some());
    let pool = label(service.metadata.labels.as_ref(), POOL);
    let fits = |node: &&'a Node| {
        !chosen
            || (of(node, ENABLED) == Some("true")
                && pool.is_none_or(|pool| of(node, POOL) == Some(pool)))
    };
    let nodes = nodes.iter().filter(|node| is_ready(node) && of(node, EXCLUDED).is_none());
    nodes.filter(fits).collect()
}

fn families(spec: &ServiceSpec) -> Vec<&str> {
    match spec.ip_families.as_deref() {
        Some(families) if !families.is_empty() => families.iter().map(String::as_str).collect(),
        _ => vec!["IPv4"],
    }
}

fn places<'a>(service: &'a Service, nodes: &'a [Node]) -> Vec<Place<'a>> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut places = Vec::new();
    for node in eligible(service, nodes) {
        let node = node.metadata.name.as_deref().unwrap_or_default();
        for family in families(spec) {
            places.extend(
                spec.ports.iter().flatten().map(|port| {
                    (node, family, port.port, port.protocol.as_deref().unwrap_or("TCP"))
                }),
            );
        }
    }
    places
}

/// Says which older Service has a port that this one wants. One that is refused itself stands in nobody's way.
fn conflict(observed: &Observed) -> Option<String> {
    let age = |service: &Service| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, service.metadata.uid.clone())
    };
    let mut rivals: Vec<&Service> = observed.rivals.iter().collect();
    rivals.sort_by_key(|service| age(service));
    let mut holders: Vec<(&Service, BTreeSet<Place<'_>>)> = Vec::new();
    for rival in rivals {
        let wanted: BTreeSet<Place<'_>> = places(rival, &observed.nodes).into_iter().collect();
        let taken = holders.iter().find_map(|(holder, places)| {
            wanted.intersection(places).next().map(|place| (*holder, *place))
        });
        let is_this = rival.metadata.uid == observed.service.metadata.uid;
        match taken {
            Some((holder, (_, _, port, protocol))) if is_this => {
                let (namespace, name) = key_of(holder);
                return Some(format!(
                    "port {port}/{protocol} is taken by the older Service {namespace}/{name}"
                ));
            }
            None if is_this => return None,
            Some(_) => {}
            None => holders.push((rival, wanted)),
        }
    }
    None
}

/// External addresses if any node has one, else internal ones; in the order of the Service's families.
fn addresses(observed: &Observed) -> Vec<String> {
    let service = &observed.service;
    let answering = is_local(service).then(|| nodes_with_endpoints(&observed.slices));
    let (mut external, mut internal) = (BTreeSet::new(), BTreeSet::new());
    for node in eligible(service, &observed.nodes) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if answering.as_ref().is_some_and(|nodes| !nodes.contains(name)) {
            continue;
        }
        let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
        for address in addresses.into_iter().flatten() {
            match address.type_.as_str() {
                "ExternalIP" => external.insert(address.address.as_str()),
                "InternalIP" => internal.insert(address.address.as_str()),
                _ => false,
            };
        }
    }
    let chosen = if external.is_empty() { internal } else { external };
    let of = |family: &str| {
        let fits =
            |ip: &&&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == "IPv6"));
        chosen.iter().filter(fits).map(|ip| (*ip).to_owned()).collect::<Vec<_>>()
    };
    let families = service.spec.as_ref().map(families).unwrap_or_default();
    families.into_iter().flat_map(of).collect()
}

fn nodes_with_endpoints(slices: &[EndpointSlice]) -> BTreeSet<&str> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
    });
    ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect()
}
