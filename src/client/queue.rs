//! A keyed work queue: each key waits at most once, is never worked on twice at the same time, and comes back with
//! exponential back-off after a failure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::exponential;

/// Keys that may wait; beyond it the queue only remembers that everything must be looked at.
const KEYS_MAX: usize = 100_000;
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// The queue; clones share it.
pub struct Queue<Q> {
    inner: Arc<Inner<Q>>,
}

impl<Q> Clone for Queue<Q> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<Q> {
    state: Mutex<State<Q>>,
    changed: Notify,
}

/// The pure half; time is a parameter.
pub(crate) struct State<Q> {
    ready: VecDeque<Q>,
    /// Keys in `ready`, or to be put there when their work is done.
    dirty: BTreeSet<Q>,
    working: BTreeSet<Q>,
    /// Earliest time a key becomes ready by itself.
    delayed: BTreeMap<Q, Instant>,
    deadlines: BTreeSet<(Instant, Q)>,
    failures: BTreeMap<Q, u32>,
    overflowed: bool,
}

impl<Q: Ord + Clone> State<Q> {
    pub(crate) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            working: BTreeSet::new(),
            delayed: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            failures: BTreeMap::new(),
            overflowed: false,
        }
    }

    pub(crate) fn add(&mut self, key: Q) {
        if self.dirty.contains(&key) {
            return;
        }
        if self.dirty.len() >= KEYS_MAX {
            self.overflowed = true;
            return;
        }
        self.dirty.insert(key.clone());
        if !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    pub(crate) fn add_at(&mut self, key: Q, when: Instant) {
        if let Some(known) = self.delayed.get(&key).copied() {
            if known <= when {
                return;
            }
            self.deadlines.remove(&(known, key.clone()));
        } else if self.delayed.len() >= KEYS_MAX {
            self.overflowed = true;
            return;
        }
        self.delayed.insert(key.clone(), when);
        self.deadlines.insert((when, key));
    }

    /// Moves the keys whose time has come; the next deadline is returned.
    fn advance(&mut self, now: Instant) -> Option<Instant> {
        while let Some((when, _)) = self.deadlines.first() {
            if *when > now {
                return Some(*when);
            }
            if let Some((_, key)) = self.deadlines.pop_first() {
                self.delayed.remove(&key);
                self.add(key);
            }
        }
        None
    }

    /// The next key to work on, or when to ask again.
    pub(crate) fn take(&mut self, now: Instant) -> Result<Q, Option<Instant>> {
        let deadline = self.advance(now);
        let key = self.ready.pop_front().ok_or(deadline)?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Ok(key)
    }

    /// Work on a key ended. `retry` says that it failed.
    pub(crate) fn done(&mut self, key: &Q, retry: bool, now: Instant) {
        self.working.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
        if retry {
            let failures = self.failures.entry(key.clone()).or_insert(0);
            let delay = exponential(RETRY_FIRST, RETRY_LIMIT, *failures);
            *failures += 1;
            self.add_at(key.clone(), now + delay);
        } else {
            self.failures.remove(key);
        }
    }
}

impl<Q: Ord + Clone> Default for Queue<Q> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Q: Ord + Clone> Queue<Q> {
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { state: Mutex::new(State::new()), changed: Notify::new() }) }
    }

    pub fn add(&self, key: Q) {
        self.lock().add(key);
        self.inner.changed.notify_one();
    }

    pub fn add_after(&self, key: Q, delay: Duration) {
        self.lock().add_at(key, Instant::now() + delay);
        self.inner.changed.notify_one();
    }

    /// The next key; the caller must hand it back with `done`.
    pub async fn take(&self) -> Q {
        loop {
            let taken = self.lock().take(Instant::now());
            match taken {
                Ok(key) => return key,
                Err(None) => self.inner.changed.notified().await,
                Err(Some(deadline)) => {
                    // Either way the queue is looked at again.
                    drop(tokio::time::timeout_at(deadline, self.inner.changed.notified()).await);
                }
            }
        }
    }

    pub fn done(&self, key: &Q, retry: bool) {
        self.lock().done(key, retry, Instant::now());
        self.inner.changed.notify_one();
    }

    /// True once after keys were turned away because the queue was full.
    pub fn overflowed(&self) -> bool {
        std::mem::take(&mut self.lock().overflowed)
    }

    pub fn len(&self) -> usize {
        self.lock().dirty.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
