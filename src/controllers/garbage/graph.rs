//! The index from owner uid to dependents, and which items a change makes worth a look.

use std::collections::{BTreeMap, BTreeSet};

use client::{PartialObject, key_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::plan::waits_for_dependents;

/// An object, by the index of its kind in the table of metadata caches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) kind: usize,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Default)]
pub(super) struct Graph {
    dependents: BTreeMap<String, BTreeSet<Item>>,
    /// The place of every object that has or had dependents, found when one of them goes.
    places: BTreeMap<String, Item>,
}

impl Graph {
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Takes a change in and returns the items to look at.
    pub(super) fn change(
        &mut self,
        kind: usize,
        old: Option<&PartialObject>,
        new: Option<&PartialObject>,
    ) -> Vec<Item> {
        let Some(object) = new.or(old) else { return Vec::new() };
        if old.zip(new).is_some_and(|(old, new)| same_bonds(old, new)) {
            return Vec::new();
        }
        let (namespace, name) = key_of(object);
        let item = Item { kind, namespace, name };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let replaced = old.filter(|old| old.metadata.uid != object.metadata.uid);
        let mut items = replaced.map(|old| self.gone(&item, old)).unwrap_or_default();
        match new {
            None => items.extend(self.gone(&item, object)),
            Some(new) => {
                items.extend(self.unlink_lost(&item, old.filter(|_| replaced.is_none()), new));
                self.link(&item, new);
                if needs_place(new) {
                    self.places.insert(uid.clone(), item.clone());
                }
                if waits_for_dependents(&new.metadata)
                    && !old.is_some_and(|old| waits_for_dependents(&old.metadata))
                {
                    items.extend(self.dependents(&uid));
                }
                if new.metadata.owner_references.is_some()
                    || new.metadata.deletion_timestamp.is_some()
                {
                    items.push(item);
                }
            }
        }
        items
    }

    /// An object is gone: its dependents have lost an owner, its owners may have waited for it.
    fn gone(&mut self, item: &Item, object: &PartialObject) -> Vec<Item> {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        self.places.remove(uid);
        let mut items = self.dependents(uid);
        for owner in references(object) {
            items.extend(self.unlink(item, owner));
        }
        items
    }

    fn link(&mut self, item: &Item, object: &PartialObject) {
        for owner in references(object) {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.clone());
        }
    }

    /// Drops owners that the new version of an object no longer names.
    fn unlink_lost(
        &mut self,
        item: &Item,
        old: Option<&PartialObject>,
        new: &PartialObject,
    ) -> Vec<Item> {
        let lost = old.into_iter().flat_map(references);
        let lost = lost.filter(|owner| !references(new).any(|kept| kept.uid == owner.uid));
        lost.filter_map(|owner| self.unlink(item, owner)).collect()
    }

    /// Returns the owner, which may wait for this.
    fn unlink(&mut self, item: &Item, owner: &OwnerReference) -> Option<Item> {
        if let Some(items) = self.dependents.get_mut(&owner.uid) {
            items.remove(item);
            if items.is_empty() {
                self.dependents.remove(&owner.uid);
            }
        }
        self.places.get(&owner.uid).cloned()
    }
}

/// A heartbeat or a change of status: nothing that ownership depends on.
fn same_bonds(old: &PartialObject, new: &PartialObject) -> bool {
    let (old, new) = (&old.metadata, &new.metadata);
    old.uid == new.uid
        && old.owner_references == new.owner_references
        && old.finalizers == new.finalizers
        && old.deletion_timestamp == new.deletion_timestamp
}

/// Only owners that wait for their dependents are looked up by uid.
fn needs_place(object: &PartialObject) -> bool {
    object.metadata.deletion_timestamp.is_some() && object.metadata.finalizers.is_some()
}

fn references(object: &PartialObject) -> impl Iterator<Item = &OwnerReference> {
    object.metadata.owner_references.iter().flatten()
}
