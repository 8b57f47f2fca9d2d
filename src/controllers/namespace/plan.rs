//! Plans the end of one namespace: what to delete next, what to report, when to let go.

use std::collections::BTreeMap;

use client::{Propagation, ResourcePath};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

use crate::action::{Action, Deletion, Target};

const FINALIZER: &str = "kubernetes";
/// Content whose end nobody announces is looked for again after this time.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// What a plan is made from.
#[derive(Deserialize)]
pub(crate) struct Observed {
    pub(crate) namespace: Namespace,
    /// Everything that is left in the namespace.
    #[serde(default)]
    pub(crate) contents: Vec<Content>,
}

/// An object in the namespace.
#[derive(Deserialize)]
pub(crate) struct Content {
    /// Plural, with its group: `deployments.apps`.
    pub(crate) resource: String,
    pub(crate) meta: ObjectMeta,
}

pub(crate) fn plan(observed: &Observed, now: Timestamp) -> Vec<Action> {
    let namespace = &observed.namespace;
    let mut actions = deletions(&observed.contents);
    let mut status = namespace.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for (kind, holds, reason, message) in findings(&observed.contents) {
        set(conditions, kind, holds, reason, message, now);
    }
    // The namespace changes by more hands than ours while it ends, and these fields are ours alone.
    let mut unguarded = namespace.clone();
    unguarded.metadata.resource_version = None;
    actions.extend(Action::update_status(&unguarded, &status));
    if observed.contents.is_empty() {
        let finalizers =
            namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            let finalizers =
                finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
            actions.push(Action::Finalize {
                name: namespace.metadata.name.clone().unwrap_or_default(),
                finalizers,
            });
        }
    } else {
        actions.extend(now.checked_add(LOOK_AGAIN).ok().map(Action::Wake));
    }
    actions
}

/// Pods go first: what they use must outlive them.
fn deletions(contents: &[Content]) -> Vec<Action> {
    let pods_left = contents.iter().any(|content| content.resource == "pods");
    let due = contents.iter().filter(|content| !pods_left || content.resource == "pods");
    due.filter(|content| content.meta.deletion_timestamp.is_none()).filter_map(delete).collect()
}

fn delete(content: &Content) -> Option<Action> {
    let resource =
        api::RESOURCES.iter().find(|resource| resource.qualified() == content.resource)?;
    let meta = &content.meta;
    let target = Target {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    let how = Deletion { propagation: Some(Propagation::Background), force: false };
    Some(Action::Delete { resource: ResourcePath::from(resource), target, how, tell: None })
}

type Finding = (&'static str, bool, &'static str, String);

/// The five conditions of a namespace that ends.
fn findings(contents: &[Content]) -> [Finding; 5] {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for content in contents {
        // Upstream names a resource by plural and group with a dot between, also for the group without a name.
        *kinds.entry(&content.resource).or_insert(0) += 1;
        for finalizer in content.meta.finalizers.iter().flatten() {
            *finalizers.entry(finalizer).or_insert(0) += 1;
        }
    }
    let dotted = |resource: &str| {
        if resource.contains('.') { resource.to_owned() } else { format!("{resource}.") }
    };
    let remaining: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{} has {count} resource instances", dotted(kind)))
        .collect();
    let waiting: Vec<String> = finalizers
        .iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let content = if remaining.is_empty() {
        (
            "NamespaceContentRemaining",
            false,
            "ContentRemoved",
            "All content successfully removed".to_owned(),
        )
    } else {
        let message = format!("Some resources are remaining: {}", remaining.join(", "));
        ("NamespaceContentRemaining", true, "SomeResourcesRemain", message)
    };
    let finalizing = if waiting.is_empty() {
        let message = "All content-preserving finalizers finished".to_owned();
        ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message)
    } else {
        let message = format!(
            "Some content in the namespace has finalizers remaining: {}",
            waiting.join(", ")
        );
        ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", message)
    };
    let fine = |kind, reason, message: &str| (kind, false, reason, message.to_owned());
    [
        fine(
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        fine(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        fine(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        content,
        finalizing,
    ]
}

fn set(
    conditions: &mut Vec<NamespaceCondition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let known = conditions.iter_mut().find(|condition| condition.type_ == kind);
    let condition = match known {
        Some(condition) => condition,
        None => {
            conditions.push(NamespaceCondition {
                type_: kind.to_owned(),
                ..NamespaceCondition::default()
            });
            let last = conditions.len() - 1;
            &mut conditions[last]
        }
    };
    if condition.status != status {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
}
