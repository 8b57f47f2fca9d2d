//! What keeps the program going until its end: the parts it runs, the signals it ends on, the threads it has.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tracing::error;

/// Threads that serve requests; more would only cost memory on the boards this is for.
const WORKERS_MAX: usize = 4;

/// How long a part may take to stop before the process ends without it.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// The asynchronous runtime of the program.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")
}

/// The parts that run until the end, by name.
#[derive(Default)]
pub(crate) struct Parts {
    set: JoinSet<&'static str>,
}

impl Parts {
    pub(crate) fn add<T: Send + 'static>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = T> + Send + 'static,
    ) {
        self.set.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits until one ends, which none should before it is told to.
    pub(crate) async fn ended(&mut self) -> Option<&'static str> {
        match self.set.join_next().await {
            Some(Ok(name)) => Some(name),
            _ => Some("failed part"),
        }
    }

    pub(crate) async fn finish(mut self) {
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            error!("a part did not stop within {STOP_PATIENCE:?}");
        }
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let handler = |kind| signal(kind).context("installing a signal handler");
        Ok(Signals {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
