//! Former templates of a DaemonSet, kept as ControllerRevisions: `kubectl rollout history` and `undo` read them, and the
//! current one names the template that new pods are made from.

use std::collections::BTreeSet;

use client::Object;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde::Deserialize;
use serde_json::{Value, json};

use super::place::HASH_LABEL;
use crate::action::{Action, Deletion};
use crate::{ownership, template};

const HISTORY_MAX: i32 = 10;
/// Names that are tried for one template.
const NAMES_MAX: i32 = 16;
/// Says that the template takes the place of the other rather than being merged into it.
const REPLACE: (&str, &str) = ("$patch", "replace");

/// Brings the history up to date; returns the hash that pods of the current template carry.
pub(super) fn sync(
    set: &DaemonSet,
    revisions: &[ControllerRevision],
    pods: &[Pod],
    actions: &mut Vec<Action>,
) -> String {
    let Some(spec) = &set.spec else { return String::new() };
    let select = ownership::selector(&spec.selector);
    let all = ownership::claim(set, &select, revisions, |_| true, actions);
    let is_current = |revision: &&ControllerRevision| of(revision).as_ref() == Some(&spec.template);
    let current = all.iter().filter(is_current).max_by_key(|revision| revision.revision);
    let old = all.iter().filter(|revision| {
        current.is_none_or(|current| current.metadata.uid != revision.metadata.uid)
    });
    let mut old: Vec<&ControllerRevision> = old.collect();
    old.sort_by_key(|revision| revision.revision);
    let number = old.last().map_or(0, |revision| revision.revision) + 1;
    let hash = match current {
        Some(current) => {
            if current.revision < number {
                let newest = ControllerRevision { revision: number, ..current.clone() };
                actions.extend(Action::update(current, &newest));
            }
            hash_of(current).unwrap_or_default().to_owned()
        }
        None => make(set, &spec.template, revisions, number, actions),
    };
    let limit = spec.revision_history_limit.unwrap_or(HISTORY_MAX);
    actions.extend(surplus(&old, pods, usize::try_from(limit).unwrap_or(0)));
    hash
}

fn hash_of<K: Object>(object: &K) -> Option<&str> {
    object.metadata().labels.as_ref()?.get(HASH_LABEL).map(String::as_str)
}

/// The template a revision keeps.
fn of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove(REPLACE.0);
    PodTemplateSpec::deserialize(template).ok()
}

fn make(
    set: &DaemonSet,
    template: &PodTemplateSpec,
    known: &[ControllerRevision],
    revision: i64,
    actions: &mut Vec<Action>,
) -> String {
    let name = |hash: &str| format!("{}-{hash}", set.metadata.name.as_deref().unwrap_or_default());
    let taken = |hash: &String| {
        known.iter().any(|other| other.metadata.name.as_deref() == Some(&name(hash)))
    };
    let first = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hashes = (first..first + NAMES_MAX).map(|salt| template::hash(template, salt));
    let hash = hashes.into_iter().find(|hash| !taken(hash)).unwrap_or_default();
    let mut kept = json!(template);
    if let Value::Object(kept) = &mut kept {
        kept.insert(REPLACE.0.to_owned(), json!(REPLACE.1));
    }
    let meta = template.metadata.as_ref();
    let mut labels = meta.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let new = ControllerRevision {
        data: Some(RawExtension(json!({"spec": {"template": kept}}))),
        metadata: ObjectMeta {
            name: Some(name(&hash)),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![ownership::owner_reference(set)]),
            ..ObjectMeta::default()
        },
        revision,
    };
    actions.push(Action::create(&new, None));
    hash
}

/// The oldest revisions beyond the limit that no pod is of.
fn surplus(old: &[&ControllerRevision], pods: &[Pod], limit: usize) -> Vec<Action> {
    let live: BTreeSet<&str> = pods.iter().filter_map(hash_of).collect();
    let unused =
        old.iter().filter(|revision| hash_of(**revision).is_none_or(|hash| !live.contains(hash)));
    let count = old.len().saturating_sub(limit);
    unused
        .take(count)
        .map(|revision| Action::delete(*revision, Deletion::default(), None))
        .collect()
}
