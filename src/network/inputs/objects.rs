//! What cluster DNS and the Service proxy read of Services and EndpointSlices, in the form in which they need it. The caches
//! hold these instead of the full objects, so that a Service costs some hundred bytes.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::range::Range;

/// The label that says which Service a slice belongs to.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Labels of Services that somebody else looks after.
const NOT_OURS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// How long a client stays with its endpoint when the Service does not say, in seconds.
const AFFINITY_SECONDS: u32 = 10_800;

/// A port as SRV records show it, and as the proxy opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty when the port has no name.
    pub(crate) name: Box<str>,
    /// As the label of the name: `_tcp`.
    pub(crate) protocol: &'static str,
    pub(crate) number: u16,
    /// The port on all nodes; 0 without one.
    pub(crate) node_port: u16,
}

/// How packets for a Service are treated, beyond its cluster addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    /// Whether somebody else routes it.
    pub(crate) foreign: bool,
    pub(crate) external_ips: Box<[IpAddr]>,
    /// Addresses of the load balancer whose packets arrive with that destination.
    pub(crate) ingress: Box<[IpAddr]>,
    /// Who may use the load balancer; everybody when empty.
    pub(crate) source_ranges: Box<[Range]>,
    /// Seconds for which a client stays with its endpoint.
    pub(crate) affinity: Option<u32>,
    /// Whether packets from outside go to endpoints of this node only.
    pub(crate) external_local: bool,
    /// Whether packets for the cluster address go to endpoints of this node only.
    pub(crate) internal_local: bool,
    /// Where a load balancer asks whether the node has endpoints; 0 for nowhere.
    pub(crate) health_port: u16,
}

/// A Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawService")]
pub(crate) struct Service {
    pub(crate) metadata: ObjectMeta,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) headless: bool,
    pub(crate) external: Option<Box<str>>,
    pub(crate) publish_not_ready: bool,
    pub(crate) ports: Box<[Port]>,
    pub(crate) routing: Routing,
}

/// A backend of a Service.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) node: Option<Box<str>>,
    /// The zones and the nodes that should use it.
    pub(crate) zones: Box<[Box<str>]>,
    pub(crate) nodes: Box<[Box<str>]>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawSlice")]
pub(crate) struct Slice {
    pub(crate) metadata: ObjectMeta,
    /// Empty when the slice belongs to no Service.
    pub(crate) service: Box<str>,
    pub(crate) endpoints: Box<[Endpoint]>,
    pub(crate) ports: Box<[Port]>,
}

// One object that cannot be read would keep all others from being seen, so nothing below is required.

#[derive(Deserialize)]
struct RawService {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<RawSpec>,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    external_name: Option<String>,
    publish_not_ready_addresses: Option<bool>,
    ports: Option<Vec<RawPort>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<RawAffinityConfig>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    health_check_node_port: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<RawClientIp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    load_balancer: Option<RawLoadBalancer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLoadBalancer {
    ingress: Option<Vec<RawIngress>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIngress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    node_port: Option<i64>,
}

#[derive(Deserialize)]
struct RawSlice {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<RawPort>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    hostname: Option<String>,
    conditions: Option<RawConditions>,
    node_name: Option<String>,
    hints: Option<RawHints>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawHints {
    for_zones: Option<Vec<RawHint>>,
    for_nodes: Option<Vec<RawHint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawHint {
    name: String,
}

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let mut spec = raw.spec.unwrap_or_default();
        let external = spec.r#type.as_deref() == Some("ExternalName");
        let routing = routing(&raw.metadata, &spec, raw.status.unwrap_or_default());
        let single = spec.cluster_ip.take();
        let texts = spec.cluster_ips.unwrap_or_else(|| single.into_iter().collect());
        Self {
            metadata: kept(raw.metadata),
            addresses: parsed(&texts),
            headless: texts.iter().any(|text| text == "None"),
            external: spec.external_name.filter(|_| external).map(String::into_boxed_str),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            ports: ports(spec.ports),
            routing,
        }
    }
}

fn routing(metadata: &ObjectMeta, spec: &RawSpec, status: RawStatus) -> Routing {
    let labels = metadata.labels.as_ref();
    let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let balanced = spec.r#type.as_deref() == Some("LoadBalancer");
    let ingress = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let addresses = ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok());
    let affine = spec.session_affinity.as_deref() == Some("ClientIP");
    let client = spec.session_affinity_config.as_ref().and_then(|it| it.client_ip.as_ref());
    let timeout = client.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    Routing {
        foreign: labels.is_some_and(|labels| NOT_OURS.iter().any(|key| labels.contains_key(*key))),
        external_ips: parsed(spec.external_ips.as_deref().unwrap_or_default()),
        ingress: addresses.filter(|_| balanced).collect(),
        source_ranges: ranges.filter_map(|text| text.trim().parse().ok()).collect(),
        affinity: affine.then_some(timeout),
        external_local: is_local(&spec.external_traffic_policy),
        internal_local: is_local(&spec.internal_traffic_policy),
        health_port: number(spec.health_check_node_port),
    }
}

impl From<RawSlice> for Slice {
    fn from(mut raw: RawSlice) -> Self {
        let labels = raw.metadata.labels.as_mut();
        let service = labels.and_then(|labels| labels.remove(SERVICE_NAME)).unwrap_or_default();
        let endpoints = raw.endpoints.unwrap_or_default();
        Self {
            metadata: kept(raw.metadata),
            service: service.into_boxed_str(),
            endpoints: endpoints.into_iter().map(Endpoint::from).collect(),
            ports: ports(raw.ports),
        }
    }
}

impl From<RawEndpoint> for Endpoint {
    fn from(raw: RawEndpoint) -> Self {
        let addresses = raw.addresses.unwrap_or_default();
        // Unknown counts as ready and serving, as the API says.
        let conditions = raw.conditions.unwrap_or_default();
        let hints = raw.hints.unwrap_or_default();
        Self {
            addresses: parsed(&addresses),
            hostname: raw.hostname.filter(|name| !name.is_empty()).map(String::into_boxed_str),
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            node: raw.node_name.map(String::into_boxed_str),
            zones: hinted(hints.for_zones),
            nodes: hinted(hints.for_nodes),
        }
    }
}

fn hinted(hints: Option<Vec<RawHint>>) -> Box<[Box<str>]> {
    hints.into_iter().flatten().map(|hint| hint.name.into_boxed_str()).collect()
}

fn parsed(texts: &[String]) -> Box<[IpAddr]> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn number(raw: Option<i64>) -> u16 {
    raw.and_then(|number| u16::try_from(number).ok()).unwrap_or(0)
}

/// The metadata the caches need.
pub(crate) fn kept(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    }
}

fn ports(raw: Option<Vec<RawPort>>) -> Box<[Port]> {
    let ports = raw.unwrap_or_default().into_iter().filter_map(|port| {
        let protocol = protocol(port.protocol.as_deref())?;
        // A slice's port without a number stands for all ports, which no SRV record can say.
        let name = port.name.unwrap_or_default().into_boxed_str();
        let node_port = number(port.node_port);
        Some(Port { name, protocol, number: u16::try_from(port.port?).ok()?, node_port })
    });
    ports.collect()
}

/// The protocol as the label of a name.
pub(crate) fn protocol(raw: Option<&str>) -> Option<&'static str> {
    match raw.unwrap_or("TCP") {
        "TCP" => Some("_tcp"),
        "UDP" => Some("_udp"),
        "SCTP" => Some("_sctp"),
        _ => None,
    }
}
