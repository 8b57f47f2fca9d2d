//! Puts endpoints into slices. What is there stays where it is; what is new goes into slices that change anyway.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::TRIGGER_TIME;
use super::slices::Group;
use crate::action::{Action, Deletion};

/// Endpoints one slice holds.
pub(super) const ENDPOINTS_MAX: usize = 100;

/// A slice as it is to be, and as it is if it exists.
struct Piece<'a> {
    old: Option<&'a EndpointSlice>,
    endpoints: Vec<Endpoint>,
}

/// Makes `existing` hold `groups`; `model` has the metadata of all slices.
pub(super) fn plan(
    existing: Vec<&EndpointSlice>,
    groups: Vec<Group>,
    model: &ObjectMeta,
) -> Vec<Action> {
    let mut free = existing;
    let mut placed = Vec::new();
    for group in groups {
        let (of_group, others): (Vec<_>, Vec<_>) = free.into_iter().partition(|slice| {
            slice.address_type == group.family && list(&slice.ports) == group.ports
        });
        free = others;
        let (pieces, emptied) = fit(of_group, &group.endpoints);
        free.extend(emptied);
        placed.push((group, pieces));
    }
    let mut actions = Vec::new();
    for (group, pieces) in placed {
        for piece in pieces {
            // A slice that nobody needs is changed rather than deleted and made again.
            let spare = || free.iter().position(|slice| slice.address_type == group.family);
            let old = match piece.old {
                Some(old) => Some(old),
                None => spare().map(|index| free.remove(index)),
            };
            actions.extend(write(old, &group, piece.endpoints, model));
        }
    }
    actions.extend(free.into_iter().map(|slice| Action::delete(slice, Deletion::default(), None)));
    actions
}

/// An absent list and an empty one are the same.
fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

/// What makes an endpoint the same although its state changes.
fn identity(endpoint: &Endpoint) -> (Option<&str>, &[String]) {
    let target = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    (target, &endpoint.addresses)
}

/// Distributes endpoints over slices; returns those that are left empty too.
fn fit<'a>(
    slices: Vec<&'a EndpointSlice>,
    endpoints: &[Endpoint],
) -> (Vec<Piece<'a>>, Vec<&'a EndpointSlice>) {
    let mut wanted: BTreeMap<_, _> =
        endpoints.iter().map(|endpoint| (identity(endpoint), endpoint)).collect();
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    for slice in slices {
        let old = list(&slice.endpoints).iter();
        let stay = old.filter_map(|endpoint| wanted.remove(&identity(endpoint)).cloned());
        pieces.push(Piece { old: Some(slice), endpoints: stay.take(ENDPOINTS_MAX).collect() });
    }
    let mut rest: Vec<Endpoint> = endpoints
        .iter()
        .filter(|endpoint| wanted.contains_key(&identity(endpoint)))
        .cloned()
        .collect();
    fill(&mut pieces, &mut rest);
    for chunk in rest.chunks(ENDPOINTS_MAX) {
        pieces.push(Piece { old: None, endpoints: chunk.to_vec() });
    }
    let (mut full, mut empty): (Vec<_>, Vec<_>) =
        pieces.into_iter().partition(|piece| !piece.endpoints.is_empty());
    if full.is_empty() {
        // Nothing to hold: one empty slice says so.
        let piece = if empty.is_empty() { None } else { Some(empty.remove(0)) };
        full.push(piece.unwrap_or(Piece { old: None, endpoints: Vec::new() }));
    }
    (full, empty.into_iter().filter_map(|piece| piece.old).collect())
}

/// Fills slices that change anyway, the fullest first, then one that has room for all that is left.
fn fill(pieces: &mut [Piece<'_>], rest: &mut Vec<Endpoint>) {
    let changes =
        |piece: &Piece<'_>| piece.old.is_none_or(|old| list(&old.endpoints) != piece.endpoints);
    let mut changing: Vec<&mut Piece<'_>> =
        pieces.iter_mut().filter(|piece| changes(piece)).collect();
    changing.sort_by_key(|piece| std::cmp::Reverse(piece.endpoints.len()));
    for piece in changing {
        let room = ENDPOINTS_MAX.saturating_sub(piece.endpoints.len()).min(rest.len());
        piece.endpoints.extend(rest.drain(..room));
    }
    if rest.is_empty() {
        return;
    }
    // Whole slices are made anew; only what is left over looks for room.
    let over = rest.len() % ENDPOINTS_MAX;
    let fits = |piece: &&mut Piece<'_>| {
        over > 0 && !changes(piece) && piece.endpoints.len() + over <= ENDPOINTS_MAX
    };
    let fullest = pieces.iter_mut().filter(fits).max_by_key(|piece| piece.endpoints.len());
    if let Some(piece) = fullest {
        let start = rest.len() - over;
        piece.endpoints.extend(rest.drain(start..));
    }
}

fn write(
    old: Option<&EndpointSlice>,
    group: &Group,
    endpoints: Vec<Endpoint>,
    model: &ObjectMeta,
) -> Option<Action> {
    let Some(old) = old else {
        let new = EndpointSlice {
            address_type: group.family.clone(),
            metadata: model.clone(),
            endpoints: Some(endpoints),
            ports: Some(group.ports.clone()),
        };
        return Some(Action::create(&new, None));
    };
    let mut new = old.clone();
    new.metadata.labels = model.labels.clone();
    new.metadata.owner_references = model.owner_references.clone();
    let same = list(&old.endpoints) == endpoints && list(&old.ports) == group.ports;
    if !same {
        new.endpoints = Some(endpoints);
        new.ports = Some(group.ports.clone());
        let time = model.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME));
        if let Some(time) = time {
            let annotations = new.metadata.annotations.get_or_insert_default();
            annotations.insert(TRIGGER_TIME.to_owned(), time.clone());
        }
    }
    Action::update(old, &new)
}
