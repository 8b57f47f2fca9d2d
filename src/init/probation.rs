//! What PID 1 decides about a slot on trial: pure.

use std::time::Duration;

use ota::Health;

/// The node may end this often during a trial; with the pauses between its starts that is at least 15 s.
pub(crate) const ENDS_MAX: u32 = 5;

/// What PID 1 knows of the node since the start of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// It runs steadily and accepts connections.
    pub(crate) is_up: bool,
    /// What it says of itself.
    pub(crate) health: Option<Health>,
    /// How often it has ended, and how the last time.
    pub(crate) ends: u32,
    pub(crate) last_end: String,
    /// How long the trial has lasted.
    pub(crate) lasted: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Wait,
    Commit,
    /// Why the version is given up: the rest of a sentence that begins with it.
    GiveUp(String),
}

/// Decides; `within` is how long the version has to become healthy.
pub(crate) fn decide(seen: &Seen, within: Duration) -> Decision {
    let ends = || format!("the node ended {} times, at last it {}", seen.ends, seen.last_end);
    if seen.is_up && seen.health.as_ref().is_some_and(|health| health.healthy) {
        return Decision::Commit;
    }
    if seen.ends >= ENDS_MAX {
        return Decision::GiveUp(format!("does not keep running: {}", ends()));
    }
    if seen.lasted < within {
        return Decision::Wait;
    }
    let missing = seen.health.as_ref().map(Health::missing).filter(|text| !text.is_empty());
    let why = match (seen.ends, missing) {
        (0, None) => "the node said nothing of its health".to_owned(),
        (0, Some(missing)) => missing,
        (_, None) => ends(),
        (_, Some(missing)) => format!("{}; {missing}", ends()),
    };
    Decision::GiveUp(format!("was not healthy within {} s: {why}", within.as_secs()))
}
