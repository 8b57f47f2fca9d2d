//! Watches: who is interested in which range, and which changes they have not read yet.
//!
//! A watch has no queue of its own. It remembers the revision of the first change of its range that it has not read;
//! the changes themselves are read from the change log, which all watches share. So a slow watch costs nothing, a quiet
//! one is never woken, and one that the log has passed by is told so.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::key::{Range, ranges_of};
use crate::options::{WATCH_EVENTS_MAX, WATCHES_MAX};
use crate::state::Shared;
use crate::{Error, Event, Revision};

/// Marks that a watch has read everything; no change has this revision.
const NOTHING: Revision = 0;

/// The changes of a range, in order. Ends when dropped.
pub struct Watch {
    shared: Arc<Shared>,
    range: Range,
    subscriber: Arc<Subscriber>,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, range: Range, after: Revision) -> Result<Watch, Error> {
        let subscriber = Arc::new(Subscriber::default());
        let mut state = shared.write();
        if state.closed {
            return Err(Error::Closed);
        }
        state.history.check(after)?;
        let unread = state.history.after(after).find(|event| range.contains(&event.entry.key));
        let unread = unread.map_or(NOTHING, |event| event.entry.modified);
        subscriber.unread.store(unread, Ordering::Relaxed);
        state.topics.add(range.name(), subscriber.clone())?;
        drop(state);
        Ok(Watch { shared, range, subscriber })
    }

    /// Waits for the next changes. Never empty; safe to cancel. After an error the watch is finished: list again.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            if let Some(events) = self.take()? {
                return Ok(events);
            }
            self.subscriber.wake.notified().await;
        }
    }

    /// Up to this revision, every change of the range was returned by `next`.
    pub fn progress(&self) -> Revision {
        // The lock keeps `unread` and the log in step: marks are set under the write lock.
        let state = self.shared.read();
        match self.subscriber.unread.load(Ordering::Relaxed) {
            NOTHING => state.history.last(),
            unread => unread - 1,
        }
    }

    fn take(&self) -> Result<Option<Vec<Event>>, Error> {
        let state = self.shared.read();
        let unread = self.subscriber.unread.load(Ordering::Relaxed);
        if unread == NOTHING {
            return if state.closed { Err(Error::Closed) } else { Ok(None) };
        }
        if state.history.has_dropped(unread) {
            return Err(Error::Lagged);
        }
        let in_range = |event: &&Event| self.range.contains(&event.entry.key);
        let mut unseen = state.history.after(unread - 1).filter(in_range);
        let events = unseen.by_ref().take(WATCH_EVENTS_MAX).cloned().collect();
        let next = unseen.next().map_or(NOTHING, |event| event.entry.modified);
        self.subscriber.unread.store(next, Ordering::Relaxed);
        Ok(Some(events))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.write().topics.remove(self.range.name(), &self.subscriber);
    }
}

/// The part of a watch that the writer touches.
#[derive(Default)]
pub(crate) struct Subscriber {
    /// Revision of the first change not read. Set under the write lock of the state, cleared under the read lock.
    unread: AtomicU64,
    wake: Notify,
}

impl Subscriber {
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// The subscribers of each range. A change finds its watchers by the few names of the ranges it is in, so that it
/// touches no others.
#[derive(Default)]
pub(crate) struct Topics {
    by_range: HashMap<Arc<str>, Vec<Arc<Subscriber>>>,
    count: usize,
}

impl Topics {
    fn add(&mut self, range: &Arc<str>, subscriber: Arc<Subscriber>) -> Result<(), Error> {
        if self.count >= WATCHES_MAX {
            return Err(Error::TooManyWatches { limit: WATCHES_MAX });
        }
        self.count += 1;
        self.by_range.entry(range.clone()).or_default().push(subscriber);
        Ok(())
    }

    fn remove(&mut self, range: &Arc<str>, subscriber: &Arc<Subscriber>) {
        let Some(subscribers) = self.by_range.get_mut(range) else { return };
        if let Some(at) = subscribers.iter().position(|other| Arc::ptr_eq(other, subscriber)) {
            subscribers.swap_remove(at);
            self.count -= 1;
        }
        if subscribers.is_empty() {
            self.by_range.remove(range);
        }
    }

    /// Tells the watchers of `key` that there is something to read; adds those to `woken` that had nothing before.
    pub(crate) fn mark(&self, key: &str, revision: Revision, woken: &mut Vec<Arc<Subscriber>>) {
        if self.count == 0 {
            return;
        }
        for subscriber in ranges_of(key).filter_map(|range| self.by_range.get(range)).flatten() {
            if subscriber.unread.load(Ordering::Relaxed) == NOTHING {
                subscriber.unread.store(revision, Ordering::Relaxed);
                woken.push(subscriber.clone());
            }
        }
    }

    pub(crate) fn wake_all(&self) {
        self.by_range.values().flatten().for_each(|subscriber| subscriber.wake());
    }
}
