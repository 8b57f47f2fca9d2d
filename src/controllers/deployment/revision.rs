//! Finds or makes the set that has the current template, and keeps revisions.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::fields::{
    DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY, TEMPLATE_HASH, annotate,
    annotation, number, progress_deadline,
};
use super::work::Work;
use super::{rollout, status};
use crate::ownership;
use crate::template::hash;

/// Longest list of former revisions a set carries.
const HISTORY_BYTES_MAX: usize = 2000;
/// Annotations of a deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The name of the set to be is taken by another one: the next hash must differ.
pub(super) struct Collision;

/// Finds the new set and brings its annotations up to date; makes it when `create` says so.
pub(super) fn sync(work: &mut Work<'_>, taken: &[&str], create: bool) -> Result<(), Collision> {
    work.new = find_new(work);
    let revision =
        work.old().into_iter().filter_map(|old| number(&work.set(old).metadata, REVISION)).max();
    let revision = revision.unwrap_or(0) + 1;
    match work.new {
        Some(index) => keep(work, index, revision),
        None if create => make(work, taken, revision)?,
        None => {}
    }
    Ok(())
}

/// The oldest set with the template of the deployment.
fn find_new(work: &Work<'_>) -> Option<usize> {
    let template = &work.deployment.spec.as_ref()?.template;
    let same = |index: &usize| {
        let other = work.set(*index).spec.as_ref().and_then(|spec| spec.template.as_ref());
        other.is_some_and(|other| without_hash(other) == *template)
    };
    (0..work.sets.len()).filter(same).min_by(|a, b| work.created(*a).cmp(&work.created(*b)))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(TEMPLATE_HASH);
    }
    template
}

fn keep(work: &mut Work<'_>, index: usize, revision: i64) {
    let deployment = work.deployment.clone();
    let set = &mut work.sets[index].object;
    annotate_new(&deployment, &mut set.metadata, revision, true);
    if let (Some(spec), Some(from)) = (&mut set.spec, &deployment.spec) {
        spec.min_ready_seconds = from.min_ready_seconds.filter(|seconds| *seconds != 0);
    }
    let name = set.metadata.name.clone().unwrap_or_default();
    set_revision(work, index);
    let known = status::condition(&work.deployment, "Progressing").is_some();
    if progress_deadline(&work.deployment).is_some() && !known {
        progress(work, "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
    }
}

fn make(work: &mut Work<'_>, taken: &[&str], revision: i64) -> Result<(), Collision> {
    let Some(mut set) = new_set(&work.deployment) else { return Ok(()) };
    let name = set.metadata.name.clone().unwrap_or_default();
    if taken.contains(&name.as_str()) {
        return Err(Collision);
    }
    annotate_new(&work.deployment.clone(), &mut set.metadata, revision, false);
    let index = work.add_set(set);
    work.new = Some(index);
    let replicas = rollout::new_size(work, index);
    work.sets[index].object.spec.get_or_insert_default().replicas = Some(replicas);
    work.annotate_replicas(index);
    if replicas > 0 {
        work.tell_scaled(index, 0, replicas);
    }
    set_revision(work, index);
    if progress_deadline(&work.deployment).is_some() {
        progress(work, "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
    }
    Ok(())
}

fn new_set(deployment: &Deployment) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions =
        deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels: meta.labels.clone(),
            owner_references: Some(vec![ownership::owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds.filter(|seconds| *seconds != 0),
            selector,
            template: Some(template),
        }),
        status: None,
    })
}

/// Copies the deployment's annotations to its new set and notes the revision there.
fn annotate_new(deployment: &Deployment, meta: &mut ObjectMeta, revision: i64, exists: bool) {
    let copied: BTreeMap<String, String> =
        deployment.metadata.annotations.clone().unwrap_or_default();
    for (key, value) in copied.iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())) {
        annotate(meta, key, value);
    }
    let old = annotation(meta, REVISION).unwrap_or_default().to_owned();
    if old.parse().unwrap_or(0) >= revision {
        return;
    }
    annotate(meta, REVISION, &revision.to_string());
    if exists && !old.is_empty() {
        let history = match annotation(meta, REVISION_HISTORY) {
            Some(history) if !history.is_empty() => format!("{history},{old}"),
            _ => old,
        };
        if history.len() <= HISTORY_BYTES_MAX {
            annotate(meta, REVISION_HISTORY, &history);
        }
    }
}

/// The deployment carries the revision of its new set.
fn set_revision(work: &mut Work<'_>, index: usize) {
    if let Some(revision) = annotation(&work.set(index).metadata, REVISION).map(str::to_owned) {
        annotate(&mut work.deployment.metadata, REVISION, &revision);
    }
}

fn progress(work: &mut Work<'_>, reason: &str, message: String) {
    let now = work.now;
    let status = work.deployment.status.get_or_insert_default();
    status::set(&mut status.conditions, status::new("Progressing", "True", reason, message, now));
}

/// All conditions of a deployment.
pub(super) type Conditions = Option<Vec<DeploymentCondition>>;
