//! What a Service, a pod with host ports, and the node ask of the ruleset. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use super::Node;
use super::chains;
use super::select::{Selection, select};
use super::sets;
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
        plan.add_own(&mut fragment);
        fragment.ids.insert(id);
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

    /// The endpoints that packets of a scope may be led to: any, and those of this node.
    fn lists(&self, scope: Scope) -> (&[Backend], &[Backend]) {
        let (any, local) = (&self.selection.any[..], &self.selection.local[..]);
        match scope {
            Scope::Cluster | Scope::External => (any, &[]),
            Scope::ClusterLocal => (&[], local),
            Scope::ExternalLocal => (any, local),
        }
    }

    fn kind(&self, scope: Scope, node: bool) -> Kind {
        let (any, local) = self.lists(scope);
        let count = |list: &[Backend]| u16::try_from(list.len()).unwrap_or(u16::MAX);
        let (any, local) = (count(any), count(local));
        match self.service.routing.affinity {
            Some(_) => {
                let (any, local) = (any.min(1), local.min(1));
                Kind { scope, node: false, any, local, affine: Some(self.id) }
            }
            None => Kind { scope, node, any, local, affine: None },
        }
    }

    fn add_front(&self, fragment: &mut Fragment, front: Front, scope: Scope) {
        let kind = self.kind(scope, front.address.is_none());
        let (any, local) = self.lists(scope);
        fragment.elements.insert(Key::Service(front), Value::Nothing);
        if kind.leads() {
            fragment.elements.insert(Key::Led(front), Value::Kind(kind));
            fragment.kinds.insert(kind);
        }
        let refuses = match scope {
            Scope::Cluster | Scope::External => any.is_empty(),
            Scope::ClusterLocal | Scope::ExternalLocal => local.is_empty(),
        };
        if refuses {
            let elsewhere = self.selection.elsewhere;
            fragment.elements.insert(Key::Refused(front), Value::Refused { elsewhere });
        }
        if kind.affine.is_none() {
            let local = (LOCAL_SLOT..).zip(local);
            for (slot, backend) in (0..).zip(any).chain(local) {
                let key = Key::Endpoint { front, slot };
                fragment.elements.insert(key, Value::Backend(*backend));
            }
        }
        if front.protocol == Protocol::Udp {
            let backends = any.iter().chain(local).copied().collect();
            fragment.datagrams.insert(front, Arc::new(backends));
        }
    }

    fn add_cluster_fronts(&self, addresses: &[IpAddr], fragment: &mut Fragment) {
        let local = self.service.routing.internal_local;
        let scope = if local { Scope::ClusterLocal } else { Scope::Cluster };
        for address in addresses {
            fragment.elements.insert(Key::ClusterIp(*address), Value::Nothing);
            self.add_front(fragment, self.front(Some(*address), self.port.number), scope);
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
                self.add_front(fragment, front, scope);
            }
        }
        if self.port.node_port != 0 {
            let front = self.front(None, self.port.node_port);
            self.add_front(fragment, front, scope);
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

    /// What is there once for all fronts.
    fn add_own(&self, fragment: &mut Fragment) {
        let here = self.selection.here.iter().map(|(address, _)| *address);
        fragment.elements.extend(here.map(|it| (Key::Hairpin(it), Value::Nothing)));
        if let Some(seconds) = self.service.routing.affinity {
            self.add_affinity(fragment, seconds, (false, &self.selection.any));
            self.add_affinity(fragment, seconds, (true, &self.selection.local));
        }
    }

    /// A chain that leads clients where they were before, with a set of clients for each endpoint.
    fn add_affinity(
        &self,
        fragment: &mut Fragment,
        seconds: u32,
        (local, list): (bool, &[Backend]),
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
        let set = sets::clients(seconds, self.node.family);
        fragment.sets.extend(named.into_iter().map(|(name, _)| (name, set)));
    }
}
