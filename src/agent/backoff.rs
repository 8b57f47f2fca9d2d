//! The back-off of restarts and pulls: the first retry is free, then 10 s doubling to 5 min, forgotten after 10 quiet minutes.

use std::time::Duration;

const INITIAL: Duration = Duration::from_secs(10);
const MAXIMUM: Duration = Duration::from_secs(300);
/// A failure this long after the last one starts from the beginning.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How long the next retry has to wait. `None` inside means that nothing failed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BackOff {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Duration,
}

impl BackOff {
    /// The moment before which a thing that failed at `failed` must not be tried again; `None` if it may be tried now.
    pub(crate) fn wait_until(&self, failed: Duration) -> Option<Duration> {
        let entry = self.entry?;
        if expired(entry, failed) { None } else { Some(failed + entry.delay) }
    }

    /// The delay in force, for messages.
    pub(crate) fn delay(&self) -> Duration {
        self.entry.map_or(INITIAL, |e| e.delay)
    }

    /// Notes a retry at `now` of what failed at `failed`.
    pub(crate) fn retry(&mut self, failed: Duration, now: Duration) {
        let delay = match self.entry {
            Some(entry) if !expired(entry, failed) => (entry.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.entry = Some(Entry { delay, updated: now });
    }
}

fn expired(entry: Entry, at: Duration) -> bool {
    at.saturating_sub(entry.updated) > FORGET_AFTER
}
