//! Containers of a pod: ordinary, init and ephemeral ones.

use std::collections::BTreeSet;

use api::{FieldError, Quantity, names};
use serde_json::Value;

use super::path::Path;
use super::pod::Home;
use super::{
    Errors, fields, flag, integer, invalid, list, one_of, probe, required, required_one_of, text,
};

/// What all containers of a pod share while they are checked.
struct Pod<'a> {
    volumes: &'a BTreeSet<&'a str>,
    host_network: bool,
    home: Home,
    names: BTreeSet<String>,
    host_ports: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    /// An init container that runs beside the main ones.
    Sidecar,
    Ephemeral,
}

pub(super) fn containers(
    path: &Path,
    spec: &Value,
    volumes: &BTreeSet<&str>,
    home: Home,
    errors: &mut Errors,
) {
    let host_network = flag(spec, "hostNetwork");
    let mut pod =
        Pod { volumes, host_network, home, names: BTreeSet::new(), host_ports: BTreeSet::new() };
    if list(spec, "containers").is_empty() {
        required(&path.child("containers"), errors);
    }
    for (field, role) in [
        ("containers", Role::Main),
        ("initContainers", Role::Init),
        ("ephemeralContainers", Role::Ephemeral),
    ] {
        for (i, inner) in list(spec, field).iter().enumerate() {
            let role = match text(inner, "restartPolicy") {
                "Always" if role == Role::Init => Role::Sidecar,
                _ => role,
            };
            container(&path.child(field).index(i), inner, role, &mut pod, errors);
        }
    }
}

fn container(path: &Path, value: &Value, role: Role, pod: &mut Pod<'_>, errors: &mut Errors) {
    match text(value, "name") {
        "" => required(&path.child("name"), errors),
        name => {
            invalid(&path.child("name"), name, names::dns1123_label(name), errors);
            if !pod.names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(path.child("name").to_string(), name));
            }
        }
    }
    match text(value, "image") {
        "" => required(&path.child("image"), errors),
        image if image.trim() != image && pod.home == Home::Pod => {
            let at = path.child("image").to_string();
            errors.push(FieldError::invalid(
                at,
                image,
                "must not have leading or trailing whitespace",
            ));
        }
        _ => {}
    }
    if value.get("restartPolicy").is_some() {
        one_of(
            &path.child("restartPolicy"),
            text(value, "restartPolicy"),
            &["Always", "Never", "OnFailure"],
            errors,
        );
    }
    let policies = ["File", "FallbackToLogsOnError"];
    required_one_of(
        &path.child("terminationMessagePolicy"),
        text(value, "terminationMessagePolicy"),
        &policies,
        errors,
    );
    let policies = ["Always", "IfNotPresent", "Never"];
    required_one_of(
        &path.child("imagePullPolicy"),
        text(value, "imagePullPolicy"),
        &policies,
        errors,
    );
    ports(&path.child("ports"), list(value, "ports"), pod, errors);
    env(&path.child("env"), list(value, "env"), errors);
    env_from(&path.child("envFrom"), list(value, "envFrom"), errors);
    volume_mounts(&path.child("volumeMounts"), list(value, "volumeMounts"), pod.volumes, errors);
    lifecycle_and_probes(path, value, role, errors);
    resources(&path.child("resources"), &value["resources"], errors);
    security_context(&path.child("securityContext"), &value["securityContext"], errors);
}

fn lifecycle_and_probes(path: &Path, value: &Value, role: Role, errors: &mut Errors) {
    let barred = match role {
        Role::Main | Role::Sidecar => None,
        Role::Init => Some("may not be set for init containers without restartPolicy=Always"),
        Role::Ephemeral => Some("cannot be set for an Ephemeral Container"),
    };
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let (Some(inner), at) = (value.get(field), path.child(field)) else { continue };
        match (barred, field) {
            (Some(why), _) => errors.push(FieldError::forbidden(at.to_string(), why)),
            (None, "lifecycle") => probe::lifecycle(&at, inner, errors),
            (None, _) => probe::probe(&at, inner, field != "readinessProbe", errors),
        }
    }
}

fn ports(path: &Path, ports: &[Value], pod: &mut Pod<'_>, errors: &mut Errors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            let valid = problems.is_empty();
            invalid(&path.child("name"), name, problems, errors);
            if valid && !seen.insert(name) {
                errors.push(FieldError::duplicate(path.child("name").to_string(), name));
            }
        }
        let number = integer(port, "containerPort").unwrap_or(0);
        match number {
            0 => required(&path.child("containerPort"), errors),
            number => number_range(&path.child("containerPort"), number, errors),
        }
        required_one_of(
            &path.child("protocol"),
            text(port, "protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
        host_port(&path, port, number, pod, errors);
    }
}

fn number_range(path: &Path, number: i64, errors: &mut Errors) {
    for problem in names::port_number(number) {
        errors.push(FieldError::invalid(path.to_string(), number, problem));
    }
}

fn host_port(path: &Path, port: &Value, number: i64, pod: &mut Pod<'_>, errors: &mut Errors) {
    let host = integer(port, "hostPort").unwrap_or(0);
    if pod.host_network && host != number && (pod.home == Home::Pod || host != 0) {
        let at = path.child("hostPort").to_string();
        let detail = "must match `containerPort` when `hostNetwork` is true";
        errors.push(FieldError::invalid(at, host, detail));
    }
    if host == 0 {
        return;
    }
    number_range(&path.child("hostPort"), host, errors);
    let taken = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
    if !pod.host_ports.insert(taken.clone()) {
        errors.push(FieldError::duplicate(path.child("hostPort").to_string(), taken));
    }
}

fn env(path: &Path, vars: &[Value], errors: &mut Errors) {
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        match text(var, "name") {
            "" => required(&path.child("name"), errors),
            name => invalid(&path.child("name"), name, names::env_name(name), errors),
        }
        if let Some(from) = var.get("valueFrom") {
            value_from(&path.child("valueFrom"), from, text(var, "value"), errors);
        }
    }
}

/// Paths that `fieldRef` knows in environment variables.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(path: &Path, from: &Value, value: &str, errors: &mut Errors) {
    let sources = from.as_object().map_or(0, serde_json::Map::len);
    let problem = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        }
        _ if !value.is_empty() => "may not be specified when `value` is not empty",
        1 => "",
        _ => "may not have more than one field specified at a time",
    };
    if !problem.is_empty() {
        errors.push(FieldError::invalid(path.to_string(), "", problem));
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        let (Some(reference), path) = (from.get(field), path.child(field)) else { continue };
        let name = text(reference, "name");
        invalid(&path.child("name"), name, names::dns1123_subdomain(name), errors);
        match text(reference, "key") {
            "" => required(&path.child("key"), errors),
            key => invalid(&path.child("key"), key, names::config_key(key), errors),
        }
    }
    if let Some(reference) = from.get("fieldRef") {
        field_ref(&path.child("fieldRef"), reference, ENV_FIELDS, errors);
    }
    if let Some(reference) = from.get("resourceFieldRef") {
        resource_ref(&path.child("resourceFieldRef"), reference, errors);
    }
}

pub(super) fn field_ref(path: &Path, reference: &Value, known: &[&str], errors: &mut Errors) {
    if text(reference, "apiVersion").is_empty() {
        required(&path.child("apiVersion"), errors);
    }
    let at = path.child("fieldPath");
    match text(reference, "fieldPath") {
        "" => required(&at, errors),
        field => {
            let keyed = ["metadata.labels['", "metadata.annotations['"];
            let subscript = keyed
                .iter()
                .find_map(|open| field.strip_prefix(open))
                .and_then(|rest| rest.strip_suffix("']"));
            match subscript {
                Some(key) => invalid(&at, key, names::qualified_name(&key.to_lowercase()), errors),
                None => one_of(&at, field, known, errors),
            }
        }
    }
}

const RESOURCE_REFS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn resource_ref(path: &Path, reference: &Value, errors: &mut Errors) {
    match text(reference, "resource") {
        "" => required(&path.child("resource"), errors),
        name if name.contains("hugepages-") => {}
        name => one_of(&path.child("resource"), name, RESOURCE_REFS, errors),
    }
}

fn env_from(path: &Path, sources: &[Value], errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            invalid(&at.child("prefix"), prefix, names::env_name(prefix), errors);
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|f| source.get(*f).is_some())
            .collect();
        match given.as_slice() {
            [] => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(path.to_string(), "", detail));
            }
            [field] if text(&source[*field], "name").is_empty() => {
                required(&at.child(field).child("name"), errors)
            }
            [_] => {}
            _ => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(path.to_string(), "", detail));
            }
        }
    }
}

fn volume_mounts(path: &Path, mounts: &[Value], volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let (list_path, path) = (path, path.index(i));
        match text(mount, "name") {
            "" => {
                required(&path.child("name"), errors);
                errors.push(FieldError::not_found(path.child("name").to_string(), ""));
            }
            name if !volumes.contains(name) => {
                errors.push(FieldError::not_found(path.child("name").to_string(), name))
            }
            _ => {}
        }
        match text(mount, "mountPath") {
            "" => required(&path.child("mountPath"), errors),
            target if !seen.insert(target) => {
                errors.push(FieldError::invalid(
                    path.child("mountPath").to_string(),
                    target,
                    "must be unique",
                ));
            }
            _ => {}
        }
        for field in ["subPath", "subPathExpr"] {
            super::volume::descending(&list_path.child(field), text(mount, field), errors);
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let (at, value) = (path.child("subPathExpr").to_string(), text(mount, "subPathExpr"));
            errors.push(FieldError::invalid(
                at,
                value,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        if mount.get("mountPropagation").is_some() {
            let known = ["Bidirectional", "HostToContainer", "None"];
            one_of(
                &path.child("mountPropagation"),
                text(mount, "mountPropagation"),
                &known,
                errors,
            );
        }
    }
}

const STANDARD_RESOURCES: &[&str] = &["cpu", "ephemeral-storage", "memory"];

pub(super) fn resources(path: &Path, resources: &Value, errors: &mut Errors) {
    for field in ["limits", "requests"] {
        for (name, amount) in fields(resources, field) {
            resource_amount(&path.child(field).key(name), name, amount, errors);
        }
    }
    for (name, request) in fields(resources, "requests") {
        let (request, limit) = (quantity(Some(request)), quantity(resources["limits"].get(name)));
        if let (Some(request), Some(limit)) = (request, limit)
            && request > limit
        {
            let at = path.child("requests").to_string();
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(at, request.canonical(), detail));
        }
    }
}

fn quantity(value: Option<&Value>) -> Option<Quantity> {
    Quantity::from_json(value?).ok()
}

fn resource_amount(path: &Path, name: &str, amount: &Value, errors: &mut Errors) {
    let problems = names::qualified_name(name);
    if problems.is_empty()
        && !name.contains('/')
        && !STANDARD_RESOURCES.contains(&name)
        && !name.starts_with("hugepages-")
    {
        errors.push(FieldError::invalid(
            path.to_string(),
            name,
            "must be a standard resource for containers",
        ));
    }
    invalid(path, name, problems, errors);
    let Some(quantity) = quantity(Some(amount)) else { return };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(
            path.to_string(),
            quantity.canonical(),
            "must be greater than or equal to 0",
        ));
    }
    if (name.contains('/') || name.starts_with("hugepages-")) && !quantity.is_whole() {
        errors.push(FieldError::invalid(
            path.to_string(),
            quantity.canonical(),
            "must be an integer",
        ));
    }
}

pub(super) fn id_range(path: &Path, context: &Value, field: &str, errors: &mut Errors) {
    if let Some(id) = integer(context, field) {
        for problem in names::in_range(id, 0, i64::from(i32::MAX)) {
            errors.push(FieldError::invalid(path.child(field).to_string(), id, problem));
        }
    }
}

pub(super) fn seccomp(path: &Path, profile: &Value, errors: &mut Errors) {
    if profile.is_null() {
        return;
    }
    let (kind, file) = (text(profile, "type"), text(profile, "localhostProfile"));
    required_one_of(
        &path.child("type"),
        kind,
        &["Localhost", "RuntimeDefault", "Unconfined"],
        errors,
    );
    let at = path.child("localhostProfile");
    match (kind, file) {
        ("Localhost", "") => errors.push(FieldError::required(
            at.to_string(),
            "must be set when seccomp type is Localhost",
        )),
        ("Localhost", file) => super::volume::descending(&at, file, errors),
        (_, "") => {}
        (_, file) => errors.push(FieldError::invalid(
            at.to_string(),
            file,
            "can only be set when seccomp type is Localhost",
        )),
    }
}

fn security_context(path: &Path, context: &Value, errors: &mut Errors) {
    id_range(path, context, "runAsUser", errors);
    id_range(path, context, "runAsGroup", errors);
    if context.get("procMount").is_some() {
        one_of(
            &path.child("procMount"),
            text(context, "procMount"),
            &["Default", "Unmasked"],
            errors,
        );
    }
    seccomp(&path.child("seccompProfile"), &context["seccompProfile"], errors);
    if context.get("allowPrivilegeEscalation") != Some(&Value::Bool(false)) {
        return;
    }
    let added = list(&context["capabilities"], "add");
    let conflict = [
        (flag(context, "privileged"), "`privileged` to true"),
        (added.iter().any(|c| c == "CAP_SYS_ADMIN"), "`capabilities.Add` CAP_SYS_ADMIN"),
    ];
    for (_, what) in conflict.into_iter().filter(|(found, _)| *found) {
        let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
        errors.push(FieldError::invalid(path.to_string(), context.clone(), detail));
    }
}
