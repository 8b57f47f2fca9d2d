//! Roles and their bindings.

use api::{FieldError, names};
use serde_json::{Value, json};

use super::path::Path;
use super::{Errors, invalid, list, meta, one_of, required, text};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(object: &Value, errors: &mut Errors) {
    rules(object, true, errors);
}

pub(super) fn cluster_role(object: &Value, errors: &mut Errors) {
    rules(object, false, errors);
    let Some(aggregation) = object.get("aggregationRule") else { return };
    let path = Path::new("aggregationRule").child("clusterRoleSelectors");
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        errors.push(FieldError::required(
            path.to_string(),
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        ));
    }
    for (index, selector) in selectors.iter().enumerate() {
        meta::label_selector(&path.index(index), selector, errors);
    }
}

fn rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in list(object, "rules").iter().enumerate() {
        policy_rule(&Path::new("rules").index(index), rule, namespaced, errors);
    }
}

fn policy_rule(path: &Path, rule: &Value, namespaced: bool, errors: &mut Errors) {
    let empty = |field: &str| list(rule, field).is_empty();
    let mut need = |field: &str, detail: &str| {
        if empty(field) {
            errors.push(FieldError::required(path.child(field).to_string(), detail));
        }
    };
    need("verbs", "verbs must contain at least one value");
    if empty("nonResourceURLs") {
        need("apiGroups", "resource rules must supply at least one api group");
        need("resources", "resource rules must supply at least one resource");
        return;
    }
    let mut refuse = |detail: &str| {
        let at = path.child("nonResourceURLs").to_string();
        errors.push(FieldError::invalid(at, rule["nonResourceURLs"].clone(), detail));
    };
    if namespaced {
        refuse("namespaced rules cannot apply to non-resource URLs");
    }
    if !["apiGroups", "resources", "resourceNames"].into_iter().all(empty) {
        refuse("rules cannot apply to both regular resources and non-resource URLs");
    }
}

pub(super) fn role_binding(object: &Value, errors: &mut Errors) {
    binding(object, &["ClusterRole", "Role"], true, errors);
}

pub(super) fn cluster_role_binding(object: &Value, errors: &mut Errors) {
    binding(object, &["ClusterRole"], false, errors);
}

fn binding(object: &Value, kinds: &[&str], namespaced: bool, errors: &mut Errors) {
    let (path, role) = (Path::new("roleRef"), &object["roleRef"]);
    one_of(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP], errors);
    one_of(&path.child("kind"), text(role, "kind"), kinds, errors);
    match text(role, "name") {
        "" => required(&path.child("name"), errors),
        name => invalid(&path.child("name"), name, names::path_segment(name), errors),
    }
    for (index, subject) in list(object, "subjects").iter().enumerate() {
        check_subject(&Path::new("subjects").index(index), subject, namespaced, errors);
    }
}

fn check_subject(path: &Path, subject: &Value, namespaced: bool, errors: &mut Errors) {
    let name = text(subject, "name");
    if name.is_empty() {
        required(&path.child("name"), errors);
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid(&path.child("name"), name, names::dns1123_subdomain(name), errors);
            }
            one_of(&path.child("apiGroup"), text(subject, "apiGroup"), &[""], errors);
            if !namespaced && text(subject, "namespace").is_empty() {
                required(&path.child("namespace"), errors);
            }
        }
        "User" | "Group" => {
            one_of(&path.child("apiGroup"), text(subject, "apiGroup"), &[GROUP], errors)
        }
        kind => one_of(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"], errors),
    }
}

pub(super) fn binding_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (role, before) = (&new["roleRef"], &old["roleRef"]);
    if role != before {
        // Upstream shows the fields under their internal names.
        let shown = json!({
            "APIGroup": text(role, "apiGroup"), "Kind": text(role, "kind"), "Name": text(role, "name"),
        });
        errors.push(FieldError::invalid("roleRef", shown, "cannot change roleRef"));
    }
}
