//! The time as the pure parts receive it: a wall clock for what users read, a monotonic one for waiting.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// One moment. `mono` counts from the agent's start and never jumps, unlike the wall clock of a board without a battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) mono: Duration,
}

/// Reads the time; only the shells hold one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { wall: Timestamp::now(), mono: self.origin.elapsed() }
    }

    /// The instant at which `Now::mono` will be `at`.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.origin + at
    }
}

/// A timestamp from the runtime's nanoseconds since the epoch.
pub(crate) fn from_nanos(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}
