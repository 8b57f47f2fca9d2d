//! Who controls what: owner references, adoption and release by selector.

use std::collections::BTreeMap;

use api::LabelSelector;
use client::{Cache, Key, Object, ResourcePath, controller_of, key_of};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::json;

use crate::action::Action;

/// A selector that cannot be read matches nothing.
pub(crate) fn selector(selector: &meta::LabelSelector) -> LabelSelector {
    serde_json::to_value(selector)
        .ok()
        .and_then(|value| LabelSelector::from_value(&value).ok())
        .unwrap_or_else(LabelSelector::nothing)
}

pub(crate) fn matches(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    selector.matches(meta.labels.as_ref().unwrap_or(&NONE))
}

/// A kind that controls the pods its selector chooses.
pub(crate) trait PodOwner: Object {
    fn pod_selector(&self) -> Option<&meta::LabelSelector>;
}

impl PodOwner for DaemonSet {
    fn pod_selector(&self) -> Option<&meta::LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

impl PodOwner for ReplicaSet {
    fn pod_selector(&self) -> Option<&meta::LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

/// Those that a change of a pod concerns: its controllers before and after, and those that may want to adopt it.
pub(crate) fn concerned<O: PodOwner>(
    owners: &Cache<O>,
    old: Option<&Pod>,
    new: Option<&Pod>,
) -> Vec<Key> {
    let controllers = [old, new].into_iter().flatten();
    let mut keys: Vec<Key> =
        controllers.filter_map(|pod| controller_key(&pod.metadata, O::KIND)).collect();
    if let Some(orphan) = new.filter(|pod| controller_of(&pod.metadata).is_none()) {
        let owners = owners.list_in(&key_of(orphan).0);
        let selects = |owner: &O| {
            owner.pod_selector().is_some_and(|s| matches(&selector(s), &orphan.metadata))
        };
        keys.extend(owners.iter().filter(|owner| selects(owner)).map(|owner| key_of(&**owner)));
    }
    keys.dedup();
    keys
}

/// Whether an object is controlled by this owner, or by nobody and chosen by its selector.
pub(crate) fn is_claimable(
    meta: &ObjectMeta,
    owner: Option<&str>,
    selector: &LabelSelector,
) -> bool {
    is_controlled_by(meta, owner) || (controller_of(meta).is_none() && matches(selector, meta))
}

/// The reference by which `owner` controls an object.
pub(crate) fn owner_reference<K: Object>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    controller_of(meta).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

/// The key of the controller of an object when it is of kind `kind`.
pub(crate) fn controller_key(meta: &ObjectMeta, kind: &str) -> Option<Key> {
    let owner = controller_of(meta).filter(|owner| owner.kind == kind)?;
    Some((meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// Sorts `candidates` into those `owner` controls or now adopts, and emits what adoption and release need.
pub(crate) fn claim<O: Object, K: Object + Serialize>(
    owner: &O,
    select: &LabelSelector,
    candidates: &[K],
    can_adopt: impl Fn(&K) -> bool,
    actions: &mut Vec<Action>,
) -> Vec<K> {
    let mut claimed = Vec::new();
    let owner_meta = owner.metadata();
    let ending = owner_meta.deletion_timestamp.is_some();
    for candidate in candidates {
        let meta = candidate.metadata();
        let matches = matches(select, meta);
        match controller_of(meta) {
            Some(controller) if Some(&controller.uid) != owner_meta.uid.as_ref() => {}
            Some(_) if matches => claimed.push(candidate.clone()),
            Some(_) if ending => {}
            Some(_) => actions.push(release(candidate, owner_meta.uid.as_deref())),
            None if matches
                && !ending
                && meta.deletion_timestamp.is_none()
                && can_adopt(candidate) =>
            {
                actions.push(adopt(owner, candidate));
                claimed.push(candidate.clone());
            }
            None => {}
        }
    }
    claimed
}

fn adopt<O: Object, K: Object>(owner: &O, candidate: &K) -> Action {
    let mut owners = candidate.metadata().owner_references.clone().unwrap_or_default();
    owners.push(owner_reference(owner));
    set_owners(candidate, &owners)
}

fn release<K: Object>(candidate: &K, uid: Option<&str>) -> Action {
    let owners = candidate.metadata().owner_references.iter().flatten();
    let owners: Vec<_> = owners.filter(|owner| Some(owner.uid.as_str()) != uid).cloned().collect();
    set_owners(candidate, &owners)
}

fn set_owners<K: Object>(object: &K, owners: &[OwnerReference]) -> Action {
    let meta = object.metadata();
    let (namespace, name) = key_of(object);
    let mut body = json!({"metadata": {"ownerReferences": owners, "uid": meta.uid}});
    if let Some(revision) = &meta.resource_version {
        body["metadata"]["resourceVersion"] = json!(revision);
    }
    Action::Patch { resource: ResourcePath::of::<K>(), namespace, name, sub: "", body }
}
