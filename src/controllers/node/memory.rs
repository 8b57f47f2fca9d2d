//! What the node controller remembers between two looks: signs of life, zones, and ranges of nodes that are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::plan::{Eviction, condition};
use super::range;
use super::zones::{Zones, zone_of};
use crate::since;

/// Ranges of nodes that are gone which are kept for them.
const LEFT_MAX: usize = 1024;

/// A sign of life: the renewal of the lease and the report of the status. Only that they change counts, because they
/// are told by the node's clock.
#[derive(PartialEq, Eq)]
struct Sign {
    renewed: Option<Timestamp>,
    reported: Option<Timestamp>,
}

struct Known {
    node: Arc<Node>,
    sign: Sign,
    seen: Instant,
}

#[derive(Default)]
pub(super) struct Memory {
    nodes: BTreeMap<String, Known>,
    zones: Zones,
    /// When the last node of a zone had its pods sent away.
    last_eviction: BTreeMap<String, Instant>,
    /// Ranges by the names of nodes that are gone.
    left: BTreeMap<String, String>,
}

/// What is known of a node's life.
pub(super) struct Life {
    pub(super) is_new: bool,
    /// The last sign of it, as seen from now.
    pub(super) heartbeat: Timestamp,
}

impl Memory {
    /// Takes in the state of the zones; true when it is another one.
    pub(super) fn survey(&mut self, zones: Zones) -> bool {
        if zones == self.zones {
            return false;
        }
        if self.zones.all_disrupted() && !zones.all_disrupted() {
            // It was us who heard nobody: all get the whole grace period again.
            self.nodes.values_mut().for_each(|known| known.seen = Instant::now());
        }
        self.zones = zones;
        true
    }

    /// Takes in how a node is, and what it last said.
    pub(super) fn look(&mut self, node: &Arc<Node>, lease: Option<&Lease>, now: Timestamp) -> Life {
        let reported =
            condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref());
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
        let sign =
            Sign { renewed: renewed.map(|time| time.0), reported: reported.map(|time| time.0) };
        let name = node.metadata.name.clone().unwrap_or_default();
        let known = self.nodes.get(&name);
        let known = known.filter(|known| known.node.metadata.uid == node.metadata.uid);
        let is_new = known.is_none();
        let same = known.filter(|known| known.sign == sign);
        let seen = same.map_or_else(Instant::now, |known| known.seen);
        if range(node).is_some() {
            self.left.remove(&name);
        }
        self.nodes.insert(name, Known { node: node.clone(), sign, seen });
        Life { is_new, heartbeat: since::back(seen, now) }
    }

    /// The node is gone; what was known of it.
    pub(super) fn forget(&mut self, name: &str) -> Option<Arc<Node>> {
        let node = self.nodes.remove(name)?.node;
        if let Some(range) = range(&node).filter(|_| self.left.len() < LEFT_MAX) {
            self.left.insert(name.to_owned(), range);
        }
        Some(node)
    }

    /// The range a node of this name had before.
    pub(super) fn former(&self, name: &str) -> Option<String> {
        self.left.get(name).cloned()
    }

    /// Ranges that are kept for nodes which are gone.
    pub(super) fn left(&self) -> Vec<String> {
        self.left.values().cloned().collect()
    }

    pub(super) fn eviction(&self, node: &Node, pause: Duration, now: Timestamp) -> Eviction {
        if self.zones.all_disrupted() {
            return Eviction::Withdrawn;
        }
        let zone = zone_of(node);
        let Some(pause) = self.zones.pause(&zone, pause) else { return Eviction::Halted };
        let Some(last) = self.last_eviction.get(&zone) else { return Eviction::Now };
        let left = pause.saturating_sub(last.elapsed());
        if left.is_zero() {
            return Eviction::Now;
        }
        Eviction::Later(now.checked_add(left).unwrap_or(Timestamp::MAX))
    }

    /// A node of this zone has its pods sent away now.
    pub(super) fn evicted(&mut self, node: &Node) {
        self.last_eviction.insert(zone_of(node), Instant::now());
    }
}
