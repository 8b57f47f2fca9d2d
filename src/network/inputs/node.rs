//! What the Service proxy reads of this node and of its pods.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::objects::kept;

/// The label with the node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostPort {
    /// As the label of a name: `_tcp`.
    pub(crate) protocol: &'static str,
    /// One address of the node, or all of them.
    pub(crate) address: Option<IpAddr>,
    pub(crate) number: u16,
    pub(crate) container_port: u16,
}

/// A pod of this node.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawPod")]
pub(crate) struct Pod {
    pub(crate) metadata: ObjectMeta,
    /// Empty while it has none, once it has ended, and when it uses the node's.
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) host_ports: Box<[HostPort]>,
}

/// This node.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawNode")]
pub(crate) struct Node {
    pub(crate) metadata: ObjectMeta,
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) zone: Option<Box<str>>,
}

#[derive(Deserialize)]
struct RawPod {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: RawPodSpec,
    #[serde(default)]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    host_network: Option<bool>,
    containers: Option<Vec<RawContainer>>,
    init_containers: Option<Vec<RawContainer>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    restart_policy: Option<String>,
    ports: Option<Vec<RawContainerPort>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerPort {
    protocol: Option<String>,
    container_port: Option<i64>,
    host_port: Option<i64>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<RawPodIp>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodIp {
    ip: Option<String>,
}

#[derive(Deserialize)]
struct RawNode {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    addresses: Option<Vec<RawNodeAddress>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeAddress {
    address: String,
    r#type: String,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let (spec, status) = (raw.spec, raw.status);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let listed = status.pod_ips.into_iter().flatten().filter_map(|it| it.ip);
        let mut addresses: Vec<IpAddr> =
            status.pod_ip.into_iter().chain(listed).filter_map(|it| it.parse().ok()).collect();
        addresses.dedup();
        if ended || spec.host_network == Some(true) {
            addresses.clear();
        }
        let sidecars = spec.init_containers.into_iter().flatten();
        let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
        let containers = spec.containers.into_iter().flatten().chain(sidecars);
        let ports = containers.flat_map(|container| container.ports.unwrap_or_default());
        Self {
            metadata: kept(raw.metadata),
            addresses: addresses.into(),
            host_ports: ports.filter_map(host_port).collect(),
        }
    }
}

fn host_port(raw: RawContainerPort) -> Option<HostPort> {
    let address = raw.host_ip.and_then(|text| text.parse::<IpAddr>().ok());
    Some(HostPort {
        protocol: super::objects::protocol(raw.protocol.as_deref())?,
        address: address.filter(|address| !address.is_unspecified()),
        number: u16::try_from(raw.host_port?).ok().filter(|number| *number != 0)?,
        container_port: u16::try_from(raw.container_port?).ok()?,
    })
}

impl From<RawNode> for Node {
    fn from(mut raw: RawNode) -> Self {
        let zone = raw.metadata.labels.as_mut().and_then(|labels| labels.remove(ZONE));
        let addresses = raw.status.addresses.unwrap_or_default().into_iter();
        let addresses = addresses.filter(|it| matches!(&*it.r#type, "InternalIP" | "ExternalIP"));
        Self {
            metadata: kept(raw.metadata),
            addresses: addresses.filter_map(|it| it.address.parse().ok()).collect(),
            zone: zone.map(String::into_boxed_str),
        }
    }
}
