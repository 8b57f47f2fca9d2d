//! Bounded delivery of changes to a subscriber: on overflow the changes give way to one `Resync`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::Key;

/// Changes a subscriber may be behind before it is told to look at everything again.
const CHANGES_MAX: usize = 1024;

/// A change of a cached object.
#[derive(Debug)]
pub enum Change<K> {
    /// `old` is `None` for a new object, `new` for one that is gone.
    Object { key: Key, old: Option<Arc<K>>, new: Option<Arc<K>> },
    /// Changes were not kept, or none were seen yet: look at the whole cache.
    Resync,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Change::Object { key, old, new } => {
                Change::Object { key: key.clone(), old: old.clone(), new: new.clone() }
            }
            Change::Resync => Change::Resync,
        }
    }
}

pub(crate) struct Mailbox<K> {
    state: Mutex<State<K>>,
    filled: Notify,
}

struct State<K> {
    changes: VecDeque<Change<K>>,
    resync: bool,
}

impl<K> Mailbox<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { changes: VecDeque::new(), resync: false }),
            filled: Notify::new(),
        }
    }

    pub(crate) fn push(&self, change: Change<K>) {
        {
            let mut state = self.lock();
            if state.resync {
                return;
            }
            if matches!(change, Change::Resync) || state.changes.len() >= CHANGES_MAX {
                state.resync = true;
                state.changes = VecDeque::new();
            } else {
                state.changes.push_back(change);
            }
        }
        self.filled.notify_one();
    }

    async fn pop(&self) -> Change<K> {
        loop {
            {
                let mut state = self.lock();
                if std::mem::take(&mut state.resync) {
                    return Change::Resync;
                }
                if let Some(change) = state.changes.pop_front() {
                    return change;
                }
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Receives the changes of a cache, beginning with one `Resync` as soon as the cache is filled.
pub struct Subscription<K> {
    pub(crate) mailbox: Arc<Mailbox<K>>,
    /// Keeps the cache's task alive.
    pub(crate) cache: crate::Cache<K>,
}

impl<K> Subscription<K> {
    /// The next change; waits for one.
    pub async fn next(&mut self) -> Change<K> {
        self.mailbox.pop().await
    }

    /// The cache the changes come from.
    pub fn cache(&self) -> &crate::Cache<K> {
        &self.cache
    }
}
