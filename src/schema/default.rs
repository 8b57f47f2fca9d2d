//! Upstream's defaults: the rows of `defaults.txt` for what depends on nothing, and the rules here for the rest.
//! Admission (priority, service account, tolerations, addresses of Services) is not part of it.

use std::collections::HashMap;
use std::sync::LazyLock;

use api::Resource;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::facts::{Shape, Type, builtin, type_at};

type Object = Map<String, Value>;
type Rule = fn(&mut Object);

static ROWS: LazyLock<HashMap<&'static str, Vec<(&'static str, Value)>>> = LazyLock::new(|| {
    let mut rows: HashMap<&str, Vec<(&str, Value)>> = HashMap::new();
    for line in include_str!("defaults.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        if let (Some(ty), Some(field), Some(value)) = (words.next(), words.next(), words.next()) {
            let value = serde_json::from_str(value).unwrap_or(Value::Null);
            rows.entry(ty).or_default().push((field, value));
        }
    }
    rows
});

/// Fills in what an object of the kind leaves out. Applying it again changes nothing.
pub fn default(res: &Resource, object: &mut Value) {
    if let (Some(ty), Value::Object(object)) = (builtin(res.group, res.version, res.kind), object) {
        fill(ty, object);
    }
}

fn fill(ty: &Type, object: &mut Object) {
    for (field, value) in ROWS.get(ty.name).into_iter().flatten() {
        if !object.contains_key(*field) {
            object.insert((*field).to_owned(), value.clone());
        }
    }
    if let Some((_, rule)) = RULES.iter().find(|(name, _)| *name == ty.name) {
        rule(object);
    }
    for field in &ty.fields {
        if let Some(value) = object.get_mut(field.name) {
            descend(&field.shape, value);
        }
    }
}

fn descend(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Object(index), Value::Object(object)) => fill(type_at(*index), object),
        (Shape::List(item), Value::Array(items)) => {
            items.iter_mut().for_each(|inner| descend(item, inner))
        }
        (Shape::Map(item), Value::Object(items)) => {
            items.values_mut().for_each(|inner| descend(item, inner))
        }
        _ => {}
    }
}

/// What a type gets besides its rows, before its fields are looked at.
const RULES: &[(&str, Rule)] = &[
    ("apps.v1.DaemonSetUpdateStrategy", rolling),
    ("apps.v1.DeploymentStrategy", rolling),
    ("core.v1.Container", container),
    ("core.v1.EphemeralContainer", container),
    ("core.v1.ImageVolumeSource", image_volume),
    ("core.v1.Namespace", namespace),
    ("core.v1.NodeStatus", node_status),
    ("core.v1.Pod", pod),
    ("core.v1.PodSpec", pod_spec),
    ("core.v1.Secret", secret),
    ("core.v1.ServiceSpec", service_spec),
    ("core.v1.ServicePort", service_port),
    ("core.v1.Volume", volume),
    ("rbac.v1.Subject", subject),
];

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn set_absent(object: &mut Object, field: &str, value: Value) {
    if !object.contains_key(field) {
        object.insert(field.to_owned(), value);
    }
}

fn rolling(strategy: &mut Object) {
    if text(strategy, "type") == "RollingUpdate" {
        set_absent(strategy, "rollingUpdate", json!({}));
    }
}

fn subject(subject: &mut Object) {
    if matches!(text(subject, "kind"), "User" | "Group") && text(subject, "apiGroup").is_empty() {
        subject.insert("apiGroup".to_owned(), json!("rbac.authorization.k8s.io"));
    }
}

fn container(container: &mut Object) {
    let policy = pull_policy(text(container, "image"));
    set_absent(container, "imagePullPolicy", json!(policy));
}

fn image_volume(source: &mut Object) {
    let policy = pull_policy(text(source, "reference"));
    set_absent(source, "pullPolicy", json!(policy));
}

/// `Always` when the tag is, or is taken to be, `latest`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn namespace(namespace: &mut Object) {
    let Some(Value::Object(metadata)) = namespace.get_mut("metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.insert("kubernetes.io/metadata.name".to_owned(), Value::String(name));
    }
}

fn node_status(status: &mut Object) {
    if let Some(capacity) = status.get("capacity").cloned() {
        set_absent(status, "allocatable", capacity);
    }
}

/// What holds for pods but not for pod templates.
fn pod(pod: &mut Object) {
    let Some(Value::Object(spec)) = pod.get_mut("spec") else { return };
    set_absent(spec, "enableServiceLinks", json!(true));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                requests_from_limits(resources);
            }
            if host_network {
                host_ports(container);
            }
        }
    }
    if let Some(Value::Object(resources)) = spec.get_mut("resources") {
        requests_from_limits(resources);
    }
}

fn requests_from_limits(resources: &mut Object) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Value::Object(requests) = requests {
        for (name, amount) in limits {
            set_absent(requests, &name, amount);
        }
    }
}

fn host_ports(container: &mut Object) {
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port
            && let Some(number) = port.get("containerPort").cloned()
        {
            set_absent(port, "hostPort", number);
        }
    }
}

/// The old name of the service account follows the new one.
fn pod_spec(spec: &mut Object) {
    if let Some(old) = spec.get("serviceAccount").cloned() {
        set_absent(spec, "serviceAccountName", old);
    }
    if let Some(name) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".to_owned(), name);
    }
}

/// `stringData` is write-only: it becomes part of `data`.
fn secret(secret: &mut Object) {
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    let data = secret.entry("data").or_insert_with(|| json!({}));
    if let Value::Object(data) = data {
        for (key, value) in texts {
            data.insert(key, Value::String(STANDARD.encode(value.as_str().unwrap_or_default())));
        }
    }
}

fn service_spec(spec: &mut Object) {
    let kind = text(spec, "type").to_owned();
    if text(spec, "sessionAffinity") == "None" {
        spec.remove("sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        set_absent(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP"
            && spec
                .get("externalIPs")
                .and_then(Value::as_array)
                .is_some_and(|ips| !ips.is_empty()));
    if external {
        set_absent(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_absent(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

fn service_port(port: &mut Object) {
    let unset = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(target) => *target == json!(0) || *target == json!(""),
    };
    if let Some(number) = port.get("port").cloned().filter(|_| unset) {
        port.insert("targetPort".to_owned(), number);
    }
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}
