//! Sizes of sets: rolling update, recreation, proportional scaling, and the clean-up of old revisions.

use super::fields::{
    DESIRED_REPLICAS, MAX_REPLICAS, REVISION, available, history_limit, is_rolling_update, lasting,
    max_surge, max_unavailable, number, replicas, size, status_replicas,
};
use super::work::Work;

/// The size of the new set that the limits allow now.
pub(super) fn new_size(work: &Work<'_>, new: usize) -> i32 {
    let wanted = replicas(&work.deployment);
    if !is_rolling_update(&work.deployment) {
        return wanted;
    }
    let (current, total) = (size(work.set(new)), work.total_size());
    let max = wanted.saturating_add(max_surge(&work.deployment));
    if total >= max {
        return current;
    }
    current + (max - total).min(wanted - current)
}

/// One step of a rolling update; true when a size changed.
pub(super) fn roll(work: &mut Work<'_>) -> bool {
    scale_new(work) || scale_old_down(work)
}

fn scale_new(work: &mut Work<'_>) -> bool {
    let Some(new) = work.new else { return false };
    let wanted = replicas(&work.deployment);
    let to = if size(work.set(new)) >= wanted { wanted } else { new_size(work, new) };
    work.scale(new, to)
}

fn scale_old_down(work: &mut Work<'_>) -> bool {
    let old_total: i32 = work.old().into_iter().map(|old| size(work.set(old))).sum();
    if old_total == 0 {
        return false;
    }
    let min_available = replicas(&work.deployment) - max_unavailable(&work.deployment);
    let new_unavailable = work.new_set().map_or(0, |set| size(set) - lasting(set));
    let max = work.total_size() - min_available - new_unavailable;
    if max <= 0 {
        return false;
    }
    let unhealthy = drop_unhealthy(work, max);
    let healthy = drop_surplus(work, min_available);
    unhealthy || healthy
}

/// Old pods that are not available go first: that takes nothing away from anyone.
fn drop_unhealthy(work: &mut Work<'_>, max: i32) -> bool {
    let mut dropped = 0;
    for old in work.old() {
        if dropped >= max {
            break;
        }
        let (current, healthy) = (size(work.set(old)), lasting(work.set(old)));
        if current == 0 || current <= healthy {
            continue;
        }
        let count = (max - dropped).min(current - healthy);
        work.scale(old, current - count);
        dropped += count;
    }
    dropped > 0
}

/// Old pods beyond those that must stay available.
fn drop_surplus(work: &mut Work<'_>, min_available: i32) -> bool {
    let all: i32 = work.sets.iter().map(|set| lasting(&set.object)).sum();
    let surplus = all - min_available;
    let mut dropped = 0;
    for old in work.old() {
        if dropped >= surplus {
            break;
        }
        let current = size(work.set(old));
        let count = current.min(surplus - dropped);
        if count > 0 {
            work.scale(old, current - count);
            dropped += count;
        }
    }
    dropped > 0
}

/// Scales all old sets to zero; true when there was something to scale.
pub(super) fn stop_old(work: &mut Work<'_>) -> bool {
    let mut scaled = false;
    for old in work.old() {
        if size(work.set(old)) > 0 {
            scaled |= work.scale(old, 0);
        }
    }
    scaled
}

/// The deployment was scaled while it is not rolling out, or in the middle of it.
pub(super) fn is_scaling(work: &Work<'_>) -> bool {
    let wanted = i64::from(replicas(&work.deployment));
    let active = work.sets.iter().filter(|set| size(&set.object) > 0);
    active
        .filter_map(|set| number(&set.object.metadata, DESIRED_REPLICAS))
        .any(|desired| desired != wanted)
}

/// Brings the sets to the deployment's size without moving the rollout on.
pub(super) fn scale(work: &mut Work<'_>) {
    let wanted = replicas(&work.deployment);
    if let Some(only) = active_or_latest(work) {
        work.scale(only, wanted);
        return;
    }
    if is_saturated(work) {
        stop_old(work);
    } else if is_rolling_update(&work.deployment) {
        scale_proportionally(work, wanted);
    }
}

/// The only active set; when none is active the new one, or else the latest.
fn active_or_latest(work: &Work<'_>) -> Option<usize> {
    let active: Vec<usize> =
        (0..work.sets.len()).filter(|index| size(work.set(*index)) > 0).collect();
    match active.as_slice() {
        [] => work.new.or_else(|| work.old().pop()),
        [only] => Some(*only),
        _ => None,
    }
}

fn is_saturated(work: &Work<'_>) -> bool {
    let wanted = replicas(&work.deployment);
    work.new_set().is_some_and(|set| {
        let desired = number(&set.metadata, DESIRED_REPLICAS);
        size(set) == wanted && desired == Some(wanted.into()) && available(set) == wanted
    })
}

fn scale_proportionally(work: &mut Work<'_>, wanted: i32) {
    let mut active: Vec<usize> =
        (0..work.sets.len()).filter(|index| size(work.set(*index)) > 0).collect();
    let total: i32 = active.iter().map(|index| size(work.set(*index))).sum();
    let allowed = if wanted > 0 { wanted.saturating_add(max_surge(&work.deployment)) } else { 0 };
    let to_add = allowed - total;
    // The largest set takes what rounding leaves over; of equal ones the newer grows and the older shrinks.
    active.sort_by(|a, b| {
        let age = work.created(*a).cmp(&work.created(*b));
        let age = if to_add > 0 { age.reverse() } else { age };
        size(work.set(*b)).cmp(&size(work.set(*a))).then(age)
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for index in &active {
        let share = if to_add == 0 { 0 } else { proportion(work, *index, to_add, added) };
        sizes.push(size(work.set(*index)) + share);
        added += share;
    }
    if let (Some(first), true) = (sizes.first_mut(), to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    for (index, size) in active.into_iter().zip(sizes) {
        work.scale(index, size);
    }
}

/// What a set gets of the pods to add (or gives of those to remove).
fn proportion(work: &Work<'_>, index: usize, to_add: i32, added: i32) -> i32 {
    if size(work.set(index)) == 0 || to_add == added {
        return 0;
    }
    let (share, left) = (fraction(work, index), to_add - added);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(work: &Work<'_>, index: usize) -> i32 {
    let (set, wanted) = (work.set(index), replicas(&work.deployment));
    if wanted == 0 {
        return -size(set);
    }
    let max = f64::from(wanted) + f64::from(max_surge(&work.deployment));
    let status = work.deployment.status.as_ref();
    let before = number(&set.metadata, MAX_REPLICAS)
        .filter(|max| *max > 0)
        .and_then(|max| i32::try_from(max).ok());
    let before =
        before.or_else(|| status.and_then(|status| status.replicas)).filter(|before| *before > 0);
    let Some(before) = before else { return 0 };
    let scaled = f64::from(size(set)) * max / f64::from(before);
    // Float to integer casts saturate.
    scaled.round() as i32 - size(set)
}

/// Deletes old sets beyond the history limit, the oldest revisions first.
pub(super) fn clean_up(work: &mut Work<'_>) {
    let Some(limit) = history_limit(&work.deployment) else { return };
    let mut old = work.old();
    old.retain(|index| work.set(*index).metadata.deletion_timestamp.is_none());
    let Some(surplus) = old.len().checked_sub(limit) else { return };
    old.sort_by_key(|index| number(&work.set(*index).metadata, REVISION).unwrap_or(0));
    for index in old.into_iter().take(surplus) {
        let set = work.set(index);
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        if size(set) == 0 && status_replicas(set) == 0 && set.metadata.generation <= observed {
            work.delete(index);
        }
    }
}
