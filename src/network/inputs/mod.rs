//! The API's objects as cluster DNS and the Service proxy read them: one set of shared caches, trimmed to what is used.

mod node;
mod objects;
mod range;
mod record;
#[cfg(test)]
mod tests;

use std::path::Path;

use client::{Cache, Client, ListParams, ResourcePath, Scope};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};

pub(crate) use node::{Node, Pod};
pub(crate) use objects::{Endpoint, Port, Service, Slice};
pub use range::{NotARange, Range};
use record::Recorded;
pub use record::keep;

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
        Self::start_with(client, node_name, None)
    }

    /// Like `start`; until the server answers, Services and pods are those that [`keep`] has recorded.
    pub fn start_recorded(client: &Client, node_name: &str, record: &Path) -> Self {
        Self::start_with(client, node_name, record::load(record))
    }

    fn start_with(client: &Client, node_name: &str, known: Option<Recorded>) -> Self {
        let own_pods = ListParams::all().fields(format!("spec.nodeName={node_name}"));
        let own_node = ListParams::all().fields(format!("metadata.name={node_name}"));
        let (services, slices, pods) = match known {
            Some(known) => (Some(known.services), Some(known.slices), Some(known.pods)),
            None => (None, None, None),
        };
        Self {
            services: Cache::start_known(client.clone(), scope(ListParams::all()), services),
            slices: Cache::start_known(client.clone(), scope(ListParams::all()), slices),
            pods: Cache::start_known(client.clone(), scope(own_pods), pods),
            nodes: Cache::start(client.clone(), own_node),
        }
    }

    /// Waits until the server has said all of it.
    pub(crate) async fn heard(&self) {
        self.services.heard().await;
        self.slices.heard().await;
        self.pods.heard().await;
        self.nodes.heard().await;
    }
}

fn scope<K: Resource>(params: ListParams) -> Scope<K> {
    Scope { resource: ResourcePath::of::<K>(), params, trim: |_| () }
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
