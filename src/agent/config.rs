//! What the program hands to the agent, and the one thing the agent asks of the network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Taint;
use runtime::client::Runtime;
use runtime::image::{ImageStore, PullOptions};

/// Wires a pod's network namespace; implemented by the program around the `network` crate.
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the namespace its addresses. Asked again for the same pod, it answers with the same addresses, also for a new
    /// namespace, until they are taken back.
    fn attach(&self, uid: &str, netns: &Path) -> BoxFuture<'_, Result<Vec<IpAddr>, String>>;
    /// Takes back what `attach` gave; succeeds if there is nothing.
    fn detach(&self, uid: &str) -> BoxFuture<'_, Result<(), String>>;
    /// Hands over the node's pod range (`spec.podCIDR`), the moment it is known.
    fn set_pod_cidr(&self, cidr: &str) -> BoxFuture<'_, Result<(), String>>;
    /// Pods can be attached now.
    fn ready(&self) -> bool;
}

/// What the node says about itself when it registers.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// The node carries the control-plane role, as a K3s server does.
    pub server: bool,
    /// `node.kubernetes.io/instance-type`; `copepod` if empty.
    pub instance_type: String,
}

/// Everything the agent needs. Nothing of it is read from the environment.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// DATA/agent: pod directories and logs are below it.
    pub data_dir: PathBuf,
    pub client: client::Client,
    pub runtime: Runtime,
    pub images: Arc<ImageStore>,
    /// Mirrors, plain-HTTP registries and the platform; `auth` is set per pull.
    pub pull: PullOptions,
    pub network: Arc<dyn PodNetwork>,
    /// The node's own addresses, the preferred one first.
    pub node_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub registration: Registration,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The resolv.conf that pods with dnsPolicy Default get, normally /etc/resolv.conf.
    pub host_resolv_conf: PathBuf,
    pub host_hosts: PathBuf,
    pub max_pods: u32,
    /// `v1.36.x+copepod1`.
    pub kubelet_version: String,
    /// The version after `copepod://`.
    pub runtime_version: String,
    /// Where the kubelet's API is reached; only reported.
    pub kubelet_port: u16,
}
