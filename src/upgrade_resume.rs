//! When an update that was interrupted is taken up again, and when that is given up: pure.

use std::time::Duration;

use client::Backoff;
use tokio::time::Instant;

/// Between two tries, doubled with each: a quarter of an hour in all.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);
const TRIES_MAX: u32 = 8;

/// What follows on a try that did not come as far as writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Again(Duration),
    GiveUp,
}

/// The tries to take up one update.
pub(crate) struct Resume {
    source: String,
    backoff: Backoff,
    tries: u32,
    due: Option<Instant>,
}

impl Default for Resume {
    fn default() -> Resume {
        let backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        Resume { source: String::new(), backoff, tries: 0, due: None }
    }
}

impl Resume {
    /// Notes a try that failed; `is_refused` when another one would come to the same.
    pub(crate) fn failed(&mut self, source: &str, is_refused: bool, now: Instant) -> Next {
        if self.source != source {
            *self = Resume { source: source.to_owned(), ..Resume::default() };
        }
        self.tries += 1;
        let pause = self.backoff.failed();
        // Also after the last one: the journal may not take it that this was the last.
        self.due = Some(now + pause);
        match is_refused || self.tries >= TRIES_MAX {
            true => Next::GiveUp,
            false => Next::Again(pause),
        }
    }

    /// Whether the update from `source` has to wait.
    pub(crate) fn waits(&self, source: &str, now: Instant) -> bool {
        self.source == source && self.due.is_some_and(|due| now < due)
    }

    /// Returns when the wait is over; never, if there is none.
    pub(crate) async fn over(due: Option<Instant>) {
        match due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn is_over(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_bounded_and_further_and_further_apart() {
        let mut now = Instant::now();
        let mut resume = Resume::default();
        assert!(!resume.waits("x", now));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(resume.failed("x", false, now), Next::Again(pause));
            assert!(resume.waits("x", now) && !resume.waits("y", now));
            now += pause;
            assert!(!resume.waits("x", now));
        }
        assert_eq!(resume.failed("x", false, now), Next::GiveUp);
        assert!(resume.waits("x", now), "no hot loop even when nobody notes that it is given up");
        assert_eq!(resume.failed("y", false, now), Next::Again(PAUSE_FIRST), "another update");
        assert_eq!(resume.failed("y", true, now), Next::GiveUp, "what is refused stays refused");
    }
}
