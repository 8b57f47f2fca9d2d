//! What all pods of the node share.

use std::net::IpAddr;
use std::sync::Arc;

use client::Recorder;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::events;
use crate::fieldref::NodeFields;
use crate::link::{self, Link};
use crate::netfiles::ClusterDns;
use crate::node_facts::Facts;
use crate::objects::ObjectCaches;
use crate::paths::Paths;
use crate::record::Store;
use crate::worker::EventNote;

/// Images pulled at the same time.
pub(crate) const PULLS_MAX: usize = 2;

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    pub(crate) objects: ObjectCaches,
    /// What is on disk for the time without the API server.
    pub(crate) record: Arc<Store>,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) facts: Facts,
    pub(crate) dns: ClusterDns,
    /// The node's own addresses, the preferred one first.
    pub(crate) addresses: watch::Receiver<Vec<IpAddr>>,
    pub(crate) pulls: Arc<Semaphore>,
    /// True once pods can be attached to the network.
    pub(crate) network_ready: watch::Receiver<bool>,
}

impl Context {
    pub(crate) fn new(
        mut config: Config,
        facts: Facts,
        record: Arc<Store>,
        network_ready: watch::Receiver<bool>,
        addresses: watch::Receiver<Vec<IpAddr>>,
    ) -> Context {
        let (client, link) = link::listening(config.client);
        config.client = client.clone();
        Context {
            paths: Paths::new(&config.data_dir),
            clock: Clock::start(),
            recorder: Recorder::new(client.clone(), "kubelet", Some(&config.node_name)),
            objects: ObjectCaches::new(client, link.clone()),
            record,
            link,
            facts,
            dns: ClusterDns {
                servers: config.cluster_dns.clone(),
                domain: config.cluster_domain.clone(),
            },
            addresses,
            pulls: Arc::new(Semaphore::new(PULLS_MAX)),
            network_ready,
            config,
        }
    }

    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.addresses.borrow().iter().map(ToString::to_string).collect()
    }

    pub(crate) fn server_away(&self) -> bool {
        *self.link.borrow() == Link::Away
    }

    pub(crate) fn event(&self, pod: &Pod, note: EventNote) {
        events::record(&self.recorder, pod, note);
    }

    pub(crate) fn node_fields(&self, pod_ips: Vec<String>) -> NodeFields {
        NodeFields {
            node_name: self.config.node_name.clone(),
            host_ips: self.host_ips(),
            pod_ips,
            allocatable_cpu: self.facts.milli_cpus,
            allocatable_memory: self.facts.memory_bytes,
        }
    }
}
