//! Affinity and anti-affinity between pods.

use std::collections::BTreeMap;

use api::LabelSelector;
use k8s_openapi::api::core::v1::{Affinity, Namespace, Node, Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::filter::Refusal;
use crate::snapshot::{PodFacts, Snapshot};

/// Labels of namespaces, by name.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

pub(crate) fn namespaces<'a>(all: impl Iterator<Item = &'a Namespace>) -> Namespaces {
    let entry = |namespace: &Namespace| {
        let name = namespace.metadata.name.clone()?;
        Some((name, namespace.metadata.labels.clone().unwrap_or_default()))
    };
    all.filter_map(entry).collect()
}

/// A term, made ready to be compared with many pods.
struct Term<'a> {
    selector: LabelSelector,
    topology_key: &'a str,
    namespaces: Vec<String>,
    /// Selects further namespaces by their labels.
    namespace_selector: Option<LabelSelector>,
}

impl<'a> Term<'a> {
    fn new(term: &'a PodAffinityTerm, owner: &Pod) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(owner.metadata.namespace.clone());
        }
        Self {
            selector: selector(term, owner),
            topology_key: &term.topology_key,
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(parse),
        }
    }

    fn matches(&self, pod: &Pod, known: &Namespaces) -> bool {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let by_labels = || {
            let labels = known.get(namespace).unwrap_or(&NONE);
            self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(labels))
        };
        (self.namespaces.iter().any(|name| name == namespace) || by_labels())
            && self.selector.matches(pod.metadata.labels.as_ref().unwrap_or(&NONE))
    }
}

/// The selector with what `matchLabelKeys` and `mismatchLabelKeys` add to it.
fn selector(term: &PodAffinityTerm, owner: &Pod) -> LabelSelector {
    let Some(selector) = &term.label_selector else { return LabelSelector::nothing() };
    let mut selector = selector.clone();
    let label =
        |key: &String| owner.metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned());
    let expressions = selector.match_expressions.get_or_insert_default();
    for (keys, operator) in [(&term.match_label_keys, "In"), (&term.mismatch_label_keys, "NotIn")] {
        for (key, value) in keys.iter().flatten().filter_map(|key| Some((key, label(key)?))) {
            expressions.push(meta::LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value]),
            });
        }
    }
    parse(&selector)
}

/// A selector that cannot be read matches nothing.
pub(crate) fn parse(selector: &meta::LabelSelector) -> LabelSelector {
    let value = serde_json::to_value(selector).unwrap_or_default();
    LabelSelector::from_value(&value).unwrap_or_else(|_| LabelSelector::nothing())
}

fn affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

fn required_affinity(pod: &Pod) -> Vec<Term<'_>> {
    let terms = affinity(pod).and_then(|affinity| {
        affinity.pod_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
    });
    terms.into_iter().flatten().map(|term| Term::new(term, pod)).collect()
}

fn required_anti_affinity(pod: &Pod) -> Vec<Term<'_>> {
    let terms = affinity(pod).and_then(|affinity| {
        affinity
            .pod_anti_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    terms.into_iter().flatten().map(|term| Term::new(term, pod)).collect()
}

/// A value of a topology label.
type Domain = (String, String);

fn domain(node: &Node, key: &str) -> Option<Domain> {
    let value = node.metadata.labels.as_ref()?.get(key)?;
    Some((key.to_owned(), value.clone()))
}

/// What one cycle counts once for all nodes.
pub(crate) struct InterPod<'a> {
    affinity: Vec<Term<'a>>,
    anti_affinity: Vec<Term<'a>>,
    /// Per own affinity term: domains with pods that match all terms.
    attracting: Vec<BTreeMap<Domain, usize>>,
    repelling: Vec<BTreeMap<Domain, usize>>,
    /// Domains that existing pods do not want to share with this pod.
    forbidden: BTreeMap<Domain, usize>,
    /// The pod matches its own affinity, so it may be the first of its kind.
    attracts_itself: bool,
    preferences: BTreeMap<Domain, i64>,
}

impl<'a> InterPod<'a> {
    pub(crate) fn new(
        facts: &'a PodFacts,
        snapshot: &Snapshot,
        known: &Namespaces,
    ) -> Option<Self> {
        let pod = &*facts.pod;
        if affinity(pod)
            .is_none_or(|own| own.pod_affinity.is_none() && own.pod_anti_affinity.is_none())
            && !snapshot.has_anti_affinity()
        {
            return None;
        }
        let (affinity, anti_affinity) = (required_affinity(pod), required_anti_affinity(pod));
        let mut this = Self {
            attracting: vec![BTreeMap::new(); affinity.len()],
            repelling: vec![BTreeMap::new(); anti_affinity.len()],
            attracts_itself: affinity.iter().all(|term| term.matches(pod, known)),
            affinity,
            anti_affinity,
            forbidden: BTreeMap::new(),
            preferences: BTreeMap::new(),
        };
        let preferred = preferred(pod);
        for (_, node, state) in snapshot.nodes() {
            for other in state.pods.values() {
                this.count(pod, other, node, known);
                for (weight, term) in
                    preferred.iter().filter(|(_, term)| term.matches(&other.pod, known))
                {
                    if let Some(domain) = domain(node, term.topology_key) {
                        *this.preferences.entry(domain).or_insert(0) += weight;
                    }
                }
            }
        }
        Some(this)
    }

    fn count(&mut self, pod: &Pod, other: &PodFacts, node: &Node, known: &Namespaces) {
        if !self.affinity.is_empty()
            && self.affinity.iter().all(|term| term.matches(&other.pod, known))
        {
            for (term, domains) in self.affinity.iter().zip(&mut self.attracting) {
                if let Some(domain) = domain(node, term.topology_key) {
                    *domains.entry(domain).or_insert(0) += 1;
                }
            }
        }
        for (term, domains) in self.anti_affinity.iter().zip(&mut self.repelling) {
            if let Some(domain) =
                domain(node, term.topology_key).filter(|_| term.matches(&other.pod, known))
            {
                *domains.entry(domain).or_insert(0) += 1;
            }
        }
        if other.has_anti_affinity {
            for term in required_anti_affinity(&other.pod) {
                if let Some(domain) =
                    domain(node, term.topology_key).filter(|_| term.matches(pod, known))
                {
                    *self.forbidden.entry(domain).or_insert(0) += 1;
                }
            }
        }
    }

    pub(crate) fn refusal(&self, node: &Node) -> Option<Refusal> {
        if !self.affinity_holds(node) {
            return Some(Refusal::for_good("node(s) didn't match pod affinity rules"));
        }
        let repelled = self.anti_affinity.iter().zip(&self.repelling).any(|(term, domains)| {
            domain(node, term.topology_key).is_some_and(|domain| domains.contains_key(&domain))
        });
        if repelled {
            return Some(Refusal::for_now("node(s) didn't match pod anti-affinity rules"));
        }
        let labels = node.metadata.labels.iter().flatten();
        let mut domains = labels.map(|(key, value)| (key.clone(), value.clone()));
        if domains.any(|domain| self.forbidden.contains_key(&domain)) {
            return Some(Refusal::for_now(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        None
    }

    fn affinity_holds(&self, node: &Node) -> bool {
        let domains: Option<Vec<Domain>> =
            self.affinity.iter().map(|term| domain(node, term.topology_key)).collect();
        let Some(domains) = domains else { return false };
        let near =
            domains.iter().zip(&self.attracting).all(|(domain, known)| known.contains_key(domain));
        let nobody = self.attracting.iter().all(BTreeMap::is_empty);
        near || (nobody && self.attracts_itself)
    }

    /// How much the node's surroundings please the pod.
    pub(crate) fn preference(&self, node: &Node) -> i64 {
        let met = self.preferences.iter().filter(|((key, value), _)| {
            node.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
        });
        met.map(|(_, weight)| weight).sum()
    }
}

/// Preferred terms with their weights, those of anti-affinity negative.
fn preferred(pod: &Pod) -> Vec<(i64, Term<'_>)> {
    let affinity = affinity(pod);
    let near = affinity.and_then(|affinity| {
        affinity
            .pod_affinity
            .as_ref()?
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let far = affinity.and_then(|affinity| {
        affinity
            .pod_anti_affinity
            .as_ref()?
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let near = near.into_iter().flatten().map(|term| (1, term));
    let far = far.into_iter().flatten().map(|term| (-1, term));
    let all = near.chain(far);
    all.map(|(sign, term)| (sign * i64::from(term.weight), Term::new(&term.pod_affinity_term, pod)))
        .collect()
}
