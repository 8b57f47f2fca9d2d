//! Services: ClusterIPs, and what changes of a Service keep. What is taken is read from the stored Services under a lock, so there is no
//! second truth to repair.

use crate::answer::Result;
use crate::{ApiServer, object};
use api::{FieldError, Resource, Status};
use schema::service_needs_health_check;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use store::ListOptions;
use tokio::sync::OwnedMutexGuard;

use super::copy;
use super::service_ports::{NodePorts, exposes, number, ports_of};

/// Namespace and name of the Service of the cluster's name server.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Held until the Service is stored, so that two of them do not get the same address.
pub(crate) type AllocationGuard = Option<OwnedMutexGuard<()>>;

/// An IPv4 network of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceNetwork {
    base: u32,
    bits: u32,
}

impl ServiceNetwork {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok().filter(|b| (8..=30).contains(b))?;
        let address: Ipv4Addr = address.parse().ok()?;
        let base = u32::from(address) & (u32::MAX << (32 - bits));
        Some(Self { base, bits })
    }

    /// Usable addresses: all but the network's own and the last.
    fn size(self) -> u32 {
        (1 << (32 - self.bits)) - 2
    }

    fn nth(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1 + index)
    }

    pub(crate) fn first(self) -> Ipv4Addr {
        self.nth(0)
    }

    fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip).checked_sub(self.base + 1).is_some_and(|index| index < self.size())
    }

    /// A free address from the upper part: the lower is kept for addresses that people choose, like the DNS service's.
    fn free(self, taken: &BTreeSet<Ipv4Addr>, start: u32) -> Option<Ipv4Addr> {
        let size = self.size();
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let upper = size - reserved;
        (0..upper)
            .map(|i| self.nth(reserved + (start % upper + i) % upper))
            .chain((1..reserved).map(|i| self.nth(i)))
            .find(|ip| !taken.contains(ip))
    }
}

impl std::fmt::Display for ServiceNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// What the other Services have.
struct Taken {
    ips: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<u16>,
}

/// A change that says nothing about addresses or ports keeps them.
pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    let (old_type, new_type) = (kind(old).to_owned(), kind(new).to_owned());
    if old_type != "ExternalName"
        && new_type != "ExternalName"
        && object::text(new, &["spec", "clusterIP"]).is_empty()
    {
        copy(&["spec", "clusterIP"], old, new);
        copy(&["spec", "clusterIPs"], old, new);
    }
    if new_type == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if object::at(new, &["spec", field]) == object::at(old, &["spec", field]) {
                object::remove(new, &["spec", field]);
            }
        }
    }
    // What only the old type had goes with it, unless the client changed it on purpose.
    let checked = [old, &*new].map(|service| service_needs_health_check(&service["spec"]));
    if checked == [true, true] && number(&new["spec"], "healthCheckNodePort") == 0 {
        copy(&["spec", "healthCheckNodePort"], old, new);
    }
    let balances = new_type == "LoadBalancer";
    for (field, kept) in [
        ("externalTrafficPolicy", exposes(&new_type)),
        ("healthCheckNodePort", checked[1]),
        ("allocateLoadBalancerNodePorts", balances),
        ("loadBalancerClass", balances),
    ] {
        if !kept && object::at(new, &["spec", field]) == object::at(old, &["spec", field]) {
            object::remove(new, &["spec", field]);
        }
    }
    let old_ports = object::at(old, &["spec", "ports"]).cloned().unwrap_or_default();
    let Some(ports) =
        new.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut)
    else {
        return;
    };
    for port in ports {
        let twin = old_ports.as_array().into_iter().flatten().find(|o| {
            o.get("port") == port.get("port") && object::text(o, &["protocol"]) == protocol(port)
        });
        let Some(node_port) = twin.and_then(|o| o.get("nodePort")) else { continue };
        if exposes(&new_type) && number(port, "nodePort") == 0 {
            object::set(port, &["nodePort"], node_port.clone());
        } else if !exposes(&new_type) && port.get("nodePort") == Some(node_port) {
            object::remove(port, &["nodePort"]);
        }
    }
}

/// Gives a Service what it lacks and checks what it asks for.
pub(super) async fn admit(
    server: &ApiServer,
    res: &'static Resource,
    old: Option<&Value>,
    value: &mut Value,
) -> Result<AllocationGuard> {
    if old.is_some_and(|old| old.get("spec") == value.get("spec")) || kind(value) == "ExternalName"
    {
        return Ok(None);
    }
    let guard = server.allocations.clone().lock_owned().await;
    let mut taken = taken(server, res, value).await?;
    keep_for_dns(server.config.cluster_dns, &mut taken, old, value);
    let mut errors = check_families(value);
    allocate_address(server.network, &taken, value, &mut errors)?;
    if exposes(kind(value)) {
        let mut ports = NodePorts { range: &server.config.node_ports, taken: taken.ports };
        ports.allocate(value, &mut errors)?;
        ports.allocate_health_check(value)?;
    }
    if errors.is_empty() {
        Ok(Some(guard))
    } else {
        Err(Status::invalid(res, object::name(value), &errors))
    }
}

/// The address of the name server is taken for every Service but its own, and those that have it already.
fn keep_for_dns(dns: Option<IpAddr>, taken: &mut Taken, old: Option<&Value>, value: &Value) {
    let Some(IpAddr::V4(dns)) = dns else { return };
    let own = (object::namespace(value), object::name(value)) == DNS_SERVICE;
    let has = |service: &Value| object::text(service, &["spec", "clusterIP"]) == dns.to_string();
    if !own && !old.is_some_and(has) {
        taken.ips.insert(dns);
    }
}

/// What a cluster with one family of addresses cannot give.
fn check_families(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &value["spec"];
    // Endpoints that people write themselves may be of any family.
    if object::text(spec, &["clusterIP"]) == "None"
        && spec.get("selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
    {
        return errors;
    }
    if object::text(spec, &["ipFamilyPolicy"]) == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", why));
    }
    for (index, family) in object::strings(spec.get("ipFamilies")).into_iter().enumerate() {
        if family == "IPv6" {
            let field = format!("spec.ipFamilies[{index}]");
            errors.push(FieldError::invalid(field, family, "not configured on this cluster"));
        }
    }
    errors
}

pub(super) fn kind(service: &Value) -> &str {
    match object::text(service, &["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn protocol(port: &Value) -> &str {
    match object::text(port, &["protocol"]) {
        "" => "TCP",
        protocol => protocol,
    }
}

async fn taken(server: &ApiServer, res: &'static Resource, value: &Value) -> Result<Taken> {
    let page = server
        .config
        .store
        .list(&res.key_prefix(), ListOptions::default())
        .await
        .map_err(|e| crate::registry::store_error(&e))?;
    let own = res.key(object::namespace(value), object::name(value));
    let mut taken = Taken { ips: BTreeSet::new(), ports: BTreeSet::new() };
    for entry in page.entries.iter().filter(|e| *e.key != *own) {
        let service = object::decode(&entry.value)?;
        taken.ips.extend(
            object::strings(object::at(&service, &["spec", "clusterIPs"]))
                .iter()
                .filter_map(|ip| ip.parse::<Ipv4Addr>().ok()),
        );
        taken.ports.extend(ports_of(&service));
    }
    Ok(taken)
}

fn allocate_address(
    network: ServiceNetwork,
    taken: &Taken,
    value: &mut Value,
    errors: &mut Vec<FieldError>,
) -> Result<()> {
    let first = object::strings(object::at(value, &["spec", "clusterIPs"])).into_iter().next();
    let wanted = match object::text(value, &["spec", "clusterIP"]) {
        "" => first.unwrap_or_default(),
        given => given.to_owned(),
    };
    let address = match wanted.as_str() {
        "None" => "None".to_owned(),
        "" => match network.free(&taken.ips, random(4)?) {
            Some(ip) => ip.to_string(),
            None => {
                return Err(Status::internal(format!(
                    "failed to allocate a serviceIP: range {network} is full"
                )));
            }
        },
        given => {
            let refuse = |why: String| {
                FieldError::invalid(
                    "spec.clusterIPs",
                    json!([given]),
                    format!("failed to allocate IP {given}: {why}"),
                )
            };
            match given.parse::<Ipv4Addr>() {
                // Not an address at all: validation says so.
                Err(_) => {}
                Ok(ip) if !network.contains(ip) => errors.push(refuse(format!(
                    "the provided IP ({given}) is not in the valid range. The range of valid IPs is {network}"
                ))),
                Ok(ip) if taken.ips.contains(&ip) => {
                    errors.push(refuse("provided IP is already allocated".to_owned()));
                }
                Ok(_) => {}
            }
            given.to_owned()
        }
    };
    object::set(value, &["spec", "clusterIP"], address.as_str());
    object::set(value, &["spec", "clusterIPs"], json!([address]));
    if object::at(value, &["spec", "ipFamilies"])
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        object::set(value, &["spec", "ipFamilies"], json!(["IPv4"]));
    }
    if object::text(value, &["spec", "ipFamilyPolicy"]).is_empty() {
        object::set(value, &["spec", "ipFamilyPolicy"], "SingleStack");
    }
    Ok(())
}

pub(super) fn random(bytes: usize) -> Result<u32> {
    Ok(object::random_bytes(bytes)?.iter().fold(0, |acc, b| acc << 8 | u32::from(*b)))
}
