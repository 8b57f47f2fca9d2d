//! How much of each zone is out of order, and what that means for evictions: when many nodes fall silent at once the
//! fault is more likely on our side, and moving everything would only make it worse.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::plan::condition;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Silent nodes of a zone, at least, that make a disruption.
const UNHEALTHY_MIN: usize = 3;
/// Share of silent nodes, in hundredths, from which a zone counts as disrupted.
const UNHEALTHY_PERCENT: usize = 55;
/// Nodes from which a disrupted zone still evicts, slowly.
const LARGE: usize = 51;
/// How much slower that is.
const SLOWER: u32 = 10;

/// What is wrong with a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Normal,
    Partial { large: bool },
    Full,
}

/// The zones of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zones(BTreeMap<String, State>);

/// The name of a node's zone, unique over regions.
pub(super) fn zone_of(node: &Node) -> String {
    let label = |key: &str| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(key)).map(String::as_str).unwrap_or_default()
    };
    format!("{}/{}", label(REGION), label(ZONE))
}

impl Zones {
    pub(super) fn survey<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for node in nodes {
            let count = counts.entry(zone_of(node)).or_default();
            match condition(node, "Ready").is_some_and(|ready| ready.status == "True") {
                true => count.0 += 1,
                false => count.1 += 1,
            }
        }
        Self(counts.into_iter().map(|(zone, (ready, not))| (zone, state(ready, not))).collect())
    }

    /// No node of the cluster is ready.
    pub(super) fn all_disrupted(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|state| *state == State::Full)
    }

    /// The time between two nodes of a zone whose pods are sent away; `None` when none is to be.
    pub(super) fn pause(&self, zone: &str, normal: Duration) -> Option<Duration> {
        match self.0.get(zone) {
            _ if self.all_disrupted() => None,
            Some(State::Partial { large: false }) => None,
            Some(State::Partial { large: true }) => Some(normal.saturating_mul(SLOWER)),
            Some(State::Normal | State::Full) | None => Some(normal),
        }
    }
}

fn state(ready: usize, not: usize) -> State {
    let all = ready + not;
    if ready == 0 && not > 0 {
        State::Full
    } else if not >= UNHEALTHY_MIN && not * 100 >= all * UNHEALTHY_PERCENT {
        State::Partial { large: all >= LARGE }
    } else {
        State::Normal
    }
}
