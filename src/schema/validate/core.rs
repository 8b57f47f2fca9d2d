//! ConfigMaps, Secrets, Nodes, Events and Leases.

use api::{FieldError, names};
use serde_json::Value;

use super::path::Path;
use super::{Errors, fields, flag, immutable, integer, invalid, required, scheduling, text};

/// Bytes of all values of a ConfigMap or Secret together.
const DATA_MAX: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

fn keys(path: &Path, object: &Value, field: &str, errors: &mut Errors) {
    for (key, _) in fields(object, field) {
        invalid(&path.key(key), key, names::config_key(key), errors);
    }
}

/// Bytes that base64 text stands for.
fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|&b| b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let data = Path::new("data");
    keys(&data, object, "data", errors);
    keys(&Path::new("binaryData"), object, "binaryData", errors);
    for (key, _) in
        fields(object, "data").filter(|(key, _)| object["binaryData"].get(key.as_str()).is_some())
    {
        errors.push(FieldError::invalid(
            data.key(key).to_string(),
            key.as_str(),
            "duplicate of key present in binaryData",
        ));
    }
    let plain: usize = fields(object, "data").map(|(_, v)| v.as_str().map_or(0, str::len)).sum();
    let binary: usize =
        fields(object, "binaryData").map(|(_, v)| v.as_str().map_or(0, decoded_length)).sum();
    if plain + binary > DATA_MAX {
        errors.push(FieldError::too_long("[]", DATA_MAX));
    }
}

pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut Errors) {
    frozen(new, old, &["data", "binaryData"], errors);
}

fn frozen(new: &Value, old: &Value, content: &[&str], errors: &mut Errors) {
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.push(FieldError::forbidden("immutable", FROZEN));
    }
    for field in content.iter().filter(|field| new.get(**field) != old.get(**field)) {
        errors.push(FieldError::forbidden(*field, FROZEN));
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let data = Path::new("data");
    keys(&data, object, "data", errors);
    let size: usize =
        fields(object, "data").map(|(_, v)| v.as_str().map_or(0, decoded_length)).sum();
    if size > DATA_MAX {
        errors.push(FieldError::too_long("data", DATA_MAX));
    }
    let has = |key: &str| object["data"].get(key).is_some();
    let needs: &[&str] = match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"], name).is_empty() {
                required(&Path::new("metadata.annotations").key(name), errors);
            }
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            &["username", "password"]
        }
        _ => &[],
    };
    for key in needs.iter().filter(|key| !has(key)) {
        required(&data.key(key), errors);
    }
}

pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&Path::new("type"), new.get("type"), old.get("type"), errors);
    frozen(new, old, &["data"], errors);
}

pub(super) fn node(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    scheduling::taints(&Path::new("spec.taints"), super::list(spec, "taints"), errors);
    for (i, cidr) in super::list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        if !is_cidr(cidr) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.podCIDRs[{i}]"), cidr, detail));
        }
    }
    let first = super::list(spec, "podCIDRs").first().and_then(Value::as_str).unwrap_or_default();
    let single = text(spec, "podCIDR");
    if !single.is_empty() && single != first {
        let detail = "must be the first of `podCIDRs`";
        errors.push(FieldError::invalid("spec.podCIDR", single, detail));
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let max = match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= max)
}

pub(super) fn node_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let ranges = !super::list(old, "podCIDRs").is_empty()
        && super::list(new, "podCIDRs") != super::list(old, "podCIDRs");
    let single = !text(old, "podCIDR").is_empty() && text(new, "podCIDR") != text(old, "podCIDR");
    if ranges || single {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
    if old.get("providerID").is_some() && new.get("providerID") != old.get("providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", detail));
    }
}

pub(super) fn event(object: &Value, errors: &mut Errors) {
    let (namespace, about) =
        (text(&object["metadata"], "namespace"), text(&object["involvedObject"], "namespace"));
    let fits = match about {
        "" => matches!(namespace, "" | "default" | "kube-system"),
        about => about == namespace,
    };
    if !fits {
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
    if object.get("eventTime").is_none() {
        return;
    }
    for (field, shown) in [
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
        ("action", "action"),
    ] {
        if text(object, field).is_empty() {
            required(&Path::new(shown), errors);
        }
    }
    if text(object, "reason").is_empty() {
        required(&Path::new("reason"), errors);
    }
    for (field, max) in
        [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)]
    {
        if text(object, field).len() > max {
            let detail = format!("can have at most {max} characters");
            errors.push(FieldError::invalid(field, "", detail));
        }
    }
}

/// What events.k8s.io/v1 asks of a new event, given in its core form, beyond what every event must be.
pub fn new_event(event: &Value) -> Vec<FieldError> {
    let given = |field: &str| event.get(field).is_some_and(|value| !value.is_null());
    let mut errors = Vec::new();
    if let Some(series) = event.get("series").filter(|series| series.is_object()) {
        if integer(series, "count").unwrap_or_default() < 2 {
            errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
        }
        if text(series, "lastObservedTime").is_empty() {
            required(&Path::new("series.lastObservedTime"), &mut errors);
        }
    }
    if !given("eventTime") {
        required(&Path::new("eventTime"), &mut errors);
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let counted = integer(event, "count").unwrap_or_default() != 0;
    let source = &event["source"];
    let sourced = !text(source, "component").is_empty() || !text(source, "host").is_empty();
    for (field, set) in [
        ("firstTimestamp", given("firstTimestamp")),
        ("lastTimestamp", given("lastTimestamp")),
        ("count", counted),
        ("source", sourced),
    ] {
        if set {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
    errors
}

pub(super) fn lease(object: &Value, errors: &mut Errors) {
    let spec = &object["spec"];
    if let Some(seconds) = integer(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    super::not_negative(&Path::new("spec"), spec, "leaseTransitions", errors);
}
