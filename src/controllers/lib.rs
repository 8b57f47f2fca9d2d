//! The controllers: what a Deployment, a ReplicaSet, a namespace or a node needs done, decided without IO.
//!
//! Each controller is a pure planner `plan(observed, now) -> Vec<Action>` with golden cases in `cases/`, and one row
//! in [`table::TABLE`]. The queue, back-off and loop live once in `client`; [`shell::Shell`] alone sends requests.
//!
//! Deliberately unknown here: the store, the transport, and what a node does with a pod.
//!
//! Start reading at [`run`], then `action.rs`, then `replicaset/plan.rs`.

pub mod action;
mod arguments;
mod cluster_dns;
mod daemonset;
mod deployment;
mod endpoints;
mod eviction;
mod garbage;
mod load_balancer;
mod namespace;
mod node;
mod ownership;
mod podgc;
mod pods;
mod replicaset;
mod root_ca;
mod service_account;
pub mod shell;
mod since;
pub mod table;
mod template;

#[cfg(test)]
mod tests;

pub use arguments::ArgumentError;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Caches, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Settings of the controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The range pods get their addresses from.
    pub cluster_cidr: Cidr,
    /// Prefix length of the part each node gets.
    pub node_mask: u8,
    /// PEM of the CA that every namespace publishes.
    pub root_ca_pem: String,
    /// The address of cluster DNS, which gets a Service to be found by.
    pub cluster_dns: Option<IpAddr>,
    pub node_life: NodeLife,
}

impl Config {
    /// Settings with upstream's times and without a Service of cluster DNS.
    pub fn new(cluster_cidr: Cidr, node_mask: u8, root_ca_pem: String) -> Self {
        let node_life = NodeLife::default();
        Self { cluster_cidr, node_mask, root_ca_pem, cluster_dns: None, node_life }
    }
}

/// How long nodes may be silent, and how fast their pods are sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLife {
    /// Silence after which the state of a node counts as unknown (`--node-monitor-grace-period`).
    pub monitor_grace: Duration,
    /// The same for a node that never told its state (`--node-startup-grace-period`).
    pub startup_grace: Duration,
    /// Time between two nodes of a zone whose pods are sent away, the inverse of `--node-eviction-rate`.
    pub eviction_pause: Duration,
    /// How long a node must be gone before its pods are removed: it may only be slow to register.
    pub removal_quarantine: Duration,
}

impl Default for NodeLife {
    fn default() -> Self {
        Self {
            monitor_grace: Duration::from_secs(40),
            startup_grace: Duration::from_secs(60),
            eviction_pause: Duration::from_secs(10),
            removal_quarantine: Duration::from_secs(40),
        }
    }
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// True when the address is in the range.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(ours) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(ours) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }
}

/// The text is not an address range.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.42.0.0/16")]
pub struct CidrError(String);

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

/// Runs all controllers until shutdown, on caches of their own.
pub async fn run(client: Client, config: Config, shutdown: watch::Receiver<bool>) {
    let caches = Caches::start(&client);
    run_with(client, caches, config, shutdown).await;
}

/// Runs all controllers until shutdown, on caches shared with others.
pub async fn run_with(
    client: Client,
    caches: Caches,
    config: Config,
    shutdown: watch::Receiver<bool>,
) {
    let config = Arc::new(config);
    let metadata = table::Metadata::start(&client);
    let mut running = JoinSet::new();
    for row in table::TABLE {
        let shell =
            shell::Shell::new(client.clone(), caches.clone(), config.clone(), row.component);
        running.spawn((row.start)(
            table::Context { shell, metadata: metadata.clone() },
            shutdown.clone(),
        ));
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
}
