//! A small world in memory, in which users, kubelets and the two workload planners take random turns.
//!
//! Whatever the order: a rolling update never takes an available pod away below the minimum, never makes more pods than
//! the surge allows, and when the users rest everything ends where they wanted it and no planner wants more.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::action::Action;
use crate::{deployment, pods, replicaset};

const SEEDS: u64 = 40;
const TURNS: usize = 150;
/// Turns within which a world at rest must settle.
const SETTLE_TURNS: usize = 400;
const REPLICAS_MAX: u64 = 7;

struct World {
    seed: u64,
    random: u64,
    now: Timestamp,
    revision: u64,
    deployment: Value,
    sets: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
}

pub(super) fn merge(target: &mut Value, patch: &Value) {
    let (Some(target), Some(patch)) = (target.as_object_mut(), patch.as_object()) else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(_) => {
                merge(target.entry(key.clone()).or_insert_with(|| json!({})), value)
            }
            value => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: "2026-01-01T00:00:00Z".parse().expect("time"),
            revision: 1,
            deployment: Value::Null,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
        };
        let share = |world: &mut World| {
            if world.pick(2) == 0 {
                json!(world.pick(4))
            } else {
                json!(format!("{}%", world.pick(5) * 25))
            }
        };
        let strategy = if world.pick(4) == 0 {
            json!({"type": "Recreate"})
        } else {
            let (surge, unavailable) = (share(&mut world), share(&mut world));
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
        };
        world.deployment = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1, "resourceVersion": "1"},
            "spec": {
                "replicas": world.pick(REPLICAS_MAX), "strategy": strategy, "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "web:0"}]},
                },
            },
            "status": {},
        });
        world
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn deployment(&self) -> Deployment {
        serde_json::from_value(self.deployment.clone()).expect("deployment")
    }

    fn set_list(&self) -> Vec<ReplicaSet> {
        self.sets.values().map(|set| serde_json::from_value(set.clone()).expect("set")).collect()
    }

    fn pod_list(&self) -> Vec<Pod> {
        self.pods.values().map(|pod| serde_json::from_value(pod.clone()).expect("pod")).collect()
    }

    fn user(&mut self) {
        let change = match self.pick(4) {
            0 => json!({"replicas": self.pick(REPLICAS_MAX)}),
            1 => json!({"paused": self.pick(3) == 0}),
            _ => {
                let image = format!("web:{}", self.pick(4));
                json!({"template": {"spec": {"containers": [{"name": "web", "image": image}]}}})
            }
        };
        self.revision += 1;
        merge(&mut self.deployment["spec"], &change);
        let generation =
            self.deployment["metadata"]["generation"].as_i64().expect("generation") + 1;
        merge(
            &mut self.deployment,
            &json!({"metadata": {"generation": generation, "resourceVersion": self.revision.to_string()}}),
        );
    }

    fn kubelet(&mut self, kind: bool) {
        if self.pods.is_empty() {
            return;
        }
        let index = usize::try_from(self.pick(self.pods.len() as u64)).expect("index");
        let Some(name) = self.pods.keys().nth(index).cloned() else { return };
        let pod = &self.pods[&name];
        if !pod["metadata"]["deletionTimestamp"].is_null() || pod["status"]["phase"] == "Failed" {
            self.pods.remove(&name);
            return;
        }
        let choice = if kind { 0 } else { self.pick(8) };
        let (phase, ready) = match choice {
            7 => ("Failed", "False"),
            6 => ("Running", "False"),
            _ => ("Running", "True"),
        };
        let status = json!({"spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": self.now.to_string()},
        ]}});
        if let Some(pod) = self.pods.get_mut(&name) {
            merge(pod, &status);
        }
    }

    /// One planner looks; true when it wanted something.
    fn planner(&mut self, turn: u64) -> bool {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).expect("time");
        let actions = if turn == 0 {
            let observed = deployment::Observed {
                deployment: self.deployment(),
                sets: self.set_list(),
                pods: self.pod_list(),
            };
            deployment::plan(&observed, self.now)
        } else {
            let sets = self.set_list();
            let Some(set) =
                usize::try_from(turn - 1).ok().and_then(|index| sets.get(index).cloned())
            else {
                return false;
            };
            let uid = set.metadata.uid.clone();
            let mine =
                |pod: &Pod| crate::ownership::is_controlled_by(&pod.metadata, uid.as_deref());
            let pods = self.pod_list().into_iter().filter(mine).collect();
            let observed =
                replicaset::Observed { set, pods, related: BTreeMap::new(), failure: None };
            replicaset::plan(&observed, self.now)
        };
        let before = self.set_list();
        let wants = actions.iter().any(|action| !matches!(action, Action::Wake(_)));
        for action in actions {
            self.perform(action);
        }
        if turn == 0 {
            self.check_sizes(&before);
        }
        wants
    }

    fn perform(&mut self, action: Action) {
        self.revision += 1;
        let revision = self.revision.to_string();
        match action {
            Action::Create { resource, mut object, .. } => {
                let generated = format!(
                    "{}{revision}",
                    object["metadata"]["generateName"].as_str().unwrap_or_default()
                );
                let name = object["metadata"]["name"].as_str().map_or(generated, str::to_owned);
                let meta = json!({"metadata": {
                    "name": name, "uid": format!("u{revision}"), "resourceVersion": revision, "generation": 1,
                    "creationTimestamp": self.now.to_string(),
                }, "status": {}});
                merge(&mut object, &meta);
                if resource.plural == "replicasets" {
                    object["status"]["replicas"] = json!(0);
                }
                let place = if resource.plural == "pods" { &mut self.pods } else { &mut self.sets };
                assert!(
                    place.insert(name.clone(), object).is_none(),
                    "seed {}: {name} exists",
                    self.seed
                );
            }
            Action::Patch { resource, name, sub, body, .. } => {
                let object = match resource.plural {
                    "deployments" => Some(&mut self.deployment),
                    "replicasets" => self.sets.get_mut(&name),
                    _ => self.pods.get_mut(&name),
                };
                let Some(object) = object else { return };
                let expected = &body["metadata"]["resourceVersion"];
                assert!(
                    expected.is_null() || *expected == object["metadata"]["resourceVersion"],
                    "seed {}: {name} conflicts with itself",
                    self.seed
                );
                let wrong = if sub == "status" { "spec" } else { "status" };
                assert!(body.get(wrong).is_none(), "seed {}: {wrong} would be ignored", self.seed);
                let spec = object["spec"].clone();
                merge(object, &body);
                object["metadata"]["resourceVersion"] = json!(revision);
                if object["spec"] != spec {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    object["metadata"]["generation"] = json!(generation);
                }
            }
            Action::Delete { resource, target, .. } => {
                if resource.plural == "replicasets" {
                    self.sets.remove(&target.name);
                } else if let Some(pod) = self.pods.get_mut(&target.name) {
                    pod["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
                }
            }
            Action::Finalize { .. } => panic!("seed {}: no namespace here", self.seed),
            Action::Event(_) | Action::Wake(_) => {}
        }
    }

    /// Sizes of sets keep what the strategy promises.
    fn check_sizes(&self, before: &[ReplicaSet]) {
        let deployment = self.deployment();
        let size = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let total = |sets: &[ReplicaSet]| sets.iter().map(size).sum::<i32>();
        let after = self.set_list();
        let (wanted, surge, unavailable) = deployment::limits(&deployment);
        assert!(
            total(&after) <= total(before).max(wanted + surge),
            "seed {}: too many pods",
            self.seed
        );
        let strategy = &self.deployment["spec"]["strategy"]["type"];
        // A user who makes the deployment smaller gives up pods in proportion, whichever they are.
        let scaled = |set: &ReplicaSet| {
            let annotations = set.metadata.annotations.as_ref();
            let desired =
                annotations.and_then(|all| all.get("deployment.kubernetes.io/desired-replicas"));
            size(set) > 0 && desired.is_some_and(|desired| *desired != wanted.to_string())
        };
        if *strategy == "Recreate" || before.iter().any(scaled) {
            return;
        }
        let available = |set: &ReplicaSet| {
            set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
        };
        // The worst case: a set that shrinks loses its available pods last, as the ranking has it.
        let kept: i32 = after.iter().map(|set| available(set).min(size(set))).sum();
        let had: i32 = before.iter().map(|set| available(set).min(size(set))).sum();
        let sizes = |sets: &[ReplicaSet]| -> Vec<(i32, i32)> {
            sets.iter().map(|set| (size(set), available(set))).collect()
        };
        assert!(
            kept >= had.min(wanted - unavailable),
            "seed {}: available pods of {wanted}, {unavailable} may be missing: {:?} to {:?}",
            self.seed,
            sizes(before),
            sizes(&after)
        );
    }

    fn settle(&mut self) {
        merge(&mut self.deployment["spec"], &json!({"paused": false}));
        self.revision += 1;
        let generation =
            self.deployment["metadata"]["generation"].as_i64().expect("generation") + 1;
        merge(
            &mut self.deployment,
            &json!({"metadata": {"generation": generation, "resourceVersion": self.revision.to_string()}}),
        );
        let mut quiet = 0;
        for _ in 0..SETTLE_TURNS {
            for _ in 0..self.pods.len() {
                self.kubelet(true);
            }
            let mut wanted = false;
            for turn in 0..=self.sets.len() as u64 {
                wanted |= self.planner(turn);
            }
            quiet = if wanted { 0 } else { quiet + 1 };
            // Kubelets pick pods at random, so a few quiet rounds make sure that all had their turn.
            if quiet > 20 {
                return;
            }
        }
        panic!("seed {} does not settle: {:#}\n{:#?}", self.seed, self.deployment, self.sets);
    }

    fn check_settled(&self) {
        let deployment = self.deployment();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let counters = [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
            status.ready_replicas,
        ];
        let seed = self.seed;
        assert!(
            counters.iter().all(|count| count.unwrap_or(0) == wanted),
            "seed {seed}: {counters:?} of {wanted}"
        );
        assert_eq!(status.observed_generation, deployment.metadata.generation, "seed {seed}");
        let reasons: BTreeMap<String, String> = status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .map(|c| (c.type_, c.reason.unwrap_or_default()))
            .collect();
        assert_eq!(reasons["Available"], "MinimumReplicasAvailable", "seed {seed}");
        let image = &self.deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        let active = self.pod_list().into_iter().filter(pods::is_active).count();
        assert_eq!(i32::try_from(active), Ok(wanted), "seed {seed}");
        for pod in self.pods.values().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            assert_eq!(pod["spec"]["containers"][0]["image"], *image, "seed {seed}");
        }
        assert!(self.sets.len() <= 3, "seed {seed}: the history has a limit");
        let revisions: Vec<&Value> = self
            .sets
            .values()
            .map(|set| &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
            .collect();
        let current =
            &self.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        assert!(revisions.contains(&current), "seed {seed}: {revisions:?} {current}");
    }
}

#[test]
fn every_world_ends_as_its_users_want() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        for _ in 0..TURNS {
            match world.pick(10) {
                0 => world.user(),
                1..=4 => world.kubelet(false),
                5 | 6 => drop(world.planner(0)),
                _ => {
                    let turn = world.pick(world.sets.len() as u64 + 1);
                    world.planner(turn);
                }
            }
        }
        world.settle();
        world.check_settled();
    }
}
