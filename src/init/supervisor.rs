//! Decides when a service is started again: pure, time is a parameter.
//!
//! `Waiting --(time)--> Running --(exit)--> Waiting`; `stop` makes any state `Stopped` once the process is gone.

use std::time::{Duration, Instant};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run that lasted this long counts as a success: the next failure starts with the first delay again.
const STEADY: Duration = Duration::from_secs(120);

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be started at this time.
    Waiting(Instant),
    Running {
        pid: i32,
        since: Instant,
    },
    /// Not to be started again.
    Stopped,
}

/// The restart policy of one service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supervisor {
    state: State,
    failures: u32,
    stopping: bool,
}

impl Supervisor {
    pub(crate) fn new(first_start: Instant) -> Supervisor {
        Supervisor { state: State::Waiting(first_start), failures: 0, stopping: false }
    }

    /// Whether the last run ended by itself.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// When the service wants to be started, if it is not running.
    pub(crate) fn start_at(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Running { .. } | State::Stopped => None,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Waiting(_) | State::Stopped => None,
        }
    }

    /// Makes a first start that was put off happen now.
    pub(crate) fn release(&mut self, now: Instant) {
        if self.failures == 0
            && let State::Waiting(at) = self.state
        {
            self.state = State::Waiting(at.min(now));
        }
    }

    pub(crate) fn started(&mut self, pid: i32, now: Instant) {
        self.state = State::Running { pid, since: now };
    }

    /// The process ended, or could not be started. Returns how long to wait before the next start.
    pub(crate) fn ended(&mut self, now: Instant) -> Option<Duration> {
        if let State::Running { since, .. } = self.state
            && now.saturating_duration_since(since) >= STEADY
        {
            self.failures = 0;
        }
        if self.stopping {
            self.state = State::Stopped;
            return None;
        }
        let delay = delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting(now + delay);
        Some(delay)
    }

    /// The service is wanted no more. Returns the process to end, if there is one.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.stopping = true;
        let pid = self.pid();
        if pid.is_none() {
            self.state = State::Stopped;
        }
        pid
    }
}

fn delay(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX);
    FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY)
}
