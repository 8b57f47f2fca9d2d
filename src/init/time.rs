//! Pauses of PID 1 and stage 1: they poll nothing, so no signal handling is involved.

use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

/// Lets `duration` (at most a minute) pass.
pub(crate) fn pause(duration: Duration) {
    let end = Instant::now() + duration.min(Duration::from_secs(60));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        // An interrupted poll only means another turn.
        let _ = poll(&mut [], PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
}

/// Tries `attempt` every `step` until it gives something or `limit` has passed.
pub(crate) fn wait_for<T>(
    limit: Duration,
    step: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let found = attempt();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        pause(step);
    }
}
