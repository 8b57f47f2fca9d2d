//! The difference between two rulesets, and its form for the kernel.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::chains::{self, octets};
use super::sets;
use super::values::{Datagrams, Fragment, Front, Key, Rules, Value};
use crate::nft::{Batch, Element, Family, Set, Verdict};

/// The table of a family; the kernel keeps those of the families apart.
pub(crate) const TABLE: &str = "copepod-services";

/// What there was, and what there is to be. Changes that cancel each other out leave nothing to do.
#[derive(Debug)]
pub(crate) struct Pair<T> {
    before: Option<T>,
    after: Option<T>,
}

/// Net changes by name, in any order.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    elements: BTreeMap<Key, Pair<Value>>,
    chains: BTreeMap<String, Pair<Rules>>,
    sets: BTreeMap<String, Pair<Set>>,
    /// Fronts for UDP whose connections may be stale, with who answers now.
    pub(crate) datagrams: Datagrams,
}

/// Adds a change to those that are noted already.
fn note<K: Ord, T>(map: &mut BTreeMap<K, Pair<T>>, key: K, before: Option<T>, after: Option<T>) {
    match map.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(Pair { before, after });
        }
        Entry::Occupied(mut entry) => entry.get_mut().after = after,
    }
}

impl Transaction {
    pub(crate) fn element(&mut self, key: Key, before: Option<Value>, after: Option<Value>) {
        note(&mut self.elements, key, before, after);
    }

    pub(crate) fn chain(&mut self, name: String, before: Option<Rules>, after: Option<Rules>) {
        note(&mut self.chains, name, before, after);
    }

    pub(crate) fn set(&mut self, name: String, before: Option<Set>, after: Option<Set>) {
        note(&mut self.sets, name, before, after);
    }

    /// What changes of an owner's own chains and sets.
    pub(crate) fn own(&mut self, old: &Fragment, new: &Fragment) {
        let names: BTreeSet<&String> = old.chains.keys().chain(new.chains.keys()).collect();
        for name in names {
            let (before, after) = (old.chains.get(name), new.chains.get(name));
            note(&mut self.chains, name.clone(), before.cloned(), after.cloned());
        }
        let names: BTreeSet<&String> = old.sets.keys().chain(new.sets.keys()).collect();
        for name in names {
            let (before, after) = (old.sets.get(name), new.sets.get(name));
            note(&mut self.sets, name.clone(), before.copied(), after.copied());
        }
    }

    /// The steps for the kernel, in an order it accepts: what is referred to comes before and goes after.
    pub(crate) fn steps(self) -> Vec<Step> {
        let mut chains = self.chains;
        let mut sets = self.sets;
        // The time of clients is a property of their set: one that changes is a new set, and rules refer to it by name.
        let replaced: Vec<String> = sets
            .iter()
            .filter(|(_, it)| it.before.is_some() && it.after.is_some() && it.before != it.after)
            .map(|(name, _)| name.clone())
            .collect();
        sets.retain(|_, pair| pair.before != pair.after);
        if replaced.is_empty() {
            chains.retain(|_, pair| pair.before != pair.after);
        }
        let mut elements = self.elements;
        elements.retain(|_, pair| pair.before != pair.after);
        let mut steps = Vec::new();
        add_steps(&mut steps, chains, sets, elements);
        steps
    }
}

/// One thing the kernel is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Begins with an empty table and what is always in it.
    Replace(Box<Node>),
    AddSet(String, Set),
    AddChain(String),
    DeleteElement(Key, Value),
    FlushChain(String),
    AddRules(String, Rules),
    DeleteChain(String),
    DeleteSet(String),
    AddElement(Key, Value),
}

fn add_steps(
    steps: &mut Vec<Step>,
    chains: BTreeMap<String, Pair<Rules>>,
    sets: BTreeMap<String, Pair<Set>>,
    elements: BTreeMap<Key, Pair<Value>>,
) {
    let new = chains.iter().filter(|(_, it)| it.before.is_none() && it.after.is_some());
    steps.extend(new.map(|(name, _)| Step::AddChain(name.clone())));
    let gone = elements.iter().filter_map(|(key, pair)| Some((*key, pair.before.clone()?)));
    let gone = by_set(gone.collect()).into_iter();
    steps.extend(gone.map(|(key, value)| Step::DeleteElement(key, value)));
    let changed = chains.iter().filter(|(_, it)| it.before.is_some());
    steps.extend(changed.map(|(name, _)| Step::FlushChain(name.clone())));
    let gone = sets.iter().filter(|(_, it)| it.before.is_some());
    steps.extend(gone.map(|(name, _)| Step::DeleteSet(name.clone())));
    for (name, pair) in &sets {
        steps.extend(pair.after.map(|set| Step::AddSet(name.clone(), set)));
    }
    for (name, pair) in &chains {
        let rules = pair.after.clone();
        steps.extend(rules.map(|rules| Step::AddRules(name.clone(), rules)));
    }
    let gone = chains.into_iter().filter(|(_, it)| it.before.is_some() && it.after.is_none());
    steps.extend(gone.map(|(name, _)| Step::DeleteChain(name)));
    let added = elements.into_iter().filter_map(|(key, pair)| Some((key, pair.after?)));
    let added = by_set(added.collect()).into_iter();
    steps.extend(added.map(|(key, value)| Step::AddElement(key, value)));
}

/// Elements of one set follow each other, so that they go in one message.
fn by_set(mut elements: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
    elements.sort_by_cached_key(|(key, value)| set_of(key, value));
    elements
}

/// Steps as messages. Returns with the batch which step each message belongs to: the first sequence number of each.
pub(crate) fn encode(steps: &[Step], family: Family) -> (Batch, Vec<u32>) {
    let mut batch = Batch::of(family);
    let mut firsts = Vec::with_capacity(steps.len());
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        let first = batch.sequence();
        let count = match step {
            Step::AddElement(..) | Step::DeleteElement(..) => {
                encode_elements(&mut batch, &steps[at..], family)
            }
            _ => {
                encode_step(&mut batch, step);
                1
            }
        };
        firsts.extend(std::iter::repeat_n(first, count));
        at += count;
    }
    (batch, firsts)
}

fn encode_step(batch: &mut Batch, step: &Step) {
    match step {
        Step::Replace(node) => replace(batch, node),
        Step::AddSet(name, set) => batch.set(TABLE, name, set),
        Step::AddChain(name) => batch.inner_chain(TABLE, name),
        Step::FlushChain(name) => batch.flush_chain(TABLE, name),
        Step::AddRules(name, rules) => rules.iter().for_each(|rule| batch.rule(TABLE, name, rule)),
        Step::DeleteChain(name) => batch.delete_chain(TABLE, name),
        Step::DeleteSet(name) => batch.delete_set(TABLE, name),
        Step::AddElement(..) | Step::DeleteElement(..) => {}
    }
}

fn replace(batch: &mut Batch, node: &Node) {
    batch.replace_table(TABLE);
    for (name, set) in sets::all(node.family) {
        batch.set(TABLE, name, &set);
    }
    let base = chains::base();
    for chain in &base {
        batch.chain(TABLE, chain.name, &chain.hook);
    }
    let fixed = chains::fixed(node);
    for (name, _) in fixed.iter().filter(|(name, _)| base.iter().all(|it| it.name != name)) {
        batch.inner_chain(TABLE, name);
    }
    for (name, rules) in &fixed {
        rules.iter().for_each(|rule| batch.rule(TABLE, name, rule));
    }
}

/// Puts the elements of one set that follow each other into one message; returns how many steps that were.
fn encode_elements(batch: &mut Batch, steps: &[Step], family: Family) -> usize {
    let parts = |step: &Step| match step {
        Step::AddElement(key, value) => {
            Some((true, set_of(key, value), element(key, value, family)))
        }
        Step::DeleteElement(key, value) => {
            Some((false, set_of(key, value), element(key, value, family)))
        }
        _ => None,
    };
    let mut parts = steps.iter().map_while(parts).peekable();
    let Some((adds, set)) = parts.peek().map(|(adds, set, _)| (*adds, set.clone())) else {
        return 1;
    };
    let elements: Vec<Element> = parts
        .take_while(|(other, name, _)| *other == adds && *name == set)
        .map(|(_, _, element)| element)
        .collect();
    if adds {
        batch.add_elements(TABLE, &set, &elements);
    } else {
        batch.delete_elements(TABLE, &set, &elements);
    }
    elements.len()
}

fn set_of(key: &Key, value: &Value) -> Cow<'static, str> {
    let name = match (key, value) {
        (_, Value::Kind(kind)) => {
            return kind.set().map_or(Cow::Borrowed("affine"), Cow::Owned);
        }
        (Key::Refused(_), Value::Refused { elsewhere: true }) => "dropped",
        (Key::Refused(_), _) => "refused",
        (Key::NodeIp(_), _) => "node-ips",
        (Key::ClusterIp(_), _) => "cluster-ips",
        (Key::Service(_) | Key::Led(_), _) => "services",
        (Key::Endpoint { .. }, _) => "endpoints",
        (Key::HostPort(_), _) => "host-ports",
        (Key::Firewall(_), _) => "firewall",
        (Key::Hairpin(_), _) => "hairpin",
    };
    Cow::Borrowed(name)
}

fn element(key: &Key, value: &Value, family: Family) -> Element {
    let key = key_bytes(key, family);
    match value {
        Value::Nothing | Value::Refused { .. } => Element::Key(key),
        Value::Kind(kind) => match kind.affine {
            Some(_) => Element::Verdict(key, Verdict::Goto(kind.chain())),
            None => Element::Key(key),
        },
        Value::Backend((address, port)) => {
            let mut bytes = octets(*address);
            push_port(&mut bytes, *port);
            Element::Value(key, bytes)
        }
        Value::Verdict(verdict) => Element::Verdict(key, verdict.clone()),
    }
}

fn key_bytes(key: &Key, family: Family) -> Vec<u8> {
    match key {
        Key::NodeIp(address) | Key::ClusterIp(address) => octets(*address),
        Key::Hairpin(address) => octets(*address).repeat(2),
        Key::Endpoint { front, slot } => {
            let mut bytes = front_bytes(front, family);
            bytes.extend_from_slice(&slot.to_ne_bytes());
            bytes
        }
        Key::Service(front)
        | Key::Led(front)
        | Key::Refused(front)
        | Key::HostPort(front)
        | Key::Firewall(front) => front_bytes(front, family),
    }
}

fn front_bytes(front: &Front, family: Family) -> Vec<u8> {
    let any = || vec![0; family.address_bytes() as usize];
    let mut bytes = front.address.map_or_else(any, octets);
    bytes.extend_from_slice(&[front.protocol as u8, 0, 0, 0]);
    push_port(&mut bytes, front.port);
    bytes
}

/// Parts of keys fill registers of four bytes.
fn push_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
}
