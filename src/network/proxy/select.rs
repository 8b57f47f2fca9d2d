//! Which endpoints of a Service's port get packets.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::values::{Backend, ENDPOINTS_MAX};
use crate::inputs::{Port, Service, Slice};

/// An endpoint as far as choosing goes.
#[derive(Clone, Debug, Default)]
struct Candidate<'a> {
    ready: bool,
    /// Terminating, but still able to answer.
    leaving: bool,
    local: bool,
    zones: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
}

/// The endpoints in the order of their slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// For packets that may go to any node.
    pub(crate) any: Vec<Backend>,
    /// For packets that have to stay on this one.
    pub(crate) local: Vec<Backend>,
    /// Whether some node has an endpoint, though perhaps none that this node may use.
    pub(crate) elsewhere: bool,
    /// Endpoints that are on this node.
    pub(crate) here: BTreeSet<Backend>,
}

/// Chooses for one port of a Service.
pub(crate) fn select<'a>(
    service: &Service,
    port: &Port,
    slices: impl Iterator<Item = &'a Slice>,
    node: &Node,
) -> Selection {
    let candidates = candidates(port, slices, node);
    let routing = &service.routing;
    let addressed = !routing.external_ips.is_empty() || !routing.ingress.is_empty();
    let external = port.node_port != 0 || addressed;
    let mut selection = Selection::default();
    let usable = |it: &Candidate<'_>| it.ready || it.leaving;
    selection.elsewhere = candidates.values().any(usable);
    if !routing.internal_local || external {
        selection.any = near(&candidates, node);
    }
    if routing.internal_local || (routing.external_local && external) {
        selection.local = first(&candidates, |it| it.local && it.ready)
            .or_else(|| first(&candidates, |it| it.local && it.leaving))
            .unwrap_or_default();
    }
    let used: BTreeSet<&Backend> = selection.any.iter().chain(&selection.local).collect();
    let is_here = |backend: &Backend| candidates.get(backend).is_some_and(|it| it.local);
    selection.here = used.into_iter().filter(|backend| is_here(backend)).copied().collect();
    selection
}

/// The port's endpoints. An address in several slices is ready if one of them says so.
fn candidates<'a>(
    port: &Port,
    slices: impl Iterator<Item = &'a Slice>,
    node: &Node,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut candidates: BTreeMap<Backend, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let matches = |it: &&Port| it.name == port.name && it.protocol == port.protocol;
        let Some(found) = slice.ports.iter().find(matches) else { continue };
        for endpoint in &slice.endpoints {
            // Several addresses of an endpoint are the same endpoint.
            let Some(address) = endpoint.addresses.first() else { continue };
            if found.number == 0 || node.family != crate::nft::Family::of(*address) {
                continue;
            }
            let candidate = candidates.entry((*address, found.number)).or_default();
            candidate.ready |= endpoint.ready;
            candidate.leaving |= endpoint.serving && endpoint.terminating;
            candidate.local |= endpoint.node.as_deref() == Some(&*node.name);
            candidate.zones.extend(endpoint.zones.iter().map(|zone| &**zone));
            candidate.nodes.extend(endpoint.nodes.iter().map(|node| &**node));
        }
    }
    candidates
}

/// The ready endpoints that the hints allow; those that are leaving when none is ready.
fn near(candidates: &BTreeMap<Backend, Candidate<'_>>, node: &Node) -> Vec<Backend> {
    let ready = || candidates.values().filter(|it| it.ready);
    let here = |it: &Candidate<'_>| it.nodes.contains(&*node.name);
    let zone = node.zone.as_deref();
    let near = |it: &Candidate<'_>| zone.is_some_and(|zone| it.zones.contains(zone));
    let chosen = if ready().all(|it| !it.nodes.is_empty()) && ready().any(here) {
        first(candidates, |it| it.ready && here(it))
    } else if ready().all(|it| !it.zones.is_empty()) && ready().any(near) {
        first(candidates, |it| it.ready && near(it))
    } else {
        first(candidates, |it| it.ready)
    };
    chosen.or_else(|| first(candidates, |it| it.leaving)).unwrap_or_default()
}

fn first(
    candidates: &BTreeMap<Backend, Candidate<'_>>,
    wanted: impl Fn(&Candidate<'_>) -> bool,
) -> Option<Vec<Backend>> {
    let wanted = candidates.iter().filter(|(_, it)| wanted(it)).map(|(backend, _)| *backend);
    let chosen: Vec<Backend> = wanted.take(ENDPOINTS_MAX).collect();
    (!chosen.is_empty()).then_some(chosen)
}
