//! Services, Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::{Value, json};

use super::path::Path;
use super::pod::ip;
use super::{
    Errors, immutable, integer, invalid, list, meta, one_of, probe, required, required_one_of, text,
};

/// Most endpoints and ports of one slice, most addresses of one endpoint.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) fn service(object: &Value, errors: &mut Errors) {
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    let (kind, address) = (text(spec, "type"), text(spec, "clusterIP"));
    let headless = address == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        required(&path.child("ports"), errors);
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", address, detail));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    ports(&path.child("ports"), spec, kind, errors);
    meta::labels(&path.child("selector"), spec.get("selector"), errors);
    required_one_of(
        &path.child("sessionAffinity"),
        text(spec, "sessionAffinity"),
        &["ClientIP", "None"],
        errors,
    );
    required_one_of(&path.child("type"), kind, TYPES, errors);
    if !matches!(address, "" | "None") {
        ip(&path.child("clusterIPs").index(0), address, errors);
    }
    for (i, external) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        ip(&path.child("externalIPs").index(i), external, errors);
    }
    traffic_policies(&path, spec, kind, errors);
    health_check_port(&path, spec, errors);
}

fn external_name(spec: &Value, errors: &mut Errors) {
    if !text(spec, "clusterIP").is_empty() {
        errors.push(FieldError::forbidden(
            "spec.clusterIPs",
            "may not be set for ExternalName services",
        ));
    }
    match text(spec, "externalName") {
        "" => required(&Path::new("spec.externalName"), errors),
        name => {
            let bare = name.strip_suffix('.').unwrap_or(name);
            invalid(&Path::new("spec.externalName"), name, names::dns1123_subdomain(bare), errors);
        }
    }
}

fn traffic_policies(path: &Path, spec: &Value, kind: &str, errors: &mut Errors) {
    if let Some(policy) = spec.get("externalTrafficPolicy").and_then(Value::as_str) {
        let at = path.child("externalTrafficPolicy");
        if kind == "ExternalName" || (kind == "ClusterIP" && list(spec, "externalIPs").is_empty()) {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(at.to_string(), policy, detail));
        } else {
            one_of(&at, policy, &["Cluster", "Local"], errors);
        }
    }
    if let Some(policy) = spec.get("internalTrafficPolicy").and_then(Value::as_str) {
        one_of(&path.child("internalTrafficPolicy"), policy, &["Cluster", "Local"], errors);
    }
    if let Some(seconds) = integer(&spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds") {
        let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        if !(1..=86400).contains(&seconds) {
            errors.push(FieldError::invalid(
                at.to_string(),
                seconds,
                "must be greater than 0 and less than 86400",
            ));
        }
    }
}

fn ports(path: &Path, spec: &Value, kind: &str, errors: &mut Errors) {
    let ports = list(spec, "ports");
    let (mut seen_names, mut seen, mut node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        match text(port, "name") {
            "" if ports.len() > 1 => required(&path.child("name"), errors),
            "" => {}
            name => {
                invalid(&path.child("name"), name, names::dns1123_label(name), errors);
                if !seen_names.insert(name) {
                    errors.push(FieldError::duplicate(path.child("name").to_string(), name));
                }
            }
        }
        let (number, protocol) = (integer(port, "port").unwrap_or(0), text(port, "protocol"));
        for problem in names::port_number(number) {
            errors.push(FieldError::invalid(path.child("port").to_string(), number, problem));
        }
        required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"], errors);
        probe::port(&path.child("targetPort"), port.get("targetPort"), errors);
        if !seen.insert((protocol, number)) {
            errors.push(FieldError::duplicate(
                path.to_string(),
                json!({"port": number, "protocol": protocol}),
            ));
        }
        let node_port = integer(port, "nodePort").unwrap_or(0);
        if node_port != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            let at = path.child("nodePort").to_string();
            errors.push(FieldError::forbidden(
                at,
                format!("may not be used when `type` is '{kind}'"),
            ));
        } else if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(path.child("nodePort").to_string(), node_port));
        }
    }
}

/// Whether load balancers ask the nodes which of them have endpoints of a Service with this `spec`.
pub fn service_needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn health_check_port(path: &Path, spec: &Value, errors: &mut Errors) {
    let port = integer(spec, "healthCheckNodePort").unwrap_or(0);
    let at = path.child("healthCheckNodePort").to_string();
    if port == 0 {
        return;
    }
    if service_needs_health_check(spec) {
        for problem in names::port_number(port) {
            errors.push(FieldError::invalid(at.as_str(), port, problem));
        }
    } else {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(at, port, detail));
    }
}

pub(super) fn service_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let named = |spec: &Value| text(spec, "type") == "ExternalName";
    let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP"));
    if !named(new) && !named(old) && !before.is_empty() && before != after {
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", json!([after]), detail));
    }
    let [before, after] = [old, new].map(|spec| {
        service_needs_health_check(spec).then(|| integer(spec, "healthCheckNodePort").unwrap_or(0))
    });
    if before.is_some() && after.is_some() && before != after {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    for (i, subset) in list(object, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        let kinds = ["addresses", "notReadyAddresses"];
        if kinds.iter().all(|kind| list(subset, kind).is_empty()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(path.to_string(), detail));
        }
        for kind in kinds {
            for (i, address) in list(subset, kind).iter().enumerate() {
                ip(&path.child(kind).index(i).child("ip"), text(address, "ip"), errors);
            }
        }
        let several = list(subset, "ports").len() > 1;
        for (i, port) in list(subset, "ports").iter().enumerate() {
            let path = path.child("ports").index(i);
            match text(port, "name") {
                "" if several => required(&path.child("name"), errors),
                "" => {}
                name => invalid(&path.child("name"), name, names::dns1123_label(name), errors),
            }
            let number = integer(port, "port").unwrap_or(0);
            for problem in names::port_number(number) {
                errors.push(FieldError::invalid(path.child("port").to_string(), number, problem));
            }
            required_one_of(
                &path.child("protocol"),
                text(port, "protocol"),
                &["SCTP", "TCP", "UDP"],
                errors,
            );
        }
    }
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    let kind = text(object, "addressType");
    required_one_of(&Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"], errors);
    let (path, endpoints) = (Path::new("endpoints"), list(object, "endpoints"));
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), SLICE_ENDPOINTS_MAX));
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(i).child("addresses");
        let addresses = list(endpoint, "addresses");
        match addresses.len() {
            0 => errors
                .push(FieldError::required(path.to_string(), "must contain at least 1 address")),
            n if n > ADDRESSES_MAX => {
                errors.push(FieldError::too_many(path.to_string(), n, ADDRESSES_MAX))
            }
            _ => {}
        }
        for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            slice_address(&path.index(i), kind, address, errors);
        }
    }
    slice_ports(list(object, "ports"), errors);
}

fn slice_address(path: &Path, kind: &str, address: &str, errors: &mut Errors) {
    let detail = match (kind, address.parse::<std::net::IpAddr>()) {
        ("IPv4", Ok(std::net::IpAddr::V4(_))) | ("IPv6", Ok(std::net::IpAddr::V6(_))) => return,
        ("IPv4", Ok(_)) => "must be an IPv4 address",
        ("IPv6", Ok(_)) => "must be an IPv6 address",
        ("IPv4" | "IPv6", Err(_)) => {
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        }
        ("FQDN", _) => return invalid(path, address, names::dns1123_subdomain(address), errors),
        _ => return,
    };
    errors.push(FieldError::invalid(path.to_string(), address, detail));
}

fn slice_ports(ports: &[Value], errors: &mut Errors) {
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(FieldError::too_many("ports", ports.len(), SLICE_PORTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = Path::new("ports").index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            invalid(&path.child("name"), name, names::dns1123_label(name), errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.child("name").to_string(), name));
        }
        required_one_of(
            &path.child("protocol"),
            text(port, "protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
}

pub(super) fn endpoint_slice_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&Path::new("addressType"), new.get("addressType"), old.get("addressType"), errors);
}
