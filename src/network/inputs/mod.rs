//! The API's objects as cluster DNS and the Service proxy read them: one set of shared caches, trimmed to what is used.

mod node;
mod objects;
mod range;
#[cfg(test)]
mod tests;

use client::{Cache, Client, ListParams};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};

pub(crate) use node::{Node, Pod};
pub(crate) use objects::{Endpoint, Port, Service, Slice};
pub use range::{NotARange, Range};

/// The caches; clones share them, and the last one ends them.
#[derive(Clone)]
pub struct Inputs {
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<Slice>,
    /// The pods of this node.
    pub(crate) pods: Cache<Pod>,
    /// Only this node.
    pub(crate) nodes: Cache<Node>,
}

impl Inputs {
    /// Starts the caches, as the node of that name may read them.
    pub fn start(client: &Client, node_name: &str) -> Self {
        let own_pods = ListParams::all().fields(format!("spec.nodeName={node_name}"));
        let own_node = ListParams::all().fields(format!("metadata.name={node_name}"));
        Self {
            services: Cache::start(client.clone(), ListParams::all()),
            slices: Cache::start(client.clone(), ListParams::all()),
            pods: Cache::start(client.clone(), own_pods),
            nodes: Cache::start(client.clone(), own_node),
        }
    }
}

macro_rules! object {
    ($type:ty, $kind:literal, $group:literal, $api:literal, $plural:literal, $scope:ty) => {
        impl Resource for $type {
            const API_VERSION: &'static str = $api;
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
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

object!(Service, "Service", "", "v1", "services", NamespaceResourceScope);
object!(
    Slice,
    "EndpointSlice",
    "discovery.k8s.io",
    "discovery.k8s.io/v1",
    "endpointslices",
    NamespaceResourceScope
);
object!(Pod, "Pod", "", "v1", "pods", NamespaceResourceScope);
object!(Node, "Node", "", "v1", "nodes", ClusterResourceScope);
