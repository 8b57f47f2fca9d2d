//! One pod's life, decided without IO.
//!
//! [`PodState`] is what the agent knows about a pod; [`PodState::step`] folds one [`Input`] into it and returns the
//! [`Effect`]s to perform next. The shell (`actor`) performs them and feeds the outcome back as further inputs. Nothing here
//! waits or reads a clock: `next_wake` says when to step again although nothing happened.
//!
//! ```text
//!  volumes, sandbox     Absent -> Busy -> Ready | Failed(until) -> Busy ..
//!  container            Idle -> Pulling -> Prepared -> Starting -> Running -> Exited
//!                          ^       |           ^           |                     |
//!                          |   PullFailed      +-----StartFailed            (restart due)
//!                          +-----------------------------------------------------+
//!  pod                  Active -> Ending (deleted, gone, failed) | Finished (all ended) -> cleaned -> [deleted]
//! ```

mod admission;
mod decide;
mod ending;
mod observe;
mod probes;
mod state;
#[cfg(test)]
mod tests;
mod types;

pub(crate) use probes::{ProbeKind, ProbeOutcome};
pub(crate) use state::{Container, Phase, PodState, Role, Stage, Step};
pub(crate) use types::{
    Effect, EventNote, Failure, ImageFailure, ImageRef, Input, Known, StopPlan, Termination,
};
