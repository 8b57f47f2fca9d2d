//! The states of an update and what leads from one to the next: pure.
//!
//! `Idle -> Writing -> Staged -> Trying -> Idle`, the last step with the verdict "committed" or, through `FallingBack`,
//! "fell back". The state is kept in the [`Journal`](crate::Journal) and is never ahead of the disk: a power cut
//! anywhere leads to a state from which the same step is done again. The slot in `from` is the confirmed one until the
//! very end, and nothing of it is written before that.

use std::collections::BTreeMap;

use disk::slot::Slot;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::board::slot_name;
use crate::error::Refusal;

/// What is being installed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Update {
    /// Where the bundle comes from.
    pub source: String,
    pub allow_downgrade: bool,
    pub version: Version,
    /// The version that runs meanwhile.
    pub before_version: Version,
    #[serde(with = "slot_name")]
    pub from: Slot,
    #[serde(with = "slot_name")]
    pub to: Slot,
    /// Seconds within which the new version must be healthy.
    pub healthy_within: u32,
    pub before: Before,
}

/// What worked before the update and must work after it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Before {
    /// The API server answered.
    pub server: bool,
    /// Pods that were ready, as `namespace/name`, and the identifiers of their containers.
    pub pods: BTreeMap<String, Vec<String>>,
}

/// How far an update is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "of")]
pub enum State {
    #[default]
    Idle,
    /// The slot `to` is incomplete.
    Writing(Update),
    /// The slot `to` is complete and has been read back; the machine is to restart.
    Staged(Update),
    /// The boot loader tries the slot `to`; `starts` of its starts have come as far as PID 1.
    Trying { update: Update, starts: u8 },
    /// The slot `to` is given up; the old one has still to put the datastore back.
    FallingBack { update: Update, reason: String },
}

/// What PID 1 does about updates when the machine has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootStep {
    /// No update is under way, or the node goes on with one by itself.
    Ordinary,
    /// The written slot is still to be tried.
    Arm(Update),
    /// This start is the trial.
    Trial(Update),
    /// The slot that runs was given up before: the other one is to be started.
    Leave(Update),
    /// The trial has failed; the datastore is to be put back.
    FellBack { update: Update, reason: String },
    /// The slot that was being written runs: the confirmed one is not able to.
    Lost(Update),
}

impl BootStep {
    /// Whether the slot that runs is not the one to stay with when this step fails.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        matches!(self, BootStep::Trial(_) | BootStep::Leave(_))
    }
}

impl State {
    /// The update that is under way.
    #[must_use]
    pub fn update(&self) -> Option<&Update> {
        match self {
            State::Idle => None,
            State::Writing(update) | State::Staged(update) => Some(update),
            State::Trying { update, .. } | State::FallingBack { update, .. } => Some(update),
        }
    }

    /// Whether an update may begin. One that is being written is given up for the new one, or gone on with.
    pub fn may_begin(&self, running: Slot, confirmed: bool) -> Result<(), Refusal> {
        let version = |update: &Update| update.version.to_string();
        match self {
            State::Staged(update) => Err(Refusal::Waiting(version(update))),
            State::Trying { update, .. } | State::FallingBack { update, .. } => {
                Err(Refusal::OnTrial(version(update)))
            }
            State::Idle | State::Writing(_) if !confirmed => {
                Err(Refusal::Unconfirmed(running.name()))
            }
            State::Idle | State::Writing(_) => Ok(()),
        }
    }

    /// What a start of `running` means, and the state from then on.
    #[must_use]
    pub fn at_boot(self, running: Slot) -> (State, BootStep) {
        match self {
            State::Idle => (State::Idle, BootStep::Ordinary),
            State::Writing(update) if running == update.to => (State::Idle, BootStep::Lost(update)),
            State::Writing(update) => (State::Writing(update), BootStep::Ordinary),
            State::Staged(update) if running == update.to => tried(update, 0),
            State::Staged(update) => (State::Staged(update.clone()), BootStep::Arm(update)),
            State::Trying { update, starts } if running == update.to => tried(update, starts),
            State::Trying { update, starts } => {
                let reason = silent_end(&update, starts);
                fell_back(update, reason)
            }
            State::FallingBack { update, reason } if running == update.to => {
                let left = update.clone();
                (State::FallingBack { update, reason }, BootStep::Leave(left))
            }
            State::FallingBack { update, reason } => fell_back(update, reason),
        }
    }
}

fn tried(update: Update, starts: u8) -> (State, BootStep) {
    let step = BootStep::Trial(update.clone());
    (State::Trying { update, starts: starts.saturating_add(1) }, step)
}

fn fell_back(update: Update, reason: String) -> (State, BootStep) {
    let step = BootStep::FellBack { update: update.clone(), reason: reason.clone() };
    (State::FallingBack { update, reason }, step)
}

/// The reason when nobody was left to give one.
fn silent_end(update: &Update, starts: u8) -> String {
    let Update { to, version, healthy_within, .. } = update;
    match starts {
        0 => format!(
            "slot {to} with {version} did not start: its kernel, initramfs or root failed in every start it had"
        ),
        _ => format!(
            "slot {to} with {version} started {starts} times, and each time the machine ended before it was healthy \
             (at most {healthy_within} s)"
        ),
    }
}
