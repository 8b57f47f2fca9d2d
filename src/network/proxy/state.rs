//! The whole ruleset as a value: the fragments of all owners, and what follows from them together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::Node;
use super::chains;
use super::sets;
use super::transaction::Transaction;
use super::values::{Datagrams, Fragment, IDS, Key, Kind, Owner, Pick, Protocol, Rules, Value};
use crate::nft::Family;

/// Chains that choose among so many endpoints as no Service has just now.
const PICKS_IDLE_MAX: usize = 64;

/// Numbers of the ports of Services. A number is not given again soon: packets that met the old ruleset halfway must not
/// find another Service under it.
#[derive(Default)]
pub(crate) struct Ids {
    next: u32,
    used: HashSet<u32>,
    ports: HashMap<Arc<client::Key>, BTreeMap<(Protocol, u16), u32>>,
}

impl Ids {
    pub(crate) fn get(&mut self, service: &Arc<client::Key>, port: (Protocol, u16)) -> u32 {
        let ports = self.ports.entry(service.clone()).or_default();
        let (next, used) = (&mut self.next, &mut self.used);
        *ports.entry(port).or_insert_with(|| {
            while !used.insert(*next) {
                *next = (*next + 1) % IDS;
            }
            let id = *next;
            *next = (*next + 1) % IDS;
            id
        })
    }

    /// Forgets the numbers of ports that are not in `kept`.
    pub(crate) fn retain(&mut self, service: &Arc<client::Key>, kept: &BTreeSet<u32>) {
        let Some(ports) = self.ports.get_mut(service) else { return };
        let used = &mut self.used;
        ports.retain(|_, id| kept.contains(id) || !used.remove(id));
        if ports.is_empty() {
            self.ports.remove(service);
        }
    }
}

/// All fragments, with what they share.
#[derive(Default)]
pub(crate) struct State {
    fragments: HashMap<Owner, Fragment>,
    /// Who asks for a key, lowest first.
    holders: HashMap<Key, Vec<Owner>>,
    kinds: HashMap<Kind, usize>,
    /// Users of the chains that choose. A chain without any stays for the next.
    picks: HashMap<Pick, usize>,
}

impl State {
    /// Puts a fragment in place of the owner's last one, and adds what that changes to the transaction.
    pub(crate) fn change(
        &mut self,
        owner: &Owner,
        fragment: Fragment,
        node: &Node,
        transaction: &mut Transaction,
    ) {
        let old = self.fragments.remove(owner).unwrap_or_default();
        if old == fragment {
            if old != Fragment::default() {
                self.fragments.insert(owner.clone(), old);
            }
            return;
        }
        if old.kinds != fragment.kinds {
            self.change_kinds((&old, &fragment), node, transaction);
        }
        transaction.own(&old, &fragment);
        note_datagrams(&old, &fragment, transaction);
        let keys: BTreeSet<Key> =
            old.elements.keys().chain(fragment.elements.keys()).copied().collect();
        let before: Vec<Option<Value>> =
            keys.iter().map(|key| self.value(key, (owner, &old))).collect();
        for key in &keys {
            self.hold(*key, owner, fragment.elements.contains_key(key));
        }
        for (key, before) in keys.iter().zip(before) {
            transaction.element(*key, before, self.value(key, (owner, &fragment)));
        }
        if fragment != Fragment::default() {
            self.fragments.insert(owner.clone(), fragment);
        }
    }

    fn change_kinds(
        &mut self,
        (old, new): (&Fragment, &Fragment),
        node: &Node,
        transaction: &mut Transaction,
    ) {
        // Most changes find other users of their kinds.
        let comes = |kind: &&Kind| !self.kinds.contains_key(kind);
        let goes = |kind: &&Kind| self.kinds.get(kind) == Some(&1);
        let (added, removed) = (&new.kinds - &old.kinds, &old.kinds - &new.kinds);
        let mut changed = added.iter().filter(comes).chain(removed.iter().filter(goes));
        let leads = changed.any(|kind| kind.affine.is_none()).then(|| self.leads(node.family));
        for kind in added {
            self.use_kind(kind, node, transaction);
        }
        for kind in removed {
            self.drop_kind(kind, node, transaction);
        }
        for ((chain, before), (_, after)) in
            leads.into_iter().flat_map(|leads| leads.into_iter().zip(self.leads(node.family)))
        {
            transaction.chain(chain, Some(before), Some(after));
        }
    }

    /// The chains that know the sets of all kinds.
    fn leads(&self, family: Family) -> [(String, Rules); 2] {
        [false, true].map(|node| {
            let mut kinds: Vec<Kind> = self
                .kinds
                .keys()
                .filter(|it| it.node == node && it.affine.is_none())
                .copied()
                .collect();
            kinds.sort();
            (chains::lead_name(node).to_owned(), Arc::new(chains::lead_kinds(&kinds, family)))
        })
    }

    /// The value of a key, when `own` is the fragment of its owner.
    fn value(&self, key: &Key, own: (&Owner, &Fragment)) -> Option<Value> {
        let first = self.holders.get(key)?.first()?;
        let fragment = if first == own.0 { own.1 } else { self.fragments.get(first)? };
        fragment.elements.get(key).cloned()
    }

    fn hold(&mut self, key: Key, owner: &Owner, holds: bool) {
        let holders = self.holders.entry(key).or_default();
        match (holders.binary_search(owner), holds) {
            (Err(at), true) => {
                holders.insert(at, owner.clone());
                if holders.len() > 1 && matches!(key, Key::Service(_) | Key::HostPort(_)) {
                    let first = &holders[0];
                    tracing::warn!(?key, ?first, ?owner, "asked for twice, the first has it");
                }
            }
            (Ok(at), false) => {
                holders.remove(at);
            }
            _ => {}
        }
        if holders.is_empty() {
            self.holders.remove(&key);
        }
    }

    fn use_kind(&mut self, kind: Kind, node: &Node, transaction: &mut Transaction) {
        if !is_first(&mut self.kinds, kind) {
            return;
        }
        for pick in kind.picks().filter(|pick| !pick.is_ready()) {
            if !self.picks.contains_key(&pick) {
                let rules = chains::pick(pick, node.family);
                transaction.chain(pick.chain(), None, Some(Arc::new(rules)));
            }
            *self.picks.entry(pick).or_default() += 1;
        }
        note_kind(kind, node, transaction, true);
    }

    fn drop_kind(&mut self, kind: Kind, node: &Node, transaction: &mut Transaction) {
        if !is_last(&mut self.kinds, kind) {
            return;
        }
        for pick in kind.picks() {
            if let Some(users) = self.picks.get_mut(&pick) {
                *users = users.saturating_sub(1);
            }
        }
        if self.picks.values().filter(|users| **users == 0).count() > PICKS_IDLE_MAX {
            self.picks.retain(|pick, users| {
                if *users == 0 {
                    let rules = chains::pick(*pick, node.family);
                    transaction.chain(pick.chain(), Some(Arc::new(rules)), None);
                }
                *users > 0
            });
        }
        note_kind(kind, node, transaction, false);
    }

    /// Everything, as a change from nothing.
    pub(crate) fn all(&self, node: &Node) -> Transaction {
        let mut all = Transaction::default();
        for (chain, rules) in self.leads(node.family) {
            all.chain(chain, Some(Arc::default()), Some(rules));
        }
        for kind in self.kinds.keys() {
            note_kind(*kind, node, &mut all, true);
        }
        for pick in self.picks.keys() {
            let rules = Arc::new(chains::pick(*pick, node.family));
            all.chain(pick.chain(), None, Some(rules));
        }
        for (owner, fragment) in &self.fragments {
            all.own(&Fragment::default(), fragment);
            for key in fragment.elements.keys() {
                all.element(*key, None, self.value(key, (owner, fragment)));
            }
        }
        all
    }

    /// Who answers at each front, of those for UDP.
    pub(crate) fn datagrams(&self) -> Datagrams {
        let all = self.fragments.values().flat_map(|fragment| &fragment.datagrams);
        all.map(|(front, backends)| (*front, backends.clone())).collect()
    }
}

/// The chain of a kind, and the set of its fronts.
fn note_kind(kind: Kind, node: &Node, transaction: &mut Transaction, there: bool) {
    let rules = Some(Arc::new(chains::kind(kind, node)));
    let set = Some(sets::fronts(node.family));
    let (rules, set) =
        if there { ((None, rules), (None, set)) } else { ((rules, None), (set, None)) };
    transaction.chain(kind.chain(), rules.0, rules.1);
    if let Some(name) = kind.set() {
        transaction.set(name, set.0, set.1);
    }
}

/// Notes the fronts whose endpoints went away or came for the first time.
fn note_datagrams(old: &Fragment, new: &Fragment, transaction: &mut Transaction) {
    let none = Arc::default();
    for (front, before) in &old.datagrams {
        let after = new.datagrams.get(front).unwrap_or(&none);
        if !before.is_subset(after) || (before.is_empty() && !after.is_empty()) {
            transaction.datagrams.insert(*front, after.clone());
        }
    }
    for (front, after) in &new.datagrams {
        if !old.datagrams.contains_key(front) && !after.is_empty() {
            transaction.datagrams.insert(*front, after.clone());
        }
    }
}

fn is_first<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) -> bool {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count == 1
}

fn is_last<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) -> bool {
    let Some(count) = counts.get_mut(&key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(&key);
    }
    last
}
