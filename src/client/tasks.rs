//! Owners of spawned tasks.

use std::future::Future;
use std::sync::Mutex;

use tokio::task::{AbortHandle, JoinSet};

/// A set of tasks that end when it is dropped.
#[derive(Default)]
pub struct Tasks {
    set: Mutex<JoinSet<()>>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}

/// Ends one task when dropped.
pub(crate) struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
