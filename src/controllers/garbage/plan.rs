//! Plans one object: whether its owners keep it, and whether it may end although it has dependents.

use client::{Propagation, ResourcePath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde_json::json;

use crate::action::{Action, Deletion, Target};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    /// Plural, with its group: `deployments.apps`.
    pub(crate) resource: String,
    pub(crate) meta: ObjectMeta,
    #[serde(default)]
    pub(crate) owners: Vec<Owner>,
    #[serde(default)]
    pub(crate) dependents: Vec<Dependent>,
}

#[derive(Deserialize)]
pub(crate) struct Owner {
    pub(crate) reference: OwnerReference,
    pub(crate) state: OwnerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum OwnerState {
    Present,
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// An object that names this one as owner.
#[derive(Deserialize)]
pub(crate) struct Dependent {
    pub(crate) resource: String,
    pub(crate) meta: ObjectMeta,
}

/// The object is being deleted in the foreground.
pub(crate) fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

pub(crate) fn plan(observed: &Observed) -> Vec<Action> {
    let meta = &observed.meta;
    if meta.deletion_timestamp.is_none() {
        return judge(observed).into_iter().collect();
    }
    if has_finalizer(meta, ORPHAN) {
        return orphan(observed);
    }
    if has_finalizer(meta, FOREGROUND)
        && !observed.dependents.iter().any(|dependent| blocks(dependent, meta))
    {
        return remove_finalizer(observed, FOREGROUND).into_iter().collect();
    }
    Vec::new()
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

fn blocks(dependent: &Dependent, owner: &ObjectMeta) -> bool {
    let mut references = dependent.meta.owner_references.iter().flatten();
    references.any(|reference| {
        Some(&reference.uid) == owner.uid.as_ref() && reference.block_owner_deletion == Some(true)
    })
}

/// Keeps an object that has an owner, frees it of owners that are gone, deletes it when none is left.
fn judge(observed: &Observed) -> Option<Action> {
    let is = |state: OwnerState| observed.owners.iter().any(move |owner| owner.state == state);
    if observed.owners.is_empty()
        || (is(OwnerState::Present) && !is(OwnerState::Absent) && !is(OwnerState::Waiting))
    {
        return None;
    }
    if is(OwnerState::Present) {
        let kept = observed.owners.iter().filter(|owner| owner.state == OwnerState::Present);
        let kept: Vec<&OwnerReference> = kept.map(|owner| &owner.reference).collect();
        return patch(&observed.resource, &observed.meta, json!({"ownerReferences": kept}));
    }
    let foreground = is(OwnerState::Waiting) && !observed.dependents.is_empty();
    let propagation = if foreground || has_finalizer(&observed.meta, FOREGROUND) {
        Propagation::Foreground
    } else if has_finalizer(&observed.meta, ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    };
    delete(observed, propagation)
}

fn delete(observed: &Observed, propagation: Propagation) -> Option<Action> {
    let meta = &observed.meta;
    let target = Target {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    let how = Deletion { propagation: Some(propagation), force: false };
    Some(Action::Delete { resource: path(&observed.resource)?, target, how, tell: None })
}

/// Frees the dependents, then lets the object go.
fn orphan(observed: &Observed) -> Vec<Action> {
    let uid = observed.meta.uid.as_deref();
    let mut actions = Vec::new();
    for dependent in &observed.dependents {
        let owners = dependent.meta.owner_references.iter().flatten();
        let kept: Vec<&OwnerReference> =
            owners.filter(|owner| Some(owner.uid.as_str()) != uid).collect();
        actions.extend(patch(
            &dependent.resource,
            &dependent.meta,
            json!({"ownerReferences": kept}),
        ));
    }
    actions.extend(remove_finalizer(observed, ORPHAN));
    actions
}

fn remove_finalizer(observed: &Observed, name: &str) -> Option<Action> {
    let finalizers = observed.meta.finalizers.iter().flatten();
    let kept: Vec<&String> = finalizers.filter(|finalizer| *finalizer != name).collect();
    patch(&observed.resource, &observed.meta, json!({"finalizers": kept}))
}

/// A change of metadata that holds only for what was looked at.
fn patch(resource: &str, meta: &ObjectMeta, mut change: serde_json::Value) -> Option<Action> {
    change["uid"] = json!(meta.uid);
    if let Some(revision) = &meta.resource_version {
        change["resourceVersion"] = json!(revision);
    }
    Some(Action::Patch {
        resource: path(resource)?,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        sub: "",
        body: json!({"metadata": change}),
    })
}

fn path(qualified: &str) -> Option<ResourcePath> {
    let resource = api::RESOURCES.iter().find(|resource| resource.qualified() == qualified)?;
    Some(ResourcePath::from(resource))
}
