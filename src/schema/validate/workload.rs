//! Deployments, ReplicaSets and DaemonSets.

use api::FieldError;
use serde_json::Value;

use super::path::Path;
use super::{Errors, immutable, integer, invalid, meta, not_negative, one_of, pod, required, text};

const PERCENT_TEXT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

pub(super) fn deployment(object: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    selector_and_template(&path, spec, errors);
    strategy(&path.child("strategy"), &spec["strategy"], errors);
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]
    {
        not_negative(&path, spec, field, errors);
    }
    if let Some(deadline) = integer(spec, "progressDeadlineSeconds")
        && deadline <= integer(spec, "minReadySeconds").unwrap_or(0)
    {
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
}

pub(super) fn replica_set(object: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    for field in ["replicas", "minReadySeconds"] {
        not_negative(&path, spec, field, errors);
    }
    selector_and_template(&path, spec, errors);
}

pub(super) fn deployment_update(new: &Value, old: &Value, errors: &mut Errors) {
    same_selector(new, old, errors);
}

pub(super) fn replica_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    same_selector(new, old, errors);
}

fn same_selector(new: &Value, old: &Value, errors: &mut Errors) {
    let selector = |object: &Value| object["spec"].get("selector").cloned();
    immutable(&Path::new("spec.selector"), selector(new).as_ref(), selector(old).as_ref(), errors);
}

fn selector_and_template(path: &Path, spec: &Value, errors: &mut Errors) {
    let (at, template) = (path.child("selector"), &spec["template"]);
    let Some(selector) = spec.get("selector") else {
        required(&at, errors);
        return pod_template(&path.child("template"), template, "ReplicaSet", errors);
    };
    meta::label_selector(&at, selector, errors);
    if selector.as_object().is_some_and(serde_json::Map::is_empty) {
        errors.push(FieldError::invalid(
            at.to_string(),
            selector.clone(),
            "empty selector is invalid for deployment",
        ));
    }
    let template_path = path.child("template");
    match meta::selects(selector, &template["metadata"]) {
        None => errors.push(FieldError::invalid(
            at.to_string(),
            selector.clone(),
            "invalid label selector",
        )),
        Some(false) => {
            let labels = template["metadata"].get("labels").cloned().unwrap_or(Value::Null);
            let at = template_path.child("metadata").child("labels").to_string();
            errors.push(FieldError::invalid(
                at,
                labels,
                "`selector` does not match template `labels`",
            ));
        }
        Some(true) => {}
    }
    pod_template(&template_path, template, "ReplicaSet", errors);
}

fn pod_template(path: &Path, template: &Value, of: &str, errors: &mut Errors) {
    let meta_path = path.child("metadata");
    meta::labels(&meta_path.child("labels"), template["metadata"].get("labels"), errors);
    meta::annotations(&meta_path.child("annotations"), &template["metadata"], errors);
    let (path, spec) = (path.child("spec"), &template["spec"]);
    pod::spec(&path, spec, pod::Home::Template, errors);
    match text(spec, "restartPolicy") {
        "OnFailure" | "Never" => {
            one_of(&path.child("restartPolicy"), text(spec, "restartPolicy"), &["Always"], errors)
        }
        _ => {}
    }
    if spec.get("activeDeadlineSeconds").is_some() {
        let at = path.child("activeDeadlineSeconds").to_string();
        errors.push(FieldError::forbidden(
            at,
            format!("activeDeadlineSeconds in {of} is not Supported"),
        ));
    }
    if spec.get("ephemeralContainers").is_some() {
        let at = path.child("ephemeralContainers").to_string();
        errors.push(FieldError::forbidden(at, "ephemeral containers not allowed in pod template"));
    }
}

pub(super) fn daemon_set(object: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    let (at, template) = (path.child("selector"), &spec["template"]);
    let selector = spec.get("selector").unwrap_or(&Value::Null);
    meta::label_selector(&at, selector, errors);
    // Without a selector nothing is selected, so no labels match.
    let selected =
        spec.get("selector").map_or(Some(false), |s| meta::selects(s, &template["metadata"]));
    if selected == Some(false) {
        let at = path.child("template").child("metadata").child("labels").to_string();
        let labels = template["metadata"].get("labels").cloned().unwrap_or(Value::Null);
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(at, labels, detail));
    }
    if selector.as_object().is_some_and(serde_json::Map::is_empty) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid(at.to_string(), selector.clone(), detail));
    }
    pod_template(&path.child("template"), template, "DaemonSet", errors);
    not_negative(&path, spec, "minReadySeconds", errors);
    daemon_strategy(&path.child("updateStrategy"), &spec["updateStrategy"], errors);
    not_negative(&path, spec, "revisionHistoryLimit", errors);
}

fn daemon_strategy(path: &Path, strategy: &Value, errors: &mut Errors) {
    match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => required(&path.child("rollingUpdate"), errors),
        ("RollingUpdate", Some(rolling)) => {
            daemon_rolling_update(&path.child("rollingUpdate"), rolling, errors)
        }
        (kind, _) => one_of(path, kind, &["OnDelete", "RollingUpdate"], errors),
    }
}

fn daemon_rolling_update(path: &Path, rolling: &Value, errors: &mut Errors) {
    let value = |field: &str| rolling.get(field).map_or(Some(0), amount);
    for field in ["maxUnavailable", "maxSurge"] {
        int_or_percent(&path.child(field), rolling.get(field), errors);
        let percent = rolling.get(field).filter(|given| given.is_string());
        if let Some(given) = percent.filter(|given| amount(given).is_some_and(|p| p > 100)) {
            let at = path.child(field).to_string();
            errors.push(FieldError::invalid(at, given.clone(), "must not be greater than 100%"));
        }
    }
    match (value("maxUnavailable") == Some(0), value("maxSurge") == Some(0)) {
        (false, false) => errors.push(FieldError::invalid(
            path.child("maxSurge").to_string(),
            rolling["maxSurge"].clone(),
            "may not be set when maxUnavailable is non-zero",
        )),
        (true, true) => errors.push(FieldError::required(
            path.child("maxUnavailable").to_string(),
            "cannot be 0 when maxSurge is 0",
        )),
        _ => {}
    }
}

pub(super) fn daemon_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    same_selector(new, old, errors);
}

pub(super) fn daemon_set_status(object: &Value, errors: &mut Errors) {
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    for field in fields {
        not_negative(&Path::new("status"), &object["status"], field, errors);
    }
}

pub(super) fn controller_revision(object: &Value, errors: &mut Errors) {
    if object.get("data").is_none_or(Value::is_null) {
        errors.push(FieldError::required("data", "data is mandatory"));
    }
    if let Some(number) = integer(object, "revision").filter(|n| *n < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("revision", number, detail));
    }
}

pub(super) fn controller_revision_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&Path::new("data"), new.get("data"), old.get("data"), errors);
}

fn strategy(path: &Path, strategy: &Value, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(at.to_string(), detail));
        }
        ("RollingUpdate", None) => {
            errors.push(FieldError::required(
                at.to_string(),
                "this should be defaulted and never be nil",
            ));
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(&at, rolling, errors),
        (kind, _) => one_of(&path.child("type"), kind, &["Recreate", "RollingUpdate"], errors),
    }
}

fn rolling_update(path: &Path, rolling: &Value, errors: &mut Errors) {
    for field in ["maxUnavailable", "maxSurge"] {
        int_or_percent(&path.child(field), rolling.get(field), errors);
    }
    let value = |field: &str| rolling.get(field).map_or(Some(0), amount);
    let at = path.child("maxUnavailable").to_string();
    let shown = rolling.get("maxUnavailable").cloned().unwrap_or(Value::from(0));
    if value("maxUnavailable") == Some(0) && value("maxSurge") == Some(0) {
        errors.push(FieldError::invalid(
            at.clone(),
            shown.clone(),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    if shown.is_string() && value("maxUnavailable").is_some_and(|percent| percent > 100) {
        errors.push(FieldError::invalid(at, shown, "must not be greater than 100%"));
    }
}

/// The number, with or without its percent sign.
fn amount(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => {
            text.strip_suffix('%').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
        }
        value => value.as_i64(),
    }
}

fn int_or_percent(path: &Path, value: Option<&Value>, errors: &mut Errors) {
    match value {
        Some(Value::String(text)) if amount(&Value::from(text.as_str())).is_none() => {
            invalid(path, text, vec![PERCENT_TEXT.to_owned()], errors);
        }
        Some(Value::Number(number)) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(
                path.to_string(),
                number.clone(),
                "must be greater than or equal to 0",
            ));
        }
        _ => {}
    }
}

pub(super) fn status(object: &Value, errors: &mut Errors) {
    let (path, status) = (Path::new("status"), &object["status"]);
    let fields = [
        "replicas",
        "readyReplicas",
        "availableReplicas",
        "updatedReplicas",
        "fullyLabeledReplicas",
        "observedGeneration",
    ];
    for field in fields {
        not_negative(&path, status, field, errors);
    }
    let total = integer(status, "replicas").unwrap_or(0);
    for field in ["readyReplicas", "availableReplicas", "updatedReplicas", "fullyLabeledReplicas"] {
        if let Some(number) = integer(status, field).filter(|n| *n > total) {
            let at = path.child(field).to_string();
            errors.push(FieldError::invalid(at, number, "cannot be greater than status.replicas"));
        }
    }
    let (ready, available) = (
        integer(status, "readyReplicas").unwrap_or(0),
        integer(status, "availableReplicas").unwrap_or(0),
    );
    if available > ready {
        errors.push(FieldError::invalid(
            "status.availableReplicas",
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}
