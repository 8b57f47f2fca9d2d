//! When things were first seen, by a clock that cannot jump: the machine's own may be set at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Remembers since when things are seen; what is forgotten starts anew.
pub(crate) struct Since<K> {
    seen: Mutex<BTreeMap<K, Instant>>,
}

impl<K> Default for Since<K> {
    fn default() -> Self {
        Self { seen: Mutex::default() }
    }
}

impl<K: Ord> Since<K> {
    /// The time `key` was first seen, as seen from `now`.
    pub(crate) fn first(&self, key: K, now: Timestamp) -> Timestamp {
        let first = *self.lock().entry(key).or_insert_with(Instant::now);
        back(first, now)
    }

    /// The same for all keys that are seen; others are forgotten.
    pub(crate) fn only(&self, keys: BTreeSet<K>, now: Timestamp) -> BTreeMap<K, Timestamp>
    where
        K: Clone,
    {
        self.lock().retain(|key, _| keys.contains(key));
        keys.into_iter().map(|key| (key.clone(), self.first(key, now))).collect()
    }

    /// True when it was known.
    pub(crate) fn forget(&self, key: &K) -> bool {
        self.lock().remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Instant>> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A moment of the steady clock as seen from `now`, in whole seconds like all times of a plan.
pub(crate) fn back(moment: Instant, now: Timestamp) -> Timestamp {
    let seconds = i64::try_from(moment.elapsed().as_secs()).unwrap_or(i64::MAX);
    now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(now)
}
