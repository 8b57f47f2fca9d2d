//! From the Node objects to what the overlay must reach: who the other nodes are, and which ranges they have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Backend;
use super::addressing::{Mac, Prefix};
use super::annotations;
use super::objects::Node;

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) ranges: Vec<Prefix>,
    pub(crate) address: IpAddr,
    /// Of its tunnel end; none when packets go to it without a tunnel.
    pub(crate) mac: Option<Mac>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topology {
    /// The range of this node's pods.
    pub(crate) own: Option<Prefix>,
    pub(crate) peers: BTreeMap<String, Peer>,
    /// Nodes that cannot be reached, and why.
    #[serde(skip)]
    pub(crate) ignored: BTreeMap<String, String>,
}

/// What does not come from the Node objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) node_name: &'a str,
    pub(crate) backend: Backend,
    /// All pods' addresses; decides the family too.
    pub(crate) cluster: Prefix,
}

impl Topology {
    /// Two nodes that claim the same range or tunnel end: the first by name has it.
    pub(crate) fn of<'a>(nodes: impl Iterator<Item = &'a Node>, frame: Frame<'_>) -> Self {
        let mut nodes: Vec<&Node> = nodes.collect();
        nodes.sort_by_key(|node| node.name());
        let mut topology = Self::default();
        if let Some(node) = nodes.iter().find(|node| node.name() == frame.node_name) {
            topology.own = ranges(node, frame).first().copied();
        }
        for node in nodes.iter().filter(|node| node.name() != frame.node_name) {
            let name = node.name().to_owned();
            match topology.peer(node, frame) {
                Ok(peer) => drop(topology.peers.insert(name, peer)),
                Err(why) => drop(topology.ignored.insert(name, why)),
            }
        }
        topology
    }

    fn peer(&self, node: &Node, frame: Frame<'_>) -> Result<Peer, String> {
        let (address, mac) = annotations::read(node, frame.backend, frame.cluster.family())?;
        let ranges = ranges(node, frame);
        if ranges.is_empty() {
            return Err(format!("it has no range of pods in {}", frame.cluster));
        }
        if mac == Some(Mac::of_node(frame.node_name)) {
            return Err("its tunnel end has this node's hardware address".to_owned());
        }
        let overlaps = |a: &Prefix, b: &Prefix| a.covers(*b) || b.covers(*a);
        if self.own.is_some_and(|own| ranges.iter().any(|range| overlaps(range, &own))) {
            return Err("its range of pods is this node's".to_owned());
        }
        for (name, other) in &self.peers {
            if mac.is_some() && mac == other.mac {
                return Err(format!("its tunnel end has the hardware address of node {name}'s"));
            }
            if ranges.iter().any(|range| other.ranges.iter().any(|taken| overlaps(range, taken))) {
                return Err(format!("its range of pods is node {name}'s"));
            }
        }
        Ok(Peer { ranges, address, mac })
    }
}

fn ranges(node: &Node, frame: Frame<'_>) -> Vec<Prefix> {
    node.pod_ranges.iter().copied().filter(|range| frame.cluster.covers(*range)).collect()
}
