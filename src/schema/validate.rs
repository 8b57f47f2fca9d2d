//! Upstream's validation of the served kinds: the same field paths, the same texts. Objects come here pruned and
//! defaulted, so every value has its type and what is missing is missing.

mod container;
mod core;
mod meta;
mod network;
mod path;
mod pod;
mod pod_update;
mod probe;
mod rbac;
mod scheduling;
mod volume;
mod workload;

use api::{FieldError, Resource};
use serde_json::Value;

pub use self::core::new_event as validate_new_event;
pub use self::network::service_needs_health_check;
use path::Path;

/// Errors that are reported of one object.
const ERRORS_MAX: usize = 256;

/// Everything wrong with `new`; with `old` also with the change from it. Status is [`validate_status`]' part.
pub fn validate(res: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if res.strategy == api::Strategy::Virtual {
        return errors;
    }
    meta::object_meta(res, new, &mut errors);
    if let Some(old) = old {
        meta::object_meta_update(new, old, &mut errors);
    }
    if let Some(rules) =
        RULES.iter().find(|rules| rules.group == res.group && rules.kind == res.kind)
    {
        (rules.object)(new, &mut errors);
        if let Some(old) = old {
            (rules.update)(new, old, &mut errors);
        }
    }
    errors.truncate(ERRORS_MAX);
    errors
}

/// Everything wrong with a write to the status subresource.
pub fn validate_status(res: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::object_meta_update(new, old, &mut errors);
    match res.kind {
        "Deployment" | "ReplicaSet" => workload::status(new, &mut errors),
        "DaemonSet" => workload::daemon_set_status(new, &mut errors),
        "Pod" => pod::status_update(new, old, &mut errors),
        _ => {}
    }
    errors
}

type Errors = Vec<FieldError>;

struct Rules {
    group: &'static str,
    kind: &'static str,
    object: fn(&Value, &mut Errors),
    update: fn(&Value, &Value, &mut Errors),
}

fn any_update(_: &Value, _: &Value, _: &mut Errors) {}

const fn rules(group: &'static str, kind: &'static str, object: fn(&Value, &mut Errors)) -> Rules {
    Rules { group, kind, object, update: any_update }
}

const RULES: &[Rules] = &[
    Rules { update: pod_update::update, ..rules("", "Pod", pod::pod) },
    Rules { update: core::config_map_update, ..rules("", "ConfigMap", core::config_map) },
    Rules { update: core::secret_update, ..rules("", "Secret", core::secret) },
    Rules { update: network::service_update, ..rules("", "Service", network::service) },
    Rules { update: core::node_update, ..rules("", "Node", core::node) },
    rules("", "Event", core::event),
    rules("", "Endpoints", network::endpoints),
    Rules {
        update: workload::deployment_update,
        ..rules("apps", "Deployment", workload::deployment)
    },
    Rules {
        update: workload::replica_set_update,
        ..rules("apps", "ReplicaSet", workload::replica_set)
    },
    Rules {
        update: workload::daemon_set_update,
        ..rules("apps", "DaemonSet", workload::daemon_set)
    },
    Rules {
        update: workload::controller_revision_update,
        ..rules("apps", "ControllerRevision", workload::controller_revision)
    },
    rules(rbac::GROUP, "Role", rbac::role),
    rules(rbac::GROUP, "ClusterRole", rbac::cluster_role),
    Rules { update: rbac::binding_update, ..rules(rbac::GROUP, "RoleBinding", rbac::role_binding) },
    Rules {
        update: rbac::binding_update,
        ..rules(rbac::GROUP, "ClusterRoleBinding", rbac::cluster_role_binding)
    },
    rules("coordination.k8s.io", "Lease", core::lease),
    Rules {
        update: network::endpoint_slice_update,
        ..rules("discovery.k8s.io", "EndpointSlice", network::endpoint_slice)
    },
];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn fields<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(field).and_then(Value::as_object).into_iter().flatten()
}

fn integer(value: &Value, field: &str) -> Option<i64> {
    value.get(field).and_then(Value::as_i64)
}

fn flag(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or_default()
}

/// One error for each problem text.
fn invalid(path: &Path, value: &str, problems: Vec<String>, errors: &mut Errors) {
    errors.extend(
        problems.into_iter().map(|problem| FieldError::invalid(path.to_string(), value, problem)),
    );
}

fn required(path: &Path, errors: &mut Errors) {
    errors.push(FieldError::required(path.to_string(), ""));
}

fn not_negative(at: &Path, value: &Value, field: &str, errors: &mut Errors) {
    if let Some(number) = integer(value, field).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            at.child(field).to_string(),
            number,
            "must be greater than or equal to 0",
        ));
    }
}

fn one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path.to_string(), value, supported));
    }
}

/// As [`one_of`], but an empty text is a missing value.
fn required_one_of(path: &Path, value: &str, supported: &[&str], errors: &mut Errors) {
    match value {
        "" => required(path, errors),
        value => one_of(path, value, supported, errors),
    }
}

fn immutable(path: &Path, new: Option<&Value>, old: Option<&Value>, errors: &mut Errors) {
    if new != old {
        let value = new.cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(path.to_string(), value, "field is immutable"));
    }
}
