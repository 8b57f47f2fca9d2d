//! What a pod asks for: resources and host ports.

use std::collections::{BTreeMap, BTreeSet};

use api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Amounts by resource name; CPU in thousandths, the others in units.
pub(crate) type Amounts = BTreeMap<String, i64>;

pub(crate) const CPU: &str = "cpu";
pub(crate) const MEMORY: &str = "memory";
/// What a container without a request is counted as when nodes are compared.
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A host port that only one pod of a node can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    port: i32,
    protocol: String,
    ip: String,
}

impl HostPort {
    /// The same port on the same address, or on any.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

pub(crate) fn amounts(texts: Option<&BTreeMap<String, Text>>) -> Amounts {
    let amount = |(name, text): (&String, &Text)| {
        let quantity = Quantity::parse(&text.0).ok()?;
        Some((name.clone(), if name == CPU { quantity.milli_value() } else { quantity.value() }))
    };
    texts.into_iter().flatten().filter_map(amount).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert(0);
        *entry = entry.saturating_add(*amount);
    }
}

fn max(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = sum.entry(name.clone()).or_insert(0);
        *entry = (*entry).max(*amount);
    }
}

fn of_container(container: &Container, with_defaults: bool) -> Amounts {
    let resources = container.resources.as_ref();
    let mut requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    if with_defaults {
        requests.entry(CPU.to_owned()).or_insert(DEFAULT_CPU);
        requests.entry(MEMORY.to_owned()).or_insert(DEFAULT_MEMORY);
    }
    requests
}

/// What the pod needs: its containers together, or an init container with the sidecars before it, whichever is
/// larger, and the overhead. Requests of the pod as a whole take the place of the sum.
pub(crate) fn of_pod(pod: &Pod, with_defaults: bool) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(container, with_defaults));
    }
    let mut sidecars = Amounts::new();
    let mut init = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut needed = of_container(container, with_defaults);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &needed);
            add(&mut sidecars, &needed);
            needed = sidecars.clone();
        } else {
            add(&mut needed, &sidecars);
        }
        max(&mut init, &needed);
    }
    max(&mut total, &init);
    total
        .extend(amounts(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())));
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

pub(crate) fn host_ports(pod: &Pod) -> BTreeSet<HostPort> {
    let containers = |spec: &PodSpec| -> Vec<Container> {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars =
            sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars).cloned().collect()
    };
    let containers = pod.spec.as_ref().map(containers).unwrap_or_default();
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(HostPort {
            port: port.host_port.filter(|port| *port > 0)?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            ip: port.host_ip.clone().unwrap_or_default(),
        })
    };
    ports.filter_map(port).collect()
}
