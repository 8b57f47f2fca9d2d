//! Random changes: what is applied step by step is the same as what is made at once, to a model that is as strict as the
//! kernel, and to the kernel itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value as Json, json};

use super::world::{NAMESPACE, config, service};
use crate::inputs::Slice;
use crate::nft::{Expression, Family, Rule, Set, Verdict};
use crate::proxy::engine::Engine;
use crate::proxy::kernel::Kernel;
use crate::proxy::transaction::Step;
use crate::proxy::values::{Key, Value};
use crate::proxy::{Node, chains, sets};

const CHANGES: usize = 200;
const SERVICES: u32 = 6;

/// What the kernel would have.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Vec<Rule>>,
    elements: BTreeMap<Key, Value>,
}

impl Model {
    fn apply(&mut self, steps: &[Step]) {
        for step in steps {
            match step.clone() {
                Step::Replace(node) => {
                    *self = Self::default();
                    self.chains.extend(chains::fixed(&node));
                }
                Step::AddSet(name, set) => {
                    assert_eq!(self.sets.insert(name, set), None, "{step:?}")
                }
                Step::DeleteSet(name) => {
                    assert!(!self.mentions(|it| uses(it, &name)), "{step:?} is in use");
                    self.sets.remove(&name).unwrap_or_else(|| panic!("{step:?}"));
                }
                Step::AddChain(name) => {
                    assert_eq!(self.chains.insert(name, vec![]), None, "{step:?}");
                }
                Step::FlushChain(name) => self.chain(&name).clear(),
                Step::AddRules(name, rules) => {
                    for expression in rules.iter().flatten() {
                        self.check(expression);
                    }
                    self.chain(&name).extend(rules.iter().cloned());
                }
                Step::DeleteChain(name) => {
                    assert_eq!(*self.chain(&name), [] as [Rule; 0], "{step:?}");
                    let leads = |verdict: &Verdict| target(verdict) == Some(&*name);
                    let by_rule =
                        |it: &Expression| matches!(it, Expression::Verdict(it) if leads(it));
                    assert!(!self.mentions(by_rule), "{step:?} is in use");
                    let by_map = |it: &Value| matches!(it, Value::Verdict(it) if leads(it));
                    assert!(!self.elements.values().any(by_map), "{step:?} is in use");
                    self.chains.remove(&name);
                }
                Step::AddElement(key, value) => {
                    if let Value::Verdict(verdict) = &value {
                        self.check(&Expression::Verdict(verdict.clone()));
                    }
                    assert_eq!(self.elements.insert(key, value), None, "{step:?}");
                }
                Step::DeleteElement(key, value) => {
                    assert_eq!(self.elements.remove(&key), Some(value), "{step:?}");
                }
            }
        }
    }

    fn chain(&mut self, name: &str) -> &mut Vec<Rule> {
        self.chains.get_mut(name).unwrap_or_else(|| panic!("no chain {name}"))
    }

    fn mentions(&self, wanted: impl Fn(&Expression) -> bool) -> bool {
        self.chains.values().flatten().flatten().any(wanted)
    }

    /// That what the expression refers to is there.
    fn check(&self, expression: &Expression) {
        match expression {
            Expression::Verdict(verdict) => {
                if let Some(chain) = target(verdict) {
                    assert!(self.chains.contains_key(chain), "{chain}");
                }
            }
            Expression::Lookup { set, .. } | Expression::Update { set, .. } => {
                let fixed = sets::all(Family::V4).iter().any(|(name, _)| name == set);
                assert!(fixed || self.sets.contains_key(set), "{set}");
            }
            _ => {}
        }
    }
}

fn target(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

fn uses(expression: &Expression, name: &str) -> bool {
    let (Expression::Lookup { set, .. } | Expression::Update { set, .. }) = expression else {
        return false;
    };
    set == name
}

/// Numbers that look random and are the same in every run.
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 16) % limit
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.below(chances) == 0
    }
}

fn key(name: &str) -> client::Key {
    (NAMESPACE.to_owned(), name.to_owned())
}

fn random_spec(numbers: &mut Numbers, at: u32) -> Json {
    let policy = |numbers: &mut Numbers| if numbers.one_in(2) { "Local" } else { "Cluster" };
    let mut spec = json!({
        "clusterIP": format!("10.43.7.{at}"), "type": "LoadBalancer",
        "externalTrafficPolicy": policy(numbers), "internalTrafficPolicy": policy(numbers),
    });
    if numbers.one_in(2) {
        spec["nodePort"] = (30_000 + at).into();
    }
    if numbers.one_in(3) {
        // Two Services may want the same.
        spec["externalIPs"] = json!([format!("198.51.100.{}", numbers.below(2))]);
    }
    if numbers.one_in(3) {
        spec["sessionAffinity"] = "ClientIP".into();
        let seconds = 10 + numbers.below(2);
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    if numbers.one_in(4) {
        spec["loadBalancerSourceRanges"] = json!([format!("203.0.{}.0/24", numbers.below(3))]);
    }
    spec
}

fn random_slice(numbers: &mut Numbers, name: &str) -> Arc<Slice> {
    let count = if numbers.one_in(6) { numbers.below(80) } else { numbers.below(4) };
    let endpoints: Vec<Json> = (0..count)
        .map(|at| {
            let node = if numbers.one_in(3) { "here" } else { "there" };
            let ready = !numbers.one_in(3);
            let terminating = !ready && numbers.one_in(2);
            json!({"addresses": [format!("10.42.{}.{at}", numbers.below(2))], "nodeName": node,
                   "conditions": {"ready": ready, "terminating": terminating}})
        })
        .collect();
    super::world::slice(name, &endpoints)
}

/// A change of a Service, its endpoints, a pod or the node.
fn change(engine: &mut Engine, numbers: &mut Numbers, slices: &mut BTreeMap<String, Arc<Slice>>) {
    let at = numbers.below(SERVICES);
    let name = format!("service-{at}");
    match numbers.below(12) {
        0 => engine.change_service(&key(&name), None),
        1..=4 => {
            let ingress: &[&str] = if numbers.one_in(2) { &["192.0.2.1"] } else { &[] };
            let new = service(&name, random_spec(numbers, at), ingress);
            engine.change_service(&key(&name), Some(new));
        }
        5 => {
            let old = slices.remove(&name);
            engine.change_slice(&key(&name), old.as_deref(), None);
        }
        6 => {
            let address: IpAddr =
                if numbers.one_in(2) { [192, 0, 2, 1] } else { [192, 0, 2, 7] }.into();
            let addresses: BTreeSet<IpAddr> = [address].into();
            engine.set_node(Node { addresses, ..Node::new(&config()) });
        }
        7 => {
            let port = json!([{"containerPort": 80, "hostPort": 8000 + numbers.below(2)}]);
            let pod = json!({"metadata": {}, "spec": {"containers": [{"ports": port}]},
                             "status": {"podIP": format!("10.42.0.{at}")}});
            let pod = (!numbers.one_in(2)).then(|| Arc::new(serde_json::from_value(pod).unwrap()));
            engine.change_pod(&key(&name), pod);
        }
        _ => {
            let new = random_slice(numbers, &name);
            let old = slices.insert(name.clone(), new.clone());
            engine.change_slice(&key(&name), old.as_deref(), Some(new));
        }
    }
}

#[test]
fn changes_lead_where_a_new_beginning_would() {
    for seed in 0..3 {
        let mut numbers = Numbers(seed);
        let mut engine = Engine::new(Node::new(&config()));
        let (mut slices, mut model) = (BTreeMap::new(), Model::default());
        drop(engine.plan());
        model.apply(&engine.everything());
        for _ in 0..CHANGES {
            for _ in 0..=numbers.below(3) {
                change(&mut engine, &mut numbers, &mut slices);
            }
            model.apply(&engine.plan().steps());
            let mut anew = Model::default();
            anew.apply(&engine.everything());
            assert_eq!(model, anew, "seed {seed}");
        }
    }
}

/// Rules that the command `nft` does not understand make it abort, for all rules of the machine. Without it there is nothing
/// to break.
fn nft_can_list() {
    if let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{error}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("chain lead-address"));
    }
}

#[test]
fn the_kernel_takes_every_change() {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        let mut numbers = Numbers(99);
        let mut engine = Engine::new(Node::new(&config()));
        let mut slices = BTreeMap::new();
        let mut kernel = Kernel::open(Family::V4).unwrap();
        for _ in 0..CHANGES {
            for _ in 0..=numbers.below(3) {
                change(&mut engine, &mut numbers, &mut slices);
            }
            kernel.update(&mut engine).unwrap_or_else(|error| panic!("{error}"));
        }
        nft_can_list();
    };
    std::thread::spawn(run).join().unwrap();
}

/// The same with long addresses, which no node uses yet.
#[test]
fn the_kernel_takes_rules_for_ipv6() {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        let config = crate::proxy::Config {
            node_ips: vec!["2001:db8::1".parse().unwrap()],
            cluster_cidr: "fd42::/56".parse().unwrap(),
            service_cidr: "fd43::/112".parse().unwrap(),
            cluster_dns: "fd43::a".parse().unwrap(),
            ..config()
        };
        let mut engine = Engine::new(Node { family: Family::V6, ..Node::new(&config) });
        let mut kernel = Kernel::open(Family::V6).unwrap();
        let affine = json!({"clusterIP": "fd43::8", "sessionAffinity": "ClientIP"});
        let ranges = ["2001:db8::/32"];
        let spec = json!({"type": "LoadBalancer", "clusterIP": "fd43::7", "nodePort": 30080,
                          "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ranges});
        let endpoints = ["fd42::2", "fd42::3"].map(super::world::here);
        let slice = super::world::slice("web", &endpoints);
        engine.change_service(&key("web"), Some(service("web", spec, &["2001:db8::1"])));
        engine.change_slice(&key("web"), None, Some(slice.clone()));
        engine.change_service(&key("affine"), Some(service("affine", affine, &[])));
        let of_affine = super::world::slice("affine", &endpoints);
        engine.change_slice(&key("affine"), None, Some(of_affine));
        kernel.update(&mut engine).unwrap_or_else(|error| panic!("{error}"));
        nft_can_list();
        engine.change_slice(&key("web"), Some(&slice), None);
        assert!(kernel.update(&mut engine).unwrap().bytes > 0);
    };
    std::thread::spawn(run).join().unwrap();
}
