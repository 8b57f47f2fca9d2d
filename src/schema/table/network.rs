//! Rows of Services, Endpoints and EndpointSlices.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, cell, integer, list, name, or, pairs, text};

/// Endpoints that are written out; the rest is counted.
const SHOWN_MAX: usize = 3;

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let first = list(spec, "clusterIPs").first().and_then(Value::as_str);
    let address = first.unwrap_or_else(|| text(spec, "clusterIP"));
    vec![
        cell(name(object)),
        cell(text(spec, "type")),
        cell(or(address, "<none>")),
        cell(external(object)),
        cell(ports(spec)),
        age::age(object, now),
        cell(pairs(&spec["selector"])),
    ]
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses: Vec<&str> =
        list(spec, "externalIPs").iter().filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or(&addresses.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let ingress = list(&service["status"]["loadBalancer"], "ingress");
            let mut balanced: Vec<&str> =
                ingress.iter().map(|i| or(text(i, "ip"), text(i, "hostname"))).collect();
            balanced.retain(|address| !address.is_empty());
            balanced.append(&mut addresses);
            or(&balanced.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(spec: &Value) -> String {
    let port = |port: &Value| {
        let (number, protocol) = (integer(port, "port"), text(port, "protocol"));
        match integer(port, "nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    };
    let ports: Vec<String> = list(spec, "ports").iter().map(port).collect();
    or(&ports.join(","), "<none>").to_owned()
}

fn shortened(items: &[String], empty: &str) -> String {
    match items.len() {
        0 => empty.to_owned(),
        n if n > SHOWN_MAX => {
            format!("{} + {} more...", items[..SHOWN_MAX].join(","), n - SHOWN_MAX)
        }
        _ => items.join(","),
    }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut found = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = || list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            found.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            found.extend(addresses().map(|ip| host_port(ip, integer(port, "port"))));
        }
    }
    vec![cell(name(object)), cell(shortened(&found, "<none>")), age::age(object, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| {
        port.get("port").and_then(Value::as_i64).map_or("*".to_owned(), |n| n.to_string())
    };
    let ports: Vec<String> = list(object, "ports").iter().map(port).collect();
    let addresses = list(object, "endpoints").iter().flat_map(|e| list(e, "addresses"));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        cell(name(object)),
        cell(text(object, "addressType")),
        cell(shortened(&ports, "<unset>")),
        cell(shortened(&addresses, "<unset>")),
        age::age(object, now),
    ]
}
