//! What a Service, a pod with host ports, and the node ask of the ruleset. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Node;
use super::chains;
use super::select::{Selection, select};
use super::values::{
    Backend, Choice, Fragment, Front, Key, Kind, LOCAL_SLOT, Protocol, Scope, Value,
};
use crate::inputs::{Pod, Port, Service, Slice};
use crate::nft::{Family, Verdict};

/// The fragment of a Service. `id` gives each of its ports a number that no other port has.
pub(crate) fn service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &Node,
    mut id: impl FnMut(Protocol, u16) -> u32,
) -> Fragment {
    let mut fragment = Fragment::default();
    if service.routing.foreign || service.external.is_some() {
        return fragment;
    }
    let addresses: Vec<IpAddr> = ours(&service.addresses, node).collect();
    for port in service.ports.iter().filter(|port| port.number != 0 && !addresses.is_empty()) {
        let selection = select(service, port, slices.clone(), node);
        let id = id(Protocol::of(port.protocol), port.number);
        let plan = PortPlan { service, port, selection, id, node };
        plan.add_cluster_fronts(&addresses, &mut fragment);
        plan.add_external_fronts(&mut fragment);
        plan.add_firewall(&mut fragment);
        plan.add_backends(&mut fragment);
        fragment.usable_here = fragment.usable_here.max(plan.selection.local.len());
    }
    fragment
}

/// The addresses of the node's family, without that of cluster DNS, which stays here.
fn ours<'a>(addresses: &'a [IpAddr], node: &'a Node) -> impl Iterator<Item = IpAddr> + 'a {
    let usable =
        |address: &&IpAddr| Family::of(**address) == node.family && **address != node.cluster_dns;
    addresses.iter().filter(usable).copied()
}

/// The fragment of a pod: its host ports.
pub(crate) fn pod(pod: &Pod, node: &Node) -> Fragment {
    let mut fragment = Fragment::default();
    let Some(own) = pod.addresses.iter().find(|it| Family::of(**it) == node.family) else {
        return fragment;
    };
    for port in &pod.host_ports {
        let protocol = Protocol::of(port.protocol);
        let front = Front { address: port.address, protocol, port: port.number };
        if port.address.is_some_and(|address| Family::of(address) != node.family) {
            continue;
        }
        let backend = (*own, port.container_port);
        fragment.elements.insert(Key::HostPort(front), Value::Backend(backend));
        fragment.elements.insert(Key::Hairpin(*own), Value::Nothing);
        if protocol == Protocol::Udp {
            fragment.datagrams.insert(front, Arc::new([backend].into()));
        }
    }
    fragment
}

/// The fragment of the node: its addresses.
pub(crate) fn node(node: &Node) -> Fragment {
    let addresses = node.addresses.iter().filter(|it| Family::of(**it) == node.family);
    let elements = addresses.map(|address| (Key::NodeIp(*address), Value::Nothing)).collect();
    Fragment { elements, ..Fragment::default() }
}

/// One port of a Service.
struct PortPlan<'a> {
    service: &'a Service,
    port: &'a Port,
    selection: Selection,
    id: u32,
    node: &'a Node,
}

impl PortPlan<'_> {
    fn front(&self, address: Option<IpAddr>, port: u16) -> Front {
        Front { address, protocol: Protocol::of(self.port.protocol), port }
    }

    fn kind(&self, scope: Scope, node: bool) -> Kind {
        let uses_local = matches!(scope, Scope::ClusterLocal | Scope::ExternalLocal);
        let count = |list: &[Backend]| u16::try_from(list.len()).unwrap_or(u16::MAX);
        let any = count(&self.selection.any);
        let local = if uses_local { count(&self.selection.local) } else { 0 };
        // Without use for the endpoints of other nodes it only matters whether there are any.
        let any = match scope {
            Scope::ClusterLocal => u16::from(self.selection.elsewhere),
            _ => any,
        };
        match self.service.routing.affinity {
            Some(_) => {
                let (any, local) = (any.min(1), local.min(1));
                Kind { scope, node: false, any, local, affine: Some(self.id) }
            }
            None => Kind { scope, node, any, local, affine: None },
        }
    }

    fn add_front(&self, fragment: &mut Fragment, front: Front, kind: Kind) {
        let value = Value::Service { kind: kind.number(), id: self.id };
        fragment.elements.insert(Key::Service(front), value);
        fragment.kinds.insert(kind);
        if front.protocol == Protocol::Udp {
            fragment.datagrams.insert(front, Arc::new(self.backends(kind)));
        }
    }

    /// All endpoints that packets of the kind can have been led to.
    fn backends(&self, kind: Kind) -> BTreeSet<Backend> {
        let (any, local) = (&self.selection.any, &self.selection.local);
        match kind.scope {
            Scope::Cluster | Scope::External => any.iter().copied().collect(),
            Scope::ClusterLocal => local.iter().copied().collect(),
            Scope::ExternalLocal => any.iter().chain(local).copied().collect(),
        }
    }

    fn add_cluster_fronts(&self, addresses: &[IpAddr], fragment: &mut Fragment) {
        let local = self.service.routing.internal_local;
        let scope = if local { Scope::ClusterLocal } else { Scope::Cluster };
        let kind = self.kind(scope, false);
        for address in addresses {
            fragment.elements.insert(Key::ClusterIp(*address), Value::Nothing);
            self.add_front(fragment, self.front(Some(*address), self.port.number), kind);
        }
    }

    fn add_external_fronts(&self, fragment: &mut Fragment) {
        let routing = &self.service.routing;
        let scope = if routing.external_local { Scope::ExternalLocal } else { Scope::External };
        let addresses =
            ours(&routing.external_ips, self.node).chain(ours(&routing.ingress, self.node));
        for address in addresses {
            let front = self.front(Some(address), self.port.number);
            if !fragment.elements.contains_key(&Key::Service(front)) {
                self.add_front(fragment, front, self.kind(scope, false));
            }
        }
        if self.port.node_port != 0 {
            let front = self.front(None, self.port.node_port);
            self.add_front(fragment, front, self.kind(scope, true));
        }
    }

    /// Who may use the load balancer's addresses.
    fn add_firewall(&self, fragment: &mut Fragment) {
        let routing = &self.service.routing;
        if routing.source_ranges.is_empty() {
            return;
        }
        for (at, address) in ours(&routing.ingress, self.node).enumerate() {
            let chain = format!("sources-{}-{at}", self.id);
            let rules = chains::sources(&routing.source_ranges, address, self.node);
            fragment.chains.insert(chain.clone(), Arc::new(rules));
            let front = Key::Firewall(self.front(Some(address), self.port.number));
            fragment.elements.insert(front, Value::Verdict(Verdict::Goto(chain)));
        }
    }

    fn add_backends(&self, fragment: &mut Fragment) {
        let here = self.selection.here.iter().map(|(address, _)| *address);
        fragment.elements.extend(here.map(|it| (Key::Hairpin(it), Value::Nothing)));
        for (local, list) in [(false, &self.selection.any), (true, &self.selection.local)] {
            match self.service.routing.affinity {
                Some(seconds) => self.add_affinity(fragment, seconds, (local, list)),
                None => {
                    let first = if local { LOCAL_SLOT } else { 0 };
                    for (slot, backend) in (first..).zip(list) {
                        let key = Key::Endpoint { id: self.id, slot };
                        fragment.elements.insert(key, Value::Backend(*backend));
                    }
                }
            }
        }
    }

    /// A chain that leads clients where they were before, with a set of clients for each endpoint.
    fn add_affinity(
        &self,
        fragment: &mut Fragment,
        seconds: u32,
        (local, list): (bool, &Vec<Backend>),
    ) {
        if list.is_empty() {
            return;
        }
        let named: Vec<(String, Backend)> = list
            .iter()
            .map(|(address, port)| {
                (format!("affinity-{}-{address}-{port}", self.id), (*address, *port))
            })
            .collect();
        let chain = Choice::Affine { id: self.id, local }.chain();
        let rules = chains::affinity(&named, self.node.family);
        fragment.chains.insert(chain, Arc::new(rules));
        let set = chains::clients(seconds, self.node.family);
        fragment.sets.extend(named.into_iter().map(|(name, _)| (name, set)));
    }
}
