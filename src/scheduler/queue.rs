//! Pods waiting for a node: ready ones by priority and age, others until something changes and their back-off ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::Key;
use tokio::time::Instant;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// A pod that nothing woke is tried again after this time, as upstream does.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);

/// Higher priority first, then first come.
type Rank = (Reverse<i32>, u64, Key);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// Something changed; tried when the back-off ends.
    BackingOff,
    /// No node took it; tried when something changes.
    Unschedulable,
    /// Being placed or bound.
    InFlight,
}

/// What the queue knows of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    pub(crate) priority: i32,
    /// Where other pods are decides where this one can go.
    pub(crate) social: bool,
}

#[derive(Debug)]
struct Waiting {
    traits: Traits,
    order: u64,
    attempts: u32,
    place: Place,
    /// When it may be tried at the earliest (backing off) or at the latest (unschedulable).
    due: Instant,
    backoff_ends: Instant,
    /// Something changed while it was in flight.
    stale: bool,
}

/// The queue; time is a parameter.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: BTreeMap<Key, Waiting>,
    ready: BTreeSet<Rank>,
    timers: BTreeSet<(Instant, Key)>,
    next_order: u64,
}

impl Queue {
    /// A pending pod appeared or changed in a way that may matter.
    pub(crate) fn add(&mut self, key: &Key, traits: Traits, now: Instant) {
        match self.pods.get_mut(key) {
            Some(pod) if pod.place == Place::InFlight => pod.stale = true,
            Some(_) => self.wake(key, now),
            None => {
                self.next_order += 1;
                let pod = Waiting {
                    traits,
                    order: self.next_order,
                    attempts: 0,
                    place: Place::Unschedulable,
                    due: now,
                    backoff_ends: now,
                    stale: false,
                };
                self.pods.insert(key.clone(), pod);
                self.put(key, Place::Ready, now);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.unlink(key);
        self.pods.remove(key);
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.pods.contains_key(key)
    }

    /// The keys of all pods that wait.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.pods.keys().cloned().collect()
    }

    /// The next pod to place; it is in flight until `failed` or `remove`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Key> {
        self.advance(now);
        let (_, _, key) = self.ready.pop_first()?;
        if let Some(pod) = self.pods.get_mut(&key) {
            pod.place = Place::InFlight;
            pod.stale = false;
            pod.attempts = pod.attempts.saturating_add(1);
        }
        Some(key)
    }

    /// No node took the pod, or binding failed (`retry`).
    pub(crate) fn failed(&mut self, key: &Key, retry: bool, now: Instant) {
        let Some(pod) = self.pods.get_mut(key) else { return };
        let doublings = pod.attempts.saturating_sub(1);
        let delay = BACKOFF_FIRST
            .saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(BACKOFF_LIMIT);
        pod.backoff_ends = now + delay;
        if retry || pod.stale {
            let ends = pod.backoff_ends;
            self.put(key, Place::BackingOff, ends);
        } else {
            self.put(key, Place::Unschedulable, now + UNSCHEDULABLE_LIMIT);
        }
    }

    /// Something changed that may let waiting pods in.
    pub(crate) fn wake_all(&mut self, now: Instant) {
        for key in self.keys() {
            self.wake(&key, now);
        }
    }

    /// A pod was placed, which may please those that look for company.
    pub(crate) fn wake_social(&mut self, now: Instant) {
        let social = self.pods.iter().filter(|(_, pod)| pod.traits.social);
        let keys: Vec<Key> = social.map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.wake(key, now));
    }

    fn wake(&mut self, key: &Key, now: Instant) {
        let Some(pod) = self.pods.get_mut(key) else { return };
        match pod.place {
            Place::InFlight => pod.stale = true,
            Place::Unschedulable if pod.backoff_ends <= now => self.put(key, Place::Ready, now),
            Place::Unschedulable => {
                let ends = pod.backoff_ends;
                self.put(key, Place::BackingOff, ends);
            }
            Place::Ready | Place::BackingOff => {}
        }
    }

    /// True when `pop` gives something now.
    pub(crate) fn is_ready(&mut self, now: Instant) -> bool {
        self.advance(now);
        !self.ready.is_empty()
    }

    /// When `pop` may give something that it does not give now.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(when, _)| *when)
    }

    fn advance(&mut self, now: Instant) {
        while let Some((when, key)) = self.timers.first().cloned() {
            if when > now {
                return;
            }
            self.put(&key, Place::Ready, now);
        }
    }

    fn put(&mut self, key: &Key, place: Place, due: Instant) {
        self.unlink(key);
        let Some(pod) = self.pods.get_mut(key) else { return };
        pod.place = place;
        pod.due = due;
        let _new = match place {
            Place::Ready => {
                self.ready.insert((Reverse(pod.traits.priority), pod.order, key.clone()))
            }
            Place::BackingOff | Place::Unschedulable => self.timers.insert((due, key.clone())),
            Place::InFlight => false,
        };
    }

    fn unlink(&mut self, key: &Key) {
        if let Some(pod) = self.pods.get(key) {
            self.ready.remove(&(Reverse(pod.traits.priority), pod.order, key.clone()));
            self.timers.remove(&(pod.due, key.clone()));
        }
    }
}
