//! What steers where a pod goes: affinity, tolerations, gates, spread; and taints of nodes.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::path::Path;
use super::{Errors, integer, invalid, list, meta, one_of, required, text};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn affinity(path: &Path, affinity: &Value, errors: &mut Errors) {
    let (node, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if let Some(selector) = node.get("requiredDuringSchedulingIgnoredDuringExecution") {
        let at =
            at.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        let terms = list(selector, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(
                at.to_string(),
                "must have at least one node selector term",
            ));
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(&at.index(i), term, errors);
        }
    }
    for (i, preferred) in
        list(node, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        let at = at.child("preferredDuringSchedulingIgnoredDuringExecution").index(i);
        weight(&at, preferred, errors);
        node_term(&at.child("preference"), &preferred["preference"], errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(&path.child(field), &affinity[field], errors);
    }
}

fn weight(path: &Path, preferred: &Value, errors: &mut Errors) {
    let weight = integer(preferred, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            path.child("weight").to_string(),
            weight,
            "must be in the range 1-100",
        ));
    }
}

fn node_term(path: &Path, term: &Value, errors: &mut Errors) {
    for field in ["matchExpressions", "matchFields"] {
        for (i, requirement) in list(term, field).iter().enumerate() {
            let path = path.child(field).index(i);
            let (values, operator) = (list(requirement, "values"), text(requirement, "operator"));
            let at = path.child("values").to_string();
            match operator {
                "In" | "NotIn" if values.is_empty() => {
                    errors.push(FieldError::required(
                        at,
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    ));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    errors.push(FieldError::forbidden(
                        at,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    errors.push(FieldError::required(
                        at,
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    ));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => {
                    let at = path.child("operator").to_string();
                    errors.push(FieldError::invalid(at, other, "not a valid selector operator"));
                }
            }
            let key = text(requirement, "key");
            if field == "matchExpressions" {
                invalid(&path.child("key"), key, names::qualified_name(key), errors);
            } else if key != "metadata.name" {
                errors.push(FieldError::invalid(
                    path.child("key").to_string(),
                    key,
                    "not a valid field selector key",
                ));
            }
        }
    }
}

fn pod_affinity(path: &Path, affinity: &Value, errors: &mut Errors) {
    let at = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        pod_term(&at.index(i), term, errors);
    }
    let at = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, preferred) in
        list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        weight(&at.index(i), preferred, errors);
        pod_term(&at.index(i).child("podAffinityTerm"), &preferred["podAffinityTerm"], errors);
    }
}

fn pod_term(path: &Path, term: &Value, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = term.get(field) {
            meta::label_selector(&path.child(field), selector, errors);
        }
    }
    for namespace in list(term, "namespaces").iter().filter_map(Value::as_str) {
        invalid(&path.child("namespace"), namespace, names::dns1123_label(namespace), errors);
    }
    match text(term, "topologyKey") {
        "" => errors
            .push(FieldError::required(path.child("topologyKey").to_string(), "can not be empty")),
        key => invalid(&path.child("topologyKey"), key, names::qualified_name(key), errors),
    }
}

pub(super) fn tolerations(path: &Path, tolerations: &[Value], errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let field = |name: &str| text(toleration, name);
        let (key, operator, value, effect) =
            (field("key"), field("operator"), field("value"), field("effect"));
        if !key.is_empty() {
            invalid(&path.child("key"), key, names::qualified_name(key), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(path.child("operator").to_string(), operator, detail));
        }
        if integer(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(path.child("effect").to_string(), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                invalid(&path.child("operator"), value, names::label_value(value), errors)
            }
            "Exists" if !value.is_empty() => {
                let at = path.child("operator").to_string();
                errors.push(FieldError::invalid(
                    at,
                    value,
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            other => one_of(&path.child("operator"), other, &["Equal", "Exists"], errors),
        }
        if !effect.is_empty() {
            one_of(&path.child("effect"), effect, EFFECTS, errors);
        }
    }
}

pub(super) fn taints(path: &Path, taints: &[Value], errors: &mut Errors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, value, effect) =
            (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        invalid(&path.child("key"), key, names::qualified_name(key), errors);
        invalid(&path.child("value"), value, names::label_value(value), errors);
        super::required_one_of(&path.child("effect"), effect, EFFECTS, errors);
        if !seen.insert((key, effect)) {
            let mut error = FieldError::duplicate(path.to_string(), taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

pub(super) fn gates(path: &Path, spec: &Value, errors: &mut Errors) {
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let (at, kind) = (
            path.child("readinessGates").index(i).child("conditionType"),
            text(gate, "conditionType"),
        );
        invalid(&at, kind, names::qualified_name(kind), errors);
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let (at, name) = (path.child("schedulingGates").index(i), text(gate, "name"));
        invalid(&at, name, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at.to_string(), name));
        }
    }
}

pub(super) fn spread(path: &Path, constraints: &[Value], errors: &mut Errors) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let skew = integer(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(
                path.child("maxSkew").to_string(),
                skew,
                "must be greater than zero",
            ));
        }
        match text(constraint, "topologyKey") {
            "" => errors.push(FieldError::required(
                path.child("topologyKey").to_string(),
                "can not be empty",
            )),
            key => invalid(&path.child("topologyKey"), key, names::qualified_name(key), errors),
        }
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        match text(constraint, "whenUnsatisfiable") {
            "" => required(&path.child("whenUnsatisfiable"), errors),
            action => one_of(&path.child("whenUnsatisfiable"), action, &known, errors),
        }
        if let Some(selector) = constraint.get("labelSelector") {
            meta::label_selector(&path.child("labelSelector"), selector, errors);
        }
    }
}
