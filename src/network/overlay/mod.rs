//! How pods of different nodes reach each other: a VXLAN tunnel between all nodes, or plain routes where they share a
//! network.
//!
//! Nodes tell each other where they are by flannel's annotations on their Node objects. From those follows the state the
//! kernel must have (`topology`, `plan`: pure), which is compared with the state it has (`kernel`) and reached by the
//! smallest change. Deliberately unknown here: pods, bridges, Services, who hands out the ranges.
//!
//! Nothing is undone at the end: the next process finds what is there, and pods go on meanwhile. Start reading at `plan`,
//! then `follow`, which ties it together.

mod addressing;
mod annotations;
mod events;
mod follow;
mod kernel;
mod messages;
mod objects;
mod plan;
mod record;
#[cfg(test)]
mod tests;
mod topology;
mod uplink;

use std::net::IpAddr;
use std::path::PathBuf;

use client::Client;
use tokio::sync::watch;

use crate::bridge::BridgeNetwork;
use crate::error::Error;
use addressing::Prefix;

pub use addressing::Family;
pub use uplink::Uplink;

/// What a packet grows by in the tunnel: inner Ethernet, VXLAN, UDP and IPv4 headers.
const VXLAN_BYTES: u32 = 50;
/// Used until there is a link to measure: Ethernet's.
const MTU_USUAL: u32 = 1500;
/// The least every link must carry.
const MTU_LEAST: u32 = 576;

/// How packets get to other nodes' pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Vxlan {
        vni: u32,
        port: u16,
    },
    /// Routes through the other nodes; all must be in one network.
    HostGw,
    /// Somebody else's business.
    None,
}

impl Backend {
    /// As flannel and K3s have it.
    pub const VXLAN: Self = Self::Vxlan { vni: 1, port: 8472 };

    /// The name in flags and annotations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan { .. } => "vxlan",
            Self::HostGw => "host-gw",
            Self::None => "none",
        }
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "vxlan" => Ok(Self::VXLAN),
            "host-gw" => Ok(Self::HostGw),
            "none" => Ok(Self::None),
            other => Err(Error::Config {
                field: "flannel-backend",
                reason: format!("expected vxlan, host-gw or none, not {other:?}"),
            }),
        }
    }

    /// The largest packet of a pod that passes a link with this mtu.
    pub(crate) fn pod_mtu(self, link: u32) -> u32 {
        match self {
            Self::Vxlan { .. } => link.saturating_sub(VXLAN_BYTES).max(MTU_LEAST),
            Self::HostGw | Self::None => link,
        }
    }
}

/// What the overlay of one node is told.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// The node's address when it was given explicitly. Otherwise it is found, and followed when it changes.
    pub node_ip: Option<IpAddr>,
    /// The link to the other nodes when it was given explicitly.
    pub interface: Option<String>,
    pub backend: Backend,
    /// All pods' addresses, as in the flag.
    pub cluster_cidr: String,
    /// Where the other nodes are remembered. Made if need be.
    pub state_dir: PathBuf,
    /// Told when the mtu for pods changes.
    pub bridge: Option<BridgeNetwork>,
    /// Told which link and address lead to the other nodes, now and whenever that changes.
    pub uplink: watch::Sender<Option<Uplink>>,
}

impl Config {
    /// Refuses what does not work, with the reason.
    pub fn check(&self) -> Result<(), Error> {
        self.cluster()?;
        let refused = |field, reason| Err(Error::Config { field, reason });
        if let Some(address @ IpAddr::V6(_)) = self.node_ip {
            return refused(
                "node-ip",
                format!("the pod network has no IPv6, expected an IPv4 address, not {address}"),
            );
        }
        match self.backend {
            Backend::Vxlan { vni, .. } if vni == 0 || vni >= 1 << 24 => {
                refused("vni", format!("{vni} is not between 1 and 16777215"))
            }
            Backend::Vxlan { port: 0, .. } => refused("port", "0 cannot be sent to".to_owned()),
            _ => Ok(()),
        }
    }

    fn cluster(&self) -> Result<Prefix, Error> {
        let refused = |reason| Error::Config { field: "cluster-cidr", reason };
        if self.cluster_cidr.contains(',') {
            return Err(refused(format!(
                "the pod network has no dual-stack, expected one IPv4 range, not {:?}",
                self.cluster_cidr
            )));
        }
        let prefix: Prefix = self.cluster_cidr.parse().map_err(refused)?;
        match prefix.family() {
            Family::V4 => Ok(prefix),
            Family::V6 => Err(refused(format!(
                "the pod network has no IPv6, expected an IPv4 range, not {prefix}"
            ))),
        }
    }
}

/// The mtu of pods and their bridge: what the link to the other nodes carries, less what the tunnel needs.
pub async fn pod_mtu(config: &Config) -> Result<u32, Error> {
    config.check()?;
    let link = follow::find_uplink(config).await?.map_or(MTU_USUAL, |uplink| uplink.mtu);
    Ok(config.backend.pod_mtu(link))
}

/// Keeps the overlay as the Node objects and the machine's addresses want it, until `stopped` is true or its sender gone.
pub async fn run(client: Client, config: Config, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = follow::follow(client, config) => {}
    }
}
