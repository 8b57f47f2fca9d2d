//! What the overlay reads of a Node: its name, its pods' ranges, its addresses and flannel's annotations.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, Resource};
use serde::Deserialize;

use super::addressing::Prefix;
use super::annotations;

/// A Node, some hundred bytes of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "RawNode")]
pub(crate) struct Node {
    /// Name, revision, and of the annotations only flannel's.
    metadata: ObjectMeta,
    pub(crate) pod_ranges: Box<[Prefix]>,
    pub(crate) internal: Box<[IpAddr]>,
}

impl Node {
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

// A node that cannot be read would be cut off, so nothing below is required.

#[derive(Deserialize)]
struct RawNode {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<RawSpec>,
    #[serde(default)]
    status: Option<RawStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    addresses: Option<Vec<RawAddress>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAddress {
    r#type: String,
    address: String,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let spec = raw.spec.unwrap_or_default();
        let ranges = spec.pod_cidrs.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
        let addresses = raw.status.and_then(|status| status.addresses).unwrap_or_default();
        let internal = addresses.iter().filter(|address| address.r#type == "InternalIP");
        let mut kept = raw.metadata.annotations.unwrap_or_default();
        kept.retain(|name, _| name.starts_with(annotations::DOMAIN));
        Self {
            metadata: ObjectMeta {
                name: raw.metadata.name,
                resource_version: raw.metadata.resource_version,
                annotations: Some(kept),
                ..ObjectMeta::default()
            },
            pod_ranges: ranges.iter().filter_map(|text| text.parse().ok()).collect(),
            internal: internal.filter_map(|address| address.address.parse().ok()).collect(),
        }
    }
}

impl Resource for Node {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Node";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "nodes";
    type Scope = ClusterResourceScope;
}

impl Metadata for Node {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
