//! What a pod needs next, given what is known: the level-triggered half of a step.

use std::time::Duration;

use super::state::{Container, Phase, PodState, Role, Stage, Step};
use super::types::{Effect, EventNote};
use crate::clock::Now;

impl PodState {
    pub(super) fn decide(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.admit(out);
        self.check_deadline(now, out);
        match self.stage {
            Stage::Active if self.mains_ended() => self.decide_finished(now, out),
            Stage::Active => self.decide_active(now, out),
            Stage::Ending => self.decide_ending(now, out),
            Stage::CleanFailed { last, until } if until <= now.mono => self.retry_clean(last, out),
            Stage::Cleaned { last } => self.decide_cleaned(last, out),
            Stage::Cleaning { .. } | Stage::CleanFailed { .. } | Stage::Done => {}
        }
    }

    /// When to step again although nothing happens.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        if let Stage::CleanFailed { until, .. } = self.stage {
            return Some(until);
        }
        if self.stage != Stage::Active {
            return None;
        }
        let turns = self.turns();
        let containers = turns.iter().filter_map(|&i| self.container_wake(&self.containers[i]));
        [self.volumes.wake(), self.sandbox.wake()].into_iter().flatten().chain(containers).min()
    }

    fn container_wake(&self, container: &Container) -> Option<Duration> {
        match &container.phase {
            Phase::PullFailed { until, backing_off_at, reason, .. }
                if *reason == "ErrImagePull" =>
            {
                Some(*until.min(backing_off_at))
            }
            Phase::PullFailed { until, .. } | Phase::StartFailed { until, .. } => Some(*until),
            Phase::Exited { at, .. } if self.restarts(container) => container.crash.wait_until(*at),
            _ => None,
        }
    }

    /// `activeDeadlineSeconds`; its timer is the shell's, on the wall clock.
    fn check_deadline(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.stage != Stage::Active || self.mains_ended() {
            return;
        }
        let Some(deadline) = self.deadline() else { return };
        if now.wall < deadline {
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        out.push(Effect::Event(EventNote::normal("DeadlineExceeded", message.into())));
        self.killed = Some(("DeadlineExceeded", message.into()));
        self.stage = Stage::Ending;
    }

    pub(crate) fn deadline(&self) -> Option<jiff::Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        self.start_time.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
    }

    fn decide_active(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.volumes.due(now) {
            self.volumes = Step::Busy { failures: self.volumes.failures() };
            out.push(Effect::MountVolumes);
        }
        if self.sandbox.due(now) {
            let failures = self.sandbox.failures();
            self.sandbox = Step::Busy { failures };
            out.push(Effect::CreateSandbox { replace: failures > 0 });
        }
        for at in self.turns() {
            self.advance(at, now, out);
        }
    }

    /// The containers that may run now: init containers one after another, then all others.
    fn turns(&self) -> Vec<usize> {
        let mut turns = Vec::with_capacity(self.containers.len());
        for (at, container) in self.containers.iter().enumerate() {
            match container.role {
                Role::Main => turns.push(at),
                Role::Init if container.init_done() => {}
                Role::Sidecar if container.init_done() => turns.push(at),
                Role::Init | Role::Sidecar => {
                    turns.push(at);
                    return turns;
                }
            }
        }
        turns
    }

    fn advance(&mut self, at: usize, now: Now, out: &mut Vec<Effect>) {
        match self.containers[at].phase.clone() {
            Phase::Idle => self.pull(at, out),
            Phase::PullFailed { until, .. } | Phase::StartFailed { until, .. }
                if until <= now.mono =>
            {
                self.pull(at, out);
            }
            Phase::PullFailed { until, backing_off_at, reason: "ErrImagePull", message }
                if backing_off_at <= now.mono =>
            {
                self.back_off_pull(at, until, &message, out);
            }
            Phase::Prepared if self.may_start(at) => self.start(at, out),
            Phase::Exited { at: ended, .. } if self.restarts(&self.containers[at]) => {
                self.restart(at, ended, now, out);
            }
            _ => {}
        }
    }

    fn pull(&mut self, at: usize, out: &mut Vec<Effect>) {
        let container = &mut self.containers[at];
        container.phase = Phase::Pulling;
        out.push(Effect::PullImage { name: container.name.clone() });
    }

    fn back_off_pull(&mut self, at: usize, until: Duration, error: &str, out: &mut Vec<Effect>) {
        let container = &mut self.containers[at];
        let text = format!("Back-off pulling image {:?}", container.spec_image);
        let name = container.name.as_str();
        out.push(Effect::Event(EventNote::normal("BackOff", text.clone()).on(name)));
        out.push(Effect::Event(
            EventNote::warning("Failed", "Error: ImagePullBackOff".into()).on(name),
        ));
        let (reason, message) = ("ImagePullBackOff", format!("{text}: ErrImagePull: {error}"));
        container.obstacle = Some((reason, message.clone()));
        container.phase = Phase::PullFailed { until, backing_off_at: until, reason, message };
    }

    /// Containers start in the order of the spec; a postStart hook holds up those after it.
    fn may_start(&self, at: usize) -> bool {
        let held = self.containers[..at]
            .iter()
            .filter(|c| c.role == self.containers[at].role)
            .any(|c| matches!(c.phase, Phase::Starting | Phase::Running { hooking: true, .. }));
        self.volumes == Step::Ready && self.sandbox == Step::Ready && !held
    }

    fn start(&mut self, at: usize, out: &mut Vec<Effect>) {
        let container = &mut self.containers[at];
        container.phase = Phase::Starting;
        container.made = None;
        let (name, attempt) = (container.name.clone(), container.attempt);
        out.push(Effect::StartContainer { name, attempt });
    }

    fn restart(&mut self, at: usize, ended: Duration, now: Now, out: &mut Vec<Effect>) {
        let display = self.display();
        let container = &mut self.containers[at];
        let waits =
            container.crash.wait_until(ended).filter(|until| *until > now.mono && !container.redo);
        if waits.is_some() {
            if !container.announced {
                container.announced = true;
                let text = format!(
                    "Back-off restarting failed container {} in pod {display}",
                    container.name
                );
                out.push(Effect::Event(EventNote::warning("BackOff", text).on(&container.name)));
            }
            return;
        }
        container.crash.retry(ended, now.mono);
        container.redo = false;
        if let Phase::Exited { exit, .. } = std::mem::replace(&mut container.phase, Phase::Idle) {
            container.previous = Some(exit);
        }
        container.attempt += 1;
        if let Some(attempt) = container.attempt.checked_sub(2) {
            out.push(Effect::Forget { name: container.name.clone(), attempt });
        }
        self.pull(at, out);
    }
}
