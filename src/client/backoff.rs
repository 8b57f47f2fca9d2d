//! Exponential back-off with jitter.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A delay that doubles with each failure up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// The delay before the next attempt.
    pub fn failed(&mut self) -> Duration {
        let delay = exponential(self.first, self.limit, self.failures);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Like `failed`, with up to a quarter added so that many clients do not come back at once.
    pub fn failed_with_jitter(&mut self) -> Duration {
        let delay = self.failed();
        // A new RandomState hashes the empty input to a value that nobody can foresee: random enough for this.
        let quarter = RandomState::new().build_hasher().finish() % 256;
        delay + delay.mul_f64(quarter as f64 / 1024.0)
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// `first` doubled `failures` times, at most `limit`.
pub(crate) fn exponential(first: Duration, limit: Duration, failures: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(limit)
}
