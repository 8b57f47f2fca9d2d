//! Events do not stay: each goes an hour after its last write, and the oldest go early when there are too many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{Expect, Store};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) const EVENT_SECONDS: Duration = Duration::from_secs(3600);
pub(crate) const EVENTS_MAX: usize = 2000;
/// Places in the queue; each rewrite of an event takes a new one until the old one is reached.
pub(crate) const QUEUE_MAX: usize = 4 * EVENTS_MAX;

#[derive(Default)]
pub(crate) struct Expiry {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The place that counts, per key.
    current: BTreeMap<Arc<str>, u64>,
    queue: VecDeque<(Instant, u64, Arc<str>)>,
    next: u64,
}

impl Expiry {
    /// Notes a write of an event.
    pub(crate) fn written(&self, key: &Arc<str>, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let place = state.next;
        state.current.insert(key.clone(), place);
        state.queue.push_back((now + EVENT_SECONDS, place, key.clone()));
        if state.queue.len() > QUEUE_MAX {
            let State { current, queue, .. } = &mut *state;
            queue.retain(|(_, place, key)| current.get(key) == Some(place));
        }
        if state.queue.len() == 1 || state.current.len() > EVENTS_MAX {
            self.changed.notify_one();
        }
    }

    /// The keys whose time has come, and when to look again.
    pub(crate) fn due(&self, now: Instant) -> (Vec<Arc<str>>, Option<Instant>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        loop {
            let Some((at, place, key)) = state.queue.front().cloned() else { return (due, None) };
            let counts = state.current.get(&key) == Some(&place);
            if counts && at > now && state.current.len() <= EVENTS_MAX {
                return (due, Some(at));
            }
            state.queue.pop_front();
            if counts {
                state.current.remove(&key);
                due.push(key);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn queue_len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).queue.len()
    }

    /// Deletes what is due, for ever.
    pub(crate) async fn run(self: Arc<Self>, store: Store) {
        loop {
            let (due, next) = self.due(Instant::now());
            for key in due {
                if let Err(error) = store.delete(&key, Expect::Any).await
                    && !matches!(error, store::Error::Conflict { .. })
                {
                    tracing::debug!(%key, %error, "cannot delete an expired event");
                }
            }
            match next {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }
}
