//! How a pod ends: ordinary containers first, then sidecars, then everything else of it.

use std::time::Duration;

use super::state::{Phase, PodState, Role, Stage};
use super::types::{Effect, EventNote, StopPlan};
use crate::clock::Now;

/// Even a grace period of 0 leaves a process this long to react to the signal.
const GRACE_MIN: Duration = Duration::from_secs(2);
const GRACE_DEFAULT_SECONDS: i64 = 30;

pub(super) fn grace_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(GRACE_MIN)
}

impl PodState {
    /// The grace period in force: the deletion's, else the pod's.
    pub(super) fn grace(&self) -> Duration {
        let deletion = self.pod.metadata.deletion_grace_period_seconds;
        let own = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        grace_of(deletion.or(own).unwrap_or(GRACE_DEFAULT_SECONDS))
    }

    /// The pod must go: stops what runs, and cleans up when nothing does.
    pub(super) fn decide_ending(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mains = self.containers.iter().any(|c| c.role != Role::Sidecar && c.alive());
        let grace = self.grace();
        for container in &mut self.containers {
            let turn = container.role != Role::Sidecar || !mains;
            if !turn || !matches!(container.phase, Phase::Running { .. }) {
                continue;
            }
            let by = now.mono + grace;
            match container.stop_by {
                Some(before) if before <= by => continue,
                Some(_) => {} // a shorter grace period has arrived
                None => {
                    let message = format!("Stopping container {}", container.name);
                    out.push(Effect::Event(
                        EventNote::normal("Killing", message).on(&container.name),
                    ));
                    out.push(Effect::StopProbes { name: container.name.clone() });
                }
            }
            let hook = container.stop_by.is_none();
            container.stop_by = Some(by);
            let (name, attempt) = (container.name.clone(), container.attempt);
            out.push(Effect::Stop(StopPlan { name, attempt, grace, hook }));
        }
        if self.idle() {
            self.clean(self.deleting(), out);
        }
    }

    /// The containers have ended by themselves: stops the sidecars, then frees what the pod holds.
    pub(super) fn decide_finished(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.decide_ending(now, out);
    }

    /// Nothing runs and nothing that would make something run is under way.
    fn idle(&self) -> bool {
        use super::state::Step;
        let busy = |step: &Step| matches!(step, Step::Busy { .. });
        !self.containers.iter().any(super::state::Container::alive)
            && !busy(&self.sandbox)
            && !busy(&self.volumes)
    }

    fn clean(&mut self, last: bool, out: &mut Vec<Effect>) {
        self.stage = Stage::Cleaning { last };
        out.push(Effect::Cleanup { last });
    }

    /// After the clean-up: the pod may still be deleted, or has been all along.
    pub(super) fn decide_cleaned(&mut self, last: bool, out: &mut Vec<Effect>) {
        if !last {
            if self.deleting() {
                self.clean(true, out);
            }
            return;
        }
        self.stage = Stage::Done;
        if !self.gone {
            out.push(Effect::Delete);
        }
    }

    pub(super) fn retry_clean(&mut self, last: bool, out: &mut Vec<Effect>) {
        self.clean(last || self.deleting(), out);
    }
}
