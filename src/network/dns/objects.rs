//! What DNS reads of Services and EndpointSlices, in the form in which lookups need it. The caches hold these instead
//! of the full objects, so that a Service costs some hundred bytes.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope, Resource};
use serde::Deserialize;

/// The label that says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A port as SRV records show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty when the port has no name.
    pub(crate) name: Box<str>,
    /// As the label of the name: `_tcp`.
    pub(crate) protocol: &'static str,
    pub(crate) number: u16,
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
}

/// A backend of a headless Service.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) ready: bool,
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
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
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
#[serde(default)]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    hostname: Option<String>,
    conditions: Option<RawConditions>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
}

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let spec = raw.spec.unwrap_or_default();
        let external = spec.r#type.as_deref() == Some("ExternalName");
        let texts = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        Self {
            metadata: kept(raw.metadata),
            addresses: texts.iter().filter_map(|text| text.parse().ok()).collect(),
            headless: texts.iter().any(|text| text == "None"),
            external: spec.external_name.filter(|_| external).map(String::into_boxed_str),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            ports: ports(spec.ports),
        }
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
        Self {
            addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
            hostname: raw.hostname.filter(|name| !name.is_empty()).map(String::into_boxed_str),
            // Unknown counts as ready, as the API says.
            ready: raw.conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        }
    }
}

/// The metadata the caches need.
fn kept(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    }
}

fn ports(raw: Option<Vec<RawPort>>) -> Box<[Port]> {
    let ports = raw.unwrap_or_default().into_iter().filter_map(|port| {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => "_tcp",
            "UDP" => "_udp",
            "SCTP" => "_sctp",
            _ => return None,
        };
        // A slice's port without a number stands for all ports, which no SRV record can say.
        let name = port.name.unwrap_or_default().into_boxed_str();
        Some(Port { name, protocol, number: u16::try_from(port.port?).ok()? })
    });
    ports.collect()
}

macro_rules! object {
    ($type:ty, $kind:literal, $group:literal, $api:literal, $plural:literal) => {
        impl Resource for $type {
            const API_VERSION: &'static str = $api;
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = NamespaceResourceScope;
        }

        impl Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

object!(Service, "Service", "", "v1", "services");
object!(Slice, "EndpointSlice", "discovery.k8s.io", "discovery.k8s.io/v1", "endpointslices");
