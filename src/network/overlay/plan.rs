//! The kernel's state that makes a topology work, and the way there from the state found. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addressing::{Mac, Prefix};
use super::topology::Topology;
use super::{Backend, Uplink};

/// Links, routes, neighbours and forwarding entries, as wanted or as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) routes: BTreeMap<Prefix, Route>,
    /// Permanent: which hardware address the next hop of a route has.
    pub(crate) neighbours: BTreeMap<IpAddr, Mac>,
    /// Which node has the tunnel end with a hardware address.
    pub(crate) forwarding: BTreeMap<Mac, IpAddr>,
}

/// The VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    /// Index of the link packets leave through.
    pub(crate) device: Option<u32>,
    pub(crate) learning: bool,
    pub(crate) mtu: u32,
    pub(crate) mac: Mac,
    pub(crate) up: bool,
    /// The node's own address on it; none until the node has a range.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) through: Through,
    /// The gateway is reachable although no address of ours says so.
    pub(crate) onlink: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Tunnel,
    Device(u32),
}

/// One change of the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    RemoveTunnel,
    AddTunnel(Tunnel),
    /// Everything but the VNI, the port and the addresses.
    ChangeTunnel(Tunnel),
    RemoveAddress(IpAddr),
    AddAddress(IpAddr),
    RemoveRoute(Prefix, Route),
    SetRoute(Prefix, Route),
    RemoveNeighbour(IpAddr, Mac),
    SetNeighbour(IpAddr, Mac),
    RemoveForwarding(Mac, IpAddr),
    SetForwarding(Mac, IpAddr),
}

/// What the kernel should have. Nodes that cannot be reached from `uplink` are added to the ignored ones.
pub(crate) fn wanted(
    topology: &mut Topology,
    uplink: &Uplink,
    backend: Backend,
    mac: Mac,
) -> State {
    match backend {
        Backend::Vxlan { vni, port } => through_tunnel(topology, uplink, (vni, port), mac),
        Backend::HostGw => through_hosts(topology, uplink),
        Backend::None => State::default(),
    }
}

fn through_tunnel(
    topology: &mut Topology,
    uplink: &Uplink,
    (vni, port): (u32, u16),
    mac: Mac,
) -> State {
    let mut state = State {
        tunnel: Some(Tunnel {
            vni,
            port,
            local: Some(uplink.address),
            device: Some(uplink.index),
            learning: false,
            mtu: Backend::Vxlan { vni, port }.pod_mtu(uplink.mtu),
            mac,
            up: true,
            addresses: topology.own.iter().map(|range| range.network()).collect(),
        }),
        ..State::default()
    };
    let peers = topology.reachable(|peer| {
        (peer == uplink.address).then(|| format!("its address {peer} is this node's"))
    });
    for (ranges, address, mac) in peers {
        let Some(mac) = mac else { continue };
        state.forwarding.insert(mac, address);
        for range in ranges {
            let gateway = range.network();
            state.neighbours.insert(gateway, mac);
            let route = Route { gateway: Some(gateway), through: Through::Tunnel, onlink: true };
            state.routes.insert(range, route);
        }
    }
    state
}

fn through_hosts(topology: &mut Topology, uplink: &Uplink) -> State {
    let mut state = State::default();
    let network = Prefix::new(uplink.address, uplink.prefix);
    let peers = topology.reachable(|peer| {
        if peer == uplink.address {
            return Some(format!("its address {peer} is this node's"));
        }
        let near = network.is_some_and(|network| network.contains(peer));
        (!near).then(|| {
            format!(
                "its address {peer} is not in the network of {}, as host-gw needs it",
                uplink.interface
            )
        })
    });
    for (ranges, address, _) in peers {
        let through = Through::Device(uplink.index);
        for range in ranges {
            state.routes.insert(range, Route { gateway: Some(address), through, onlink: false });
        }
    }
    state
}

impl Topology {
    /// The peers to which `obstacle` knows none; the others become ignored ones.
    fn reachable(
        &mut self,
        obstacle: impl Fn(IpAddr) -> Option<String>,
    ) -> Vec<(Vec<Prefix>, IpAddr, Option<Mac>)> {
        let mut reachable = Vec::new();
        for (name, peer) in &self.peers {
            match obstacle(peer.address) {
                None => reachable.push((peer.ranges.clone(), peer.address, peer.mac)),
                Some(why) => drop(self.ignored.insert(name.clone(), why)),
            }
        }
        reachable
    }
}

/// The changes that lead from `found` to `wanted`, in the order in which no packet goes astray.
pub(crate) fn difference(found: &State, wanted: &State) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (range, route) in &found.routes {
        if !wanted.routes.contains_key(range) {
            operations.push(Operation::RemoveRoute(*range, *route));
        }
    }
    let remains = tunnel(found.tunnel.as_ref(), wanted.tunnel.as_ref(), &mut operations);
    let empty = State::default();
    // What hung on a tunnel that is gone, is gone.
    let old = if remains { found } else { &empty };
    for (address, mac) in &old.neighbours {
        if !wanted.neighbours.contains_key(address) {
            operations.push(Operation::RemoveNeighbour(*address, *mac));
        }
    }
    for (mac, address) in &old.forwarding {
        if !wanted.forwarding.contains_key(mac) {
            operations.push(Operation::RemoveForwarding(*mac, *address));
        }
    }
    for (mac, address) in &wanted.forwarding {
        if old.forwarding.get(mac) != Some(address) {
            operations.push(Operation::SetForwarding(*mac, *address));
        }
    }
    for (address, mac) in &wanted.neighbours {
        if old.neighbours.get(address) != Some(mac) {
            operations.push(Operation::SetNeighbour(*address, *mac));
        }
    }
    for (range, route) in &wanted.routes {
        let kept = remains || route.through != Through::Tunnel;
        if !kept || found.routes.get(range) != Some(route) {
            operations.push(Operation::SetRoute(*range, *route));
        }
    }
    operations
}

/// The changes of the link and its addresses; whether the link that was found stays.
fn tunnel(
    found: Option<&Tunnel>,
    wanted: Option<&Tunnel>,
    operations: &mut Vec<Operation>,
) -> bool {
    let Some(wanted) = wanted else {
        operations.extend(found.map(|_| Operation::RemoveTunnel));
        return false;
    };
    let kept = found.filter(|found| (found.vni, found.port) == (wanted.vni, wanted.port));
    let Some(kept) = kept else {
        operations.extend(found.map(|_| Operation::RemoveTunnel));
        operations.push(Operation::AddTunnel(wanted.clone()));
        operations.extend(wanted.addresses.iter().map(|address| Operation::AddAddress(*address)));
        return false;
    };
    let without_addresses =
        |tunnel: &Tunnel| Tunnel { addresses: BTreeSet::new(), ..tunnel.clone() };
    if without_addresses(kept) != without_addresses(wanted) {
        operations.push(Operation::ChangeTunnel(wanted.clone()));
    }
    // A node without a range yet, or one whose server is away, keeps what it has.
    if !wanted.addresses.is_empty() {
        let gone = kept.addresses.difference(&wanted.addresses);
        operations.extend(gone.map(|address| Operation::RemoveAddress(*address)));
    }
    let new = wanted.addresses.difference(&kept.addresses);
    operations.extend(new.map(|address| Operation::AddAddress(*address)));
    true
}
