//! A small world in which users, nodes and kubelets take random turns with the DaemonSet planner.
//!
//! Whatever the order: no node ever has more daemons than the strategy allows, an update takes no more available daemons
//! away than it may, and when all rest every node that is meant has one daemon of the current template.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::model::merge;
use crate::action::Action;
use crate::daemonset::{Observed, plan};
use crate::pods;

const SEEDS: u64 = 60;
const TURNS: usize = 200;
/// Turns within which a world at rest must settle.
const SETTLE_TURNS: usize = 300;
const NODES_MAX: u64 = 5;

struct World {
    seed: u64,
    random: u64,
    now: Timestamp,
    revision: u64,
    set: Value,
    surge: bool,
    nodes: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
    revisions: BTreeMap<String, Value>,
}

fn pod(value: &Value) -> Pod {
    serde_json::from_value(value.clone()).expect("pod")
}

/// The node a daemon is made for.
fn home(pod: &Value) -> String {
    let terms =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let name = &terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    name.as_str().expect("a node").to_owned()
}

impl World {
    fn new(seed: u64) -> Self {
        let surge = seed.is_multiple_of(3);
        let rolling = match (surge, seed % 2) {
            (true, _) => json!({"maxSurge": "50%", "maxUnavailable": 0}),
            (false, 0) => json!({"maxUnavailable": 2}),
            (false, _) => json!({"maxUnavailable": "30%"}),
        };
        let set = json!({
            "metadata": {"name": "d", "namespace": "default", "uid": "d", "generation": 1, "resourceVersion": "1"},
            "spec": {
                "selector": {"matchLabels": {"app": "d"}}, "revisionHistoryLimit": 2,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                "template": {
                    "metadata": {"labels": {"app": "d"}},
                    "spec": {"containers": [{"name": "d", "image": "d:0"}]},
                },
            },
            "status": {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0},
        });
        Self {
            seed,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: "2026-01-01T00:00:00Z".parse().expect("time"),
            revision: 1,
            set,
            surge,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn user(&mut self) {
        let image = format!("d:{}", self.pick(4));
        self.set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let generation = self.set["metadata"]["generation"].as_i64().expect("generation") + 1;
        self.revision += 1;
        self.set["metadata"]["generation"] = json!(generation);
        self.set["metadata"]["resourceVersion"] = json!(self.revision.to_string());
    }

    /// A node comes, goes, or is tainted or not.
    fn node(&mut self) {
        let name = format!("n{}", self.pick(NODES_MAX));
        let taints = match self.pick(4) {
            0 => {
                self.nodes.remove(&name);
                // Who was bound there is collected with it.
                self.pods.retain(|_, pod| pod["spec"]["nodeName"] != name.as_str());
                return;
            }
            1 => json!([{"key": "mine", "effect": "NoSchedule"}]),
            2 => json!([{"key": "mine", "effect": "NoExecute"}]),
            _ => json!([]),
        };
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        self.nodes.insert(name, node);
    }

    fn kubelet(&mut self, kind: bool) {
        if self.pods.is_empty() {
            return;
        }
        let index = usize::try_from(self.pick(self.pods.len() as u64)).expect("index");
        let Some(name) = self.pods.keys().nth(index).cloned() else { return };
        if !self.pods[&name]["metadata"]["deletionTimestamp"].is_null() {
            self.pods.remove(&name);
            return;
        }
        let node = home(&self.pods[&name]);
        if !self.nodes.contains_key(&node) {
            return;
        }
        let choice = if kind { 0 } else { self.pick(9) };
        let (phase, ready) = match choice {
            8 => ("Succeeded", "False"),
            7 => ("Failed", "False"),
            6 => ("Running", "False"),
            _ => ("Running", "True"),
        };
        if kind && self.pods[&name]["status"]["phase"] == "Failed" {
            return;
        }
        let status = json!({"spec": {"nodeName": node}, "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": self.now.to_string()},
        ]}});
        if let Some(pod) = self.pods.get_mut(&name) {
            merge(pod, &status);
        }
    }

    fn available(&self) -> BTreeSet<String> {
        let good = self.pods.values().filter(|value| {
            let pod = pod(value);
            pods::is_active(&pod) && pods::is_ready(&pod) && self.runs(&home(value))
        });
        good.map(home).collect()
    }

    /// The node is meant.
    fn runs(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node["spec"]["taints"] == json!([]))
    }

    /// The planner looks; true when it wanted something.
    fn planner(&mut self) -> bool {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).expect("time");
        let values = |all: &BTreeMap<String, Value>| all.values().cloned().collect::<Vec<_>>();
        let observed: Observed = serde_json::from_value(json!({
            "set": self.set, "nodes": values(&self.nodes), "pods": values(&self.pods),
            "revisions": values(&self.revisions),
        }))
        .expect("observed");
        let before = self.available();
        let actions = plan(&observed, self.now);
        let wants = actions.iter().any(|action| !matches!(action, Action::Wake(_)));
        for action in actions {
            self.perform(action);
        }
        self.check(&before);
        wants
    }

    fn perform(&mut self, action: Action) {
        self.revision += 1;
        let revision = self.revision.to_string();
        match action {
            Action::Create { resource, mut object, .. } => {
                let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
                let generated = format!("{prefix}{revision}");
                let name = object["metadata"]["name"].as_str().map_or(generated, str::to_owned);
                merge(
                    &mut object,
                    &json!({"metadata": {
                        "name": name, "uid": format!("u{revision}"), "resourceVersion": revision,
                        "creationTimestamp": self.now.to_string(),
                    }}),
                );
                let place =
                    if resource.plural == "pods" { &mut self.pods } else { &mut self.revisions };
                assert!(place.insert(name, object).is_none(), "seed {}: it exists", self.seed);
            }
            Action::Patch { resource, name, body, .. } => {
                let object = match resource.plural {
                    "daemonsets" => Some(&mut self.set),
                    "controllerrevisions" => self.revisions.get_mut(&name),
                    _ => self.pods.get_mut(&name),
                };
                let Some(object) = object else { return };
                merge(object, &body);
                object["metadata"]["resourceVersion"] = json!(revision);
            }
            Action::Delete { resource, target, .. } => {
                if resource.plural == "pods" {
                    let pod = self.pods.get_mut(&target.name).expect("a pod to delete");
                    pod["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
                } else {
                    self.revisions.remove(&target.name);
                }
            }
            Action::Finalize { .. } => panic!("seed {}: no namespace here", self.seed),
            Action::Event(_) | Action::Wake(_) => {}
        }
    }

    fn check(&self, before: &BTreeSet<String>) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for value in self.pods.values().filter(|value| pods::is_active(&pod(value))) {
            *counts.entry(home(value)).or_default() += 1;
        }
        let most = if self.surge { 2 } else { 1 };
        assert!(counts.values().all(|count| *count <= most), "seed {}: {counts:?}", self.seed);
        let wanted = self.nodes.keys().filter(|node| self.runs(node)).count();
        let unavailable = match (self.surge, self.seed % 2) {
            (true, _) => 0,
            (false, 0) => 2,
            (false, _) => (wanted * 3).div_ceil(10),
        };
        let after = self.available().len();
        let least = before.len().min(wanted.saturating_sub(unavailable));
        assert!(
            after >= least,
            "seed {}: {after} of {wanted} are available after {}",
            self.seed,
            before.len()
        );
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..SETTLE_TURNS {
            for _ in 0..self.pods.len() {
                self.kubelet(true);
            }
            quiet = if self.planner() { 0 } else { quiet + 1 };
            // Kubelets pick pods at random, so a few quiet rounds make sure that all had their turn.
            if quiet > 20 {
                return;
            }
        }
        panic!("seed {} does not settle: {:#}\n{:#?}", self.seed, self.set, self.pods);
    }

    fn check_settled(&self) {
        let seed = self.seed;
        let image = &self.set["spec"]["template"]["spec"]["containers"][0]["image"];
        let wanted: Vec<&String> = self.nodes.keys().filter(|node| self.runs(node)).collect();
        for node in &wanted {
            let here: Vec<&Value> =
                self.pods.values().filter(|pod| home(pod) == node.as_str()).collect();
            assert_eq!(here.len(), 1, "seed {seed}: {node}");
            assert_eq!(here[0]["spec"]["containers"][0]["image"], *image, "seed {seed}: {node}");
        }
        let status = &self.set["status"];
        let count = json!(wanted.len());
        assert_eq!(status["desiredNumberScheduled"], count, "seed {seed}");
        assert_eq!(status["numberReady"], count, "seed {seed}");
        if !wanted.is_empty() {
            assert_eq!(status["updatedNumberScheduled"], count, "seed {seed}");
            assert_eq!(status["numberAvailable"], count, "seed {seed}");
        }
        assert!(self.revisions.len() <= 4, "seed {seed}: the history has a limit");
    }
}

#[test]
fn every_world_ends_with_one_daemon_a_node() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        for _ in 0..TURNS {
            match world.pick(10) {
                0 => world.user(),
                1 => world.node(),
                2..=5 => world.kubelet(false),
                _ => drop(world.planner()),
            }
        }
        world.settle();
        world.check_settled();
    }
}
