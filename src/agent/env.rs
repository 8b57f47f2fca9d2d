//! The environment of a container: literal values, ConfigMaps, Secrets, the downward API, Services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVarSource, Pod, Secret, Service,
};

use crate::expand::expand;
use crate::fieldref::{self, NodeFields};
use crate::worker::Failure;

const REASON: &str = "CreateContainerConfigError";

/// Names of objects that something needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// Those objects; `None` where the API server has none of that name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

impl Objects {
    pub(crate) fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name)?.as_deref()
    }

    pub(crate) fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)?.as_deref()
    }
}

/// The ConfigMaps and Secrets that a container's variables come from.
pub(crate) fn references(container: &Container) -> References {
    let mut found = References::default();
    for source in container.env_from.iter().flatten() {
        found.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        found.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        found.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        found.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    found
}

/// The container's variables in order; `services` are the lowest in rank, the `env` list the highest.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    node: &NodeFields,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, Failure> {
    let mut known: BTreeMap<String, String> = services.iter().cloned().collect();
    let mut out: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        for (key, value) in bundle(source, objects)? {
            let name = format!("{}{key}", source.prefix.as_deref().unwrap_or_default());
            known.insert(name.clone(), value.clone());
            set(&mut out, name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), |n| {
                known.get(n).cloned()
            })),
            Some(source) => single(pod, container, source, objects, node)?,
        };
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            set(&mut out, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !out.iter().any(|(n, _)| n == name) {
            out.push((name.clone(), value.clone()));
        }
    }
    Ok(out)
}

/// Sets a variable; a later value takes the place of an earlier one.
pub(crate) fn set(list: &mut Vec<(String, String)>, name: String, value: String) {
    match list.iter_mut().find(|(n, _)| *n == name) {
        Some(entry) => entry.1 = value,
        None => list.push((name, value)),
    }
}

fn bundle(source: &EnvFromSource, objects: &Objects) -> Result<Vec<(String, String)>, Failure> {
    if let Some(reference) = &source.config_map_ref {
        return match objects.config_map(&reference.name) {
            Some(map) => Ok(map.data.clone().unwrap_or_default().into_iter().collect()),
            None if reference.optional == Some(true) => Ok(Vec::new()),
            None => Err(missing("configmap", &reference.name)),
        };
    }
    let Some(reference) = &source.secret_ref else { return Ok(Vec::new()) };
    match objects.secret(&reference.name) {
        Some(secret) => Ok(secret
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned()))
            .collect()),
        None if reference.optional == Some(true) => Ok(Vec::new()),
        None => Err(missing("secret", &reference.name)),
    }
}

fn single(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    objects: &Objects,
    node: &NodeFields,
) -> Result<Option<String>, Failure> {
    let config = |message| Failure::new(REASON, message);
    if let Some(field) = &source.field_ref {
        return fieldref::field(pod, node, &field.field_path).map(Some).map_err(config);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fieldref::resource(pod, container, node, selector).map(Some).map_err(config);
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = objects.config_map(&key.name);
        let value = map.and_then(|m| m.data.as_ref()?.get(&key.key)).cloned();
        return demand(
            value,
            map.is_some(),
            key.optional,
            ("configmap", "ConfigMap"),
            pod,
            &key.name,
            &key.key,
        );
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = objects.secret(&key.name);
        let value = secret.and_then(|s| s.data.as_ref()?.get(&key.key));
        let value = value.map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return demand(
            value,
            secret.is_some(),
            key.optional,
            ("secret", "Secret"),
            pod,
            &key.name,
            &key.key,
        );
    }
    Err(Failure::new(REASON, "env var has an unsupported value source"))
}

fn demand(
    value: Option<String>,
    exists: bool,
    optional: Option<bool>,
    kind: (&str, &str),
    pod: &Pod,
    name: &str,
    key: &str,
) -> Result<Option<String>, Failure> {
    if value.is_some() || optional == Some(true) {
        return Ok(value);
    }
    if !exists {
        return Err(missing(kind.0, name));
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Err(Failure::new(REASON, format!("couldn't find key {key} in {} {namespace}/{name}", kind.1)))
}

fn missing(kind: &str, name: &str) -> Failure {
    Failure::new(REASON, format!("{kind} {name:?} not found"))
}

/// Variables that describe Services: those of the pod's namespace if it wants them, and always the API server's.
pub(crate) fn service_variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let own = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let master = own == "default" && name == "kubernetes";
        if master || (links && own == namespace) {
            describe(service, name, &mut out);
        }
    }
    out
}

fn describe(service: &Service, name: &str, out: &mut Vec<(String, String)>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let prefix = name.to_uppercase().replace('-', "_");
    set(out, format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    set(out, format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let label = label.to_uppercase().replace('-', "_");
            set(out, format!("{prefix}_SERVICE_PORT_{label}"), port.port.to_string());
        }
    }
    for (at, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if at == 0 {
            set(out, format!("{prefix}_PORT"), url.clone());
        }
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        set(out, base.clone(), url);
        set(out, format!("{base}_PROTO"), protocol.to_lowercase());
        set(out, format!("{base}_PORT"), port.port.to_string());
        set(out, format!("{base}_ADDR"), ip.to_owned());
    }
}
