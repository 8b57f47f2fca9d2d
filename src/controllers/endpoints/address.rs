//! What one pod contributes to a Service.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// What of a pod endpoints depend on.
#[derive(PartialEq, Eq)]
pub(super) struct Facts<'a> {
    addresses: Vec<&'a str>,
    node: &'a str,
    ready: bool,
    terminating: bool,
    finished: bool,
    labels: Option<&'a std::collections::BTreeMap<String, String>>,
    hostname: Option<&'a str>,
    uid: Option<&'a str>,
}

pub(super) fn facts(pod: &Pod) -> Facts<'_> {
    Facts {
        addresses: addresses(pod),
        node: pods::node_name(pod),
        ready: pods::is_ready(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        finished: pods::is_finished(pod),
        labels: pod.metadata.labels.as_ref(),
        hostname: pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()),
        uid: pod.metadata.uid.as_deref(),
    }
}

fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    match &status.pod_ips {
        Some(ips) if !ips.is_empty() => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        _ => status.pod_ip.as_deref().into_iter().collect(),
    }
}

/// A port as Endpoints and slices have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) port: i32,
    pub(super) protocol: String,
    pub(super) app_protocol: Option<String>,
}

/// One address of a Service, with the ports it offers there.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) ip: String,
    pub(super) ports: Vec<Port>,
    /// As a client should see it: published although not ready counts as ready.
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) node: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) target: ObjectReference,
}

/// The address of a pod in the family asked for, if it has one there.
pub(super) fn of_pod(service: &Service, pod: &Pod, ipv6: bool) -> Option<Address> {
    let spec = service.spec.as_ref()?;
    if pods::is_finished(pod) {
        return None;
    }
    let ip = addresses(pod).into_iter().find(|ip| ip.contains(':') == ipv6)?;
    let mut ports: Vec<Port> =
        spec.ports.iter().flatten().filter_map(|port| port_of(port, pod)).collect();
    ports.sort();
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let published = spec.publish_not_ready_addresses.unwrap_or(false);
    let pod_spec = pod.spec.as_ref();
    let in_domain =
        pod_spec.and_then(|pod| pod.subdomain.as_ref()) == service.metadata.name.as_ref();
    let hostname = pod_spec.and_then(|pod| pod.hostname.clone()).filter(|_| in_domain);
    Some(Address {
        ip: ip.to_owned(),
        ports,
        ready: published || (serving && !terminating),
        serving,
        terminating,
        node: Some(pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()),
        hostname,
        target: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

/// The number behind a Service's port on this pod; a name the pod does not know gives none.
fn port_of(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) if *number == 0 => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named(pod, name, &protocol)?,
    };
    let name = port.name.clone().unwrap_or_default();
    Some(Port { name, port: number, protocol, app_protocol: port.app_protocol.clone() })
}

fn named(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let mut fitting = ports.filter(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    fitting.next().map(|port| port.container_port)
}
