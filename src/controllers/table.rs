//! The table of controllers, and what each is started with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use client::{Cache, Client, ListParams, PartialObject, ResourcePath, Scope};
use tokio::sync::watch;

use crate::shell::Shell;
use crate::{
    cluster_dns, daemonset, deployment, endpoints, eviction, garbage, load_balancer, namespace,
    node, podgc, replicaset, root_ca, service_account,
};

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A controller.
pub struct Row {
    /// Named as the source of events.
    pub component: &'static str,
    pub start: fn(Context, watch::Receiver<bool>) -> Running,
}

/// What a controller is started with.
pub struct Context {
    pub shell: Arc<Shell>,
    pub metadata: Arc<Metadata>,
}

pub static TABLE: &[Row] = &[
    Row { component: "deployment-controller", start: |c, s| Box::pin(deployment::run(c.shell, s)) },
    Row { component: "replicaset-controller", start: |c, s| Box::pin(replicaset::run(c.shell, s)) },
    Row {
        component: "service-account-controller",
        start: |c, s| Box::pin(service_account::run(c.shell, s)),
    },
    Row {
        component: "root-ca-certificate-publisher-controller",
        start: |c, s| Box::pin(root_ca::run(c.shell, s)),
    },
    Row { component: "daemonset-controller", start: |c, s| Box::pin(daemonset::run(c.shell, s)) },
    Row {
        component: "cluster-dns-controller",
        start: |c, s| Box::pin(cluster_dns::run(c.shell, s)),
    },
    Row { component: "node-controller", start: |c, s| Box::pin(node::run(c.shell, s)) },
    Row {
        component: "taint-eviction-controller",
        start: |c, s| Box::pin(eviction::run(c.shell, s)),
    },
    Row { component: "endpoint-controller", start: |c, s| Box::pin(endpoints::run(c.shell, s)) },
    Row {
        component: "service-lb-controller",
        start: |c, s| Box::pin(load_balancer::run(c.shell, s)),
    },
    Row {
        component: "pod-garbage-collector-controller",
        start: |c, s| Box::pin(podgc::run(c.shell, s)),
    },
    Row { component: "namespace-controller", start: |c, s| Box::pin(namespace::run(c, s)) },
    Row { component: "garbage-collector-controller", start: |c, s| Box::pin(garbage::run(c, s)) },
];

/// Caches of the metadata of all kinds that can have owners, without what nobody here reads.
pub struct Metadata {
    pub kinds: Vec<(&'static api::Resource, Cache<PartialObject>)>,
}

impl Metadata {
    fn kind_is_tracked(resource: &api::Resource) -> bool {
        ["delete", "list", "watch"].iter().all(|verb| resource.has_verb(verb))
            && resource.kind != "Event"
    }

    pub(crate) fn start(client: &Client) -> Arc<Self> {
        let start = |resource: &'static api::Resource| {
            let trim: fn(&mut PartialObject) = |object| {
                object.metadata.labels = None;
                object.metadata.annotations = None;
            };
            let scope =
                Scope { resource: ResourcePath::from(resource), params: ListParams::all(), trim };
            (resource, Cache::start_with(client.clone(), scope))
        };
        let tracked = api::RESOURCES.iter().filter(|resource| Self::kind_is_tracked(resource));
        Arc::new(Self { kinds: tracked.map(start).collect() })
    }
}
