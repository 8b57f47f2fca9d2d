//! What planners decide: values that say which requests to make and which events to tell, in order.

use std::fmt;

use client::{EventType, Object, Propagation, ResourcePath, key_of, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create {
        resource: ResourcePath,
        object: Value,
        tell: Option<Tell>,
    },
    /// A JSON merge patch; `sub` names the subresource, if any.
    Patch {
        resource: ResourcePath,
        namespace: String,
        name: String,
        sub: &'static str,
        body: Value,
    },
    Delete {
        resource: ResourcePath,
        target: Target,
        how: Deletion,
        tell: Option<Tell>,
    },
    /// Replaces the spec's finalizers of a namespace.
    Finalize {
        name: String,
        finalizers: Vec<String>,
    },
    Event(Note),
    /// Look again at this time, because a deadline is known.
    Wake(Timestamp),
}

/// The object to delete; only the one with this uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub propagation: Option<Propagation>,
    /// Remove at once.
    pub force: bool,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub kind: EventType,
    pub reason: &'static str,
    pub message: String,
}

/// The events that tell how a creation or deletion went: `{done}: {name}` or `{failed}: {error}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    pub about: ObjectReference,
    pub done: (&'static str, &'static str),
    pub failed: (&'static str, &'static str),
}

impl Action {
    pub fn create<K: Object + Serialize>(object: &K, tell: Option<Tell>) -> Self {
        Action::Create { resource: ResourcePath::of::<K>(), object: value(object), tell }
    }

    /// The change from `old` to `new` outside of the status, if there is one.
    pub fn update<K: Object + Serialize>(old: &K, new: &K) -> Option<Self> {
        let (old_value, mut new_value) = (value(old), value(new));
        if let (Some(status), Value::Object(new)) = (old_value.get("status"), &mut new_value) {
            new.insert("status".to_owned(), status.clone());
        }
        Self::patch(old, "", difference(&old_value, &new_value)?)
    }

    /// The change of the status, if there is one.
    pub fn update_status<K: Object + Serialize>(old: &K, status: &impl Serialize) -> Option<Self> {
        let old_status = value(old).get("status").cloned().unwrap_or_else(|| json!({}));
        let body = difference(&old_status, &value(status))?;
        Self::patch(old, "status", json!({"status": body}))
    }

    /// The change of the status and of what may be written with it.
    pub fn update_with_status<K: Object + Serialize>(old: &K, new: &K) -> Option<Self> {
        Self::patch(old, "status", difference(&value(old), &value(new))?)
    }

    /// A patch that fails when the object is no longer the one that was looked at.
    fn patch<K: Object>(old: &K, sub: &'static str, mut body: Value) -> Option<Self> {
        if let Some(revision) = &old.metadata().resource_version {
            body["metadata"]["resourceVersion"] = json!(revision);
        }
        let (namespace, name) = key_of(old);
        Some(Action::Patch { resource: ResourcePath::of::<K>(), namespace, name, sub, body })
    }

    pub fn delete<K: Object>(object: &K, how: Deletion, tell: Option<Tell>) -> Self {
        let (namespace, name) = key_of(object);
        let uid = object.metadata().uid.clone().unwrap_or_default();
        let target = Target { namespace, name, uid };
        Action::Delete { resource: ResourcePath::of::<K>(), target, how, tell }
    }

    pub fn event<K: Object>(
        about: &K,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) -> Self {
        Action::Event(Note { about: reference(about), kind, reason, message })
    }
}

/// One line per action, as golden cases show them.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Create { resource, object, .. } => write!(f, "create {resource} {object}"),
            Action::Patch { resource, namespace, name, sub, body } => {
                let (slash, dot) = (
                    if namespace.is_empty() { "" } else { "/" },
                    if sub.is_empty() { "" } else { " " },
                );
                write!(f, "patch {resource} {namespace}{slash}{name}{dot}{sub} {body}")
            }
            Action::Delete { resource, target: Target { namespace, name, uid }, how, .. } => {
                let slash = if namespace.is_empty() { "" } else { "/" };
                write!(f, "delete {resource} {namespace}{slash}{name} uid={uid}")?;
                if let Some(propagation) = how.propagation {
                    write!(f, " propagation={propagation:?}")?;
                }
                if how.force { f.write_str(" force") } else { Ok(()) }
            }
            Action::Finalize { name, finalizers } => write!(f, "finalize {name} {finalizers:?}"),
            Action::Event(Note { about, kind, reason, message }) => {
                let name = about.name.as_deref().unwrap_or_default();
                write!(f, "event {kind:?} {reason} {name}: {message}")
            }
            Action::Wake(at) => write!(f, "wake {at}"),
        }
    }
}

fn value(object: &impl Serialize) -> Value {
    // Our types have string keys only, so writing them as JSON cannot fail.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// The JSON merge patch that leads from `old` to `new`; `None` when they are equal.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) => {
                if let Some(changed) = difference(before, value) {
                    patch.insert(key.clone(), changed);
                }
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}
