//! What all pods of the node share.

use std::sync::Arc;

use client::{Cache, Recorder};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::events;
use crate::fieldref::NodeFields;
use crate::netfiles::ClusterDns;
use crate::node_facts::Facts;
use crate::objects::ObjectCaches;
use crate::paths::Paths;
use crate::worker::EventNote;

/// Images pulled at the same time.
const PULLS_MAX: usize = 2;

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    pub(crate) objects: ObjectCaches,
    pub(crate) services: Cache<Service>,
    pub(crate) facts: Facts,
    pub(crate) dns: ClusterDns,
    pub(crate) host_ips: Vec<String>,
    pub(crate) pulls: Arc<Semaphore>,
    /// True once pods can be attached to the network.
    pub(crate) network_ready: watch::Receiver<bool>,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        facts: Facts,
        network_ready: watch::Receiver<bool>,
    ) -> Context {
        let client = config.client.clone();
        Context {
            paths: Paths::new(&config.data_dir),
            clock: Clock::start(),
            recorder: Recorder::new(client.clone(), "kubelet", Some(&config.node_name)),
            objects: ObjectCaches::new(client.clone()),
            services: Cache::start(client, client::ListParams::all()),
            facts,
            dns: ClusterDns {
                servers: config.cluster_dns.clone(),
                domain: config.cluster_domain.clone(),
            },
            host_ips: config.node_ips.iter().map(ToString::to_string).collect(),
            pulls: Arc::new(Semaphore::new(PULLS_MAX)),
            network_ready,
            config,
        }
    }

    pub(crate) fn event(&self, pod: &Pod, note: EventNote) {
        events::record(&self.recorder, pod, note);
    }

    pub(crate) fn node_fields(&self, pod_ips: Vec<String>) -> NodeFields {
        NodeFields {
            node_name: self.config.node_name.clone(),
            host_ips: self.host_ips.clone(),
            pod_ips,
            allocatable_cpu: self.facts.milli_cpus,
            allocatable_memory: self.facts.memory_bytes,
        }
    }
}
