//! The one reconcile loop: feeds turn changes of caches into keys, workers reconcile keys.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Cache, Change, Object, Queue};

/// Failures of one key in a row before they are worth a warning; conflicts are daily business.
const QUIET_FAILURES: &str = "reconcile failed, will retry";

/// What a successful reconcile wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Another look after this time, because a deadline is known.
    After(Duration),
}

type Resync = Box<dyn Fn() + Send + Sync>;
type Synced = BoxFuture<'static, ()>;

/// A reconcile loop being put together; `run` runs it.
pub struct Controller<Q> {
    name: &'static str,
    queue: Queue<Q>,
    feeds: JoinSet<()>,
    resyncs: Vec<Resync>,
    synced: Vec<Synced>,
}

impl<Q: Ord + Clone + Debug + Send + Sync + 'static> Controller<Q> {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            queue: Queue::new(),
            feeds: JoinSet::new(),
            resyncs: Vec::new(),
            synced: Vec::new(),
        }
    }

    /// The queue, to add keys from elsewhere.
    pub fn queue(&self) -> Queue<Q> {
        self.queue.clone()
    }

    /// Feeds the keys that `keys` derives from each change (old, new) of a cache.
    pub fn feed<K: Object>(
        &mut self,
        cache: &Cache<K>,
        keys: impl Fn(Option<&K>, Option<&K>) -> Vec<Q> + Send + Sync + 'static,
    ) -> &mut Self {
        let keys = Arc::new(keys);
        let (resync_cache, resync_keys, resync_queue) =
            (cache.clone(), keys.clone(), self.queue.clone());
        let all = move || {
            for object in resync_cache.list() {
                resync_keys(None, Some(&object)).into_iter().for_each(|key| resync_queue.add(key));
            }
        };
        let all = Arc::new(all);
        self.resyncs.push({
            let all = all.clone();
            Box::new(move || all())
        });
        let waiting = cache.clone();
        self.synced.push(Box::pin(async move { waiting.synced().await }));
        let mut changes = cache.subscribe();
        let queue = self.queue.clone();
        self.feeds.spawn(async move {
            loop {
                match changes.next().await {
                    Change::Resync => all(),
                    Change::Object { old, new, .. } => {
                        keys(old.as_deref(), new.as_deref())
                            .into_iter()
                            .for_each(|key| queue.add(key));
                    }
                }
            }
        });
        self
    }

    /// Waits for all caches, then reconciles up to `workers` keys at a time until shutdown.
    pub async fn run<F, R, E>(
        mut self,
        workers: usize,
        mut shutdown: watch::Receiver<bool>,
        reconcile: F,
    ) where
        F: Fn(Q) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        for synced in std::mem::take(&mut self.synced) {
            tokio::select! {
                () = synced => {}
                () = ended(&mut shutdown) => return,
            }
        }
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = ended(&mut shutdown) => break,
                key = self.queue.take(), if running.len() < workers => {
                    let work = reconcile(key.clone());
                    running.spawn(async move { (key, work.await) });
                }
                Some(ended) = running.join_next() => {
                    if let Ok((key, result)) = ended {
                        self.finish(&key, result);
                    }
                }
            }
        }
    }

    fn finish<E: Display>(&self, key: &Q, result: Result<Outcome, E>) {
        match result {
            Ok(outcome) => {
                self.queue.done(key, false);
                if let Outcome::After(delay) = outcome {
                    self.queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                tracing::debug!(controller = self.name, ?key, %error, "{QUIET_FAILURES}");
                self.queue.done(key, true);
            }
        }
        if self.queue.is_empty() && self.queue.overflowed() {
            self.resyncs.iter().for_each(|all| all());
        }
    }
}

/// Returns when the process is to end.
async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // A dropped sender means the same as a sent `true`.
    drop(shutdown.wait_for(|end| *end).await);
}
