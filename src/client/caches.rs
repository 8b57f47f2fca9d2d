//! The caches that the control plane's parts of one process share.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Cache, Client, ListParams, Object, ResourcePath, Scope};

/// The ConfigMap by which every namespace knows the cluster's CA.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";
/// Where nodes renew their leases.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// Written by `kubectl apply`, read by nobody else, and as large as the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One cache per kind; clones share them.
#[derive(Clone)]
pub struct Caches {
    pub pods: Cache<Pod>,
    pub nodes: Cache<Node>,
    pub namespaces: Cache<Namespace>,
    pub services: Cache<Service>,
    pub service_accounts: Cache<ServiceAccount>,
    pub deployments: Cache<Deployment>,
    pub replica_sets: Cache<ReplicaSet>,
    pub daemon_sets: Cache<DaemonSet>,
    pub controller_revisions: Cache<ControllerRevision>,
    pub endpoints: Cache<Endpoints>,
    pub endpoint_slices: Cache<EndpointSlice>,
    /// Only those of nodes.
    pub node_leases: Cache<Lease>,
    /// Only those named [`ROOT_CA_CONFIG_MAP`].
    pub root_cas: Cache<ConfigMap>,
}

impl Caches {
    pub fn start(client: &Client) -> Self {
        let all = ListParams::all;
        Self {
            pods: start(client, all()),
            nodes: start_with(client, all(), |node| {
                without_last_applied(node);
                if let Some(status) = &mut node.status {
                    status.images = None;
                }
            }),
            namespaces: start(client, all()),
            services: start(client, all()),
            service_accounts: start(client, all()),
            deployments: start(client, all()),
            replica_sets: start(client, all()),
            daemon_sets: start(client, all()),
            controller_revisions: start(client, all()),
            endpoints: start(client, all()),
            endpoint_slices: start(client, all()),
            node_leases: start(client, all().namespace(NODE_LEASE_NAMESPACE)),
            root_cas: start(client, all().fields(format!("metadata.name={ROOT_CA_CONFIG_MAP}"))),
        }
    }

    /// Waits until the cache of a kind has seen `revision`; kinds without a cache need no waiting.
    pub async fn caught_up(&self, resource: ResourcePath, revision: u64, limit: Duration) -> bool {
        match resource.plural {
            "pods" => self.pods.caught_up(revision, limit).await,
            "nodes" => self.nodes.caught_up(revision, limit).await,
            "namespaces" => self.namespaces.caught_up(revision, limit).await,
            "serviceaccounts" => self.service_accounts.caught_up(revision, limit).await,
            "configmaps" => self.root_cas.caught_up(revision, limit).await,
            "deployments" => self.deployments.caught_up(revision, limit).await,
            "replicasets" => self.replica_sets.caught_up(revision, limit).await,
            "daemonsets" => self.daemon_sets.caught_up(revision, limit).await,
            "controllerrevisions" => self.controller_revisions.caught_up(revision, limit).await,
            "services" => self.services.caught_up(revision, limit).await,
            "endpoints" => self.endpoints.caught_up(revision, limit).await,
            "endpointslices" => self.endpoint_slices.caught_up(revision, limit).await,
            _ => true,
        }
    }

    /// Waits until the cache of a kind knows that an object is deleted or being deleted.
    pub async fn deletion_seen(
        &self,
        resource: ResourcePath,
        key: (&str, &str),
        uid: &str,
        limit: Duration,
    ) -> bool {
        match resource.plural {
            "pods" => deletion_seen(&self.pods, key, uid, limit).await,
            "replicasets" => deletion_seen(&self.replica_sets, key, uid, limit).await,
            "endpoints" => deletion_seen(&self.endpoints, key, uid, limit).await,
            "endpointslices" => deletion_seen(&self.endpoint_slices, key, uid, limit).await,
            _ => true,
        }
    }
}

async fn deletion_seen<K: Object>(
    cache: &Cache<K>,
    key: (&str, &str),
    uid: &str,
    limit: Duration,
) -> bool {
    let seen = |cache: &Cache<K>, _| {
        cache.get(key.0, key.1).is_none_or(|object| {
            let meta = object.metadata();
            meta.uid.as_deref() != Some(uid) || meta.deletion_timestamp.is_some()
        })
    };
    cache.until(limit, seen).await
}

fn start<K: Object>(client: &Client, params: ListParams) -> Cache<K> {
    start_with(client, params, without_last_applied)
}

fn start_with<K: Object>(client: &Client, params: ListParams, trim: fn(&mut K)) -> Cache<K> {
    Cache::start_with(client.clone(), Scope { resource: ResourcePath::of::<K>(), params, trim })
}

fn without_last_applied<K: Object>(object: &mut K) {
    if let Some(annotations) = &mut object.metadata_mut().annotations {
        annotations.remove(LAST_APPLIED);
    }
}
