//! The Service proxy: leads packets for the addresses of Services to their endpoints, with nftables.
//!
//! The caches ([`Inputs`]) feed the [`engine`], which plans a fragment of the ruleset for each Service (`plan`, with
//! `select` for its endpoints and `chains` for rules), merges the fragments (`state`), and gives out differences
//! (`transaction`). `kernel` sends them, and forgets stale flows of UDP (`conntrack`); `follow` is the loop around it
//! all. Start reading at `values`, which says what the ruleset looks like.
//!
//! The proxy knows nothing of how pods of other nodes are reached. Cluster DNS is served by this process at an address of
//! this node, so its packets are left alone.

mod chains;
mod conntrack;
mod engine;
mod follow;
mod health;
mod kernel;
mod measure;
mod plan;
mod route;
mod select;
mod sets;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod values;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::Range;
use crate::nft::Family;

pub use follow::run;
pub use kernel::{Error, Sent};
pub use measure::{Figures, measure};

/// What the proxy has to know of the node and the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// The node's addresses as long as its Node object has none.
    pub node_ips: Vec<IpAddr>,
    /// The addresses of all pods. What comes from elsewhere is masqueraded.
    pub cluster_cidr: Range,
    /// The addresses of all Services.
    pub service_cidr: Range,
    /// The ports that Services may have on nodes: the node takes none of them for connections of its own.
    pub node_ports: RangeInclusive<u16>,
    /// The address of cluster DNS, which this process serves: packets for it stay here.
    pub cluster_dns: IpAddr,
    /// The bridge of this node's pods.
    pub bridge: String,
    /// Masquerade all that goes to a cluster address.
    pub masquerade_all: bool,
}

/// What rules depend on besides Services and pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) family: Family,
    pub(crate) name: Box<str>,
    pub(crate) zone: Option<Box<str>>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) cluster_cidr: Range,
    pub(crate) service_cidr: Range,
    pub(crate) cluster_dns: IpAddr,
    pub(crate) masquerade_all: bool,
}

impl Node {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            family: Family::V4,
            name: config.node_name.as_str().into(),
            zone: None,
            addresses: config.node_ips.iter().copied().collect(),
            cluster_cidr: config.cluster_cidr,
            service_cidr: config.service_cidr,
            cluster_dns: config.cluster_dns,
            masquerade_all: config.masquerade_all,
        }
    }

    /// The node with what its object says.
    pub(crate) fn with(config: &Config, object: Option<&crate::inputs::Node>) -> Self {
        let mut node = Self::new(config);
        if let Some(object) = object {
            if !object.addresses.is_empty() {
                node.addresses = object.addresses.iter().copied().collect();
            }
            node.zone = object.zone.clone();
        }
        node
    }
}
