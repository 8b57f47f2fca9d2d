//! Which slot runs, whether it is good, and what became of the update that wrote it.
//!
//! An ordinary start is confirmed once the node is up. One that is the trial of an update is confirmed when the node says
//! that everything is as before, and given up when it has not said so in time or ends again and again; the reason goes into
//! the journal.

use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use disk::layout;
use disk::slot::Slot;
use ota::{
    BootFacts, BootPartition, BootStep, Health, Journal, Loader, Outcome, Places, State, Update,
    Verdict,
};

use crate::boot_disk;
use crate::phases::{BOOT, DATA, Machine};
use crate::probation::{Decision, Seen, decide};
use crate::time::pause;
use crate::{Error, notices};

const FOLDER: &str = "upgrade";
/// Where everybody leaves what the node is to say; the node watches it from its start on.
const NOTICES: &str = "/run/copepod/notices";
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// After the boot loader could not be told that the slot is good.
const CONFIRM_AGAIN: Duration = Duration::from_secs(60);
const AUTHOR: &str = "slots";
/// How long copying the datastore may take: gigabytes, on a card that writes a few megabytes a second.
pub(crate) const DATASTORE_LIMIT: Duration = Duration::from_secs(1800);

/// The running slot and its trial.
pub(crate) struct Slots {
    /// `None` when the boot loader did not say which slot it started.
    facts: Option<BootFacts>,
    trial: Option<Trial>,
    /// The slot that was confirmed last, when it is another one that runs without being on trial.
    confirmed_other: Option<Slot>,
    given_up: bool,
    /// How often the node has ended, and how the last time.
    node_ends: u32,
    last_end: String,
    /// When to try again to confirm the slot.
    confirm_at: Option<Instant>,
}

struct Trial {
    update: Update,
    since: Instant,
}

impl Trial {
    fn within(&self) -> Duration {
        Duration::from_secs(self.update.healthy_within.into())
    }
}

/// The word for the firmware at a restart, if it needs one.
type Word = Option<&'static CStr>;

impl Slots {
    /// Finds out what this start means for an update, before anything uses the data partition. Restarts the machine where
    /// another slot has to run.
    pub(crate) fn settle(machine: &mut Machine) -> Slots {
        let mut slots = Slots {
            facts: facts(machine),
            trial: None,
            confirmed_other: None,
            given_up: false,
            node_ends: 0,
            last_end: String::new(),
            confirm_at: None,
        };
        let Some(running) = slots.facts.as_ref().map(|facts| facts.slot) else { return slots };
        if let Some(word) = slots.take_step(running, machine) {
            restart(machine, word);
        }
        slots.look_for_other(running, machine);
        slots.tell();
        slots
    }

    /// Does what the journal asks for; the word is for the firmware when the machine is to restart.
    ///
    /// An error leads away from a slot on trial, which has few starts, and is only told on any other: a node that runs is
    /// worth more than an update that is settled.
    fn take_step(&mut self, running: Slot, machine: &mut Machine) -> Option<Word> {
        let mut journal = match Journal::read(&folder()) {
            Ok(journal) => journal,
            Err(error) => {
                machine.complain(&format!("{error}; no update is known of"));
                return None;
            }
        };
        let (state, step) = journal.state.clone().at_boot(running);
        let is_on_trial = step.is_on_trial();
        let mut errors = Vec::new();
        if state != journal.state {
            journal.state = state;
            errors.extend(journal.write(&folder()).err().map(Error::from));
        }
        let mut word = None;
        if errors.is_empty() || !is_on_trial {
            match self.follow(step, running, journal.clone(), machine) {
                Ok(asked) => word = asked,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return word;
        }
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = format!("the update cannot be settled: {}", errors.join("; "));
        machine.complain(&text);
        if is_on_trial {
            leave(running, journal, text);
            pause(FAILURE_PAUSE);
            return Some(None);
        }
        warn(
            "UpgradeSettled",
            "False",
            "CannotSettle",
            &format!("{text}; the next start tries again"),
        );
        word
    }

    fn follow(
        &mut self,
        step: BootStep,
        running: Slot,
        journal: Journal,
        machine: &mut Machine,
    ) -> Result<Option<Word>, Error> {
        match step {
            BootStep::Ordinary => {}
            BootStep::Arm(update) => {
                machine.say(&format!("slot {} with {} is to be tried", update.to, update.version));
                let armed = machine.at_length(DATASTORE_LIMIT, || arm(journal));
                machine.say(&armed.as_ref().map_or_else(Clone::clone, |(_, text)| text.clone()));
                return Ok(armed.ok().map(|(word, _)| word));
            }
            BootStep::Trial(update) => {
                let Update { version, healthy_within, .. } = &update;
                machine.say(&format!(
                    "slot {running} with {version} is on trial for {healthy_within} s"
                ));
                self.trial = Some(Trial { update, since: Instant::now() });
            }
            BootStep::Leave(update) => {
                machine.say(&format!("slot {running} with {} was given up", update.version));
                loader().reject(running)?;
                return Ok(Some(None));
            }
            BootStep::Lost(update) => {
                let reason = "the slot it was being written to was started, because the other one does not start";
                finish(journal, &update, Verdict::Failed, reason.to_owned())?;
            }
            BootStep::FellBack { update, reason } => {
                machine.say(&format!(
                    "back on slot {running} with {}: {reason}",
                    update.before_version
                ));
                let data = Path::new(DATA);
                machine.at_length(DATASTORE_LIMIT, || ota::put_back(data, &folder()))?;
                loader().reject(update.to)?;
                finish(journal, &update, Verdict::FellBack, reason)?;
                self.settled();
            }
        }
        Ok(None)
    }

    /// Whether the boot loader has started another slot than the one it should, for want of starts: that must not pass
    /// for what the owner wants.
    fn look_for_other(&mut self, running: Slot, machine: &mut Machine) {
        if self.trial.is_some() {
            return;
        }
        self.confirmed_other = loader().good().filter(|good| *good != running);
        let Some(other) = self.confirmed_other else { return };
        let text = format!(
            "slot {running} runs, but slot {other} was confirmed last and used up its starts without becoming healthy; \
             it gets one more at the next restart, and an update replaces it"
        );
        machine.complain(&text);
        warn("ConfirmedSlotRuns", "False", "OtherSlotStarted", &text);
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.facts.as_ref().is_none_or(|facts| facts.confirmed)
    }

    /// Whether the machine has to restart into the other slot.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(crate) fn node_ended(&mut self, how: &str) {
        self.node_ends = self.node_ends.saturating_add(1);
        how.clone_into(&mut self.last_end);
    }

    /// Confirms the slot or gives it up; what to say about it.
    pub(crate) fn look(&mut self, is_up: bool, now: Instant) -> Option<String> {
        let slot = self.facts.as_ref()?.slot;
        if self.confirm_at.is_some_and(|at| now < at) {
            return None;
        }
        let result = match self.decide(is_up, now) {
            Decision::Wait => return None,
            Decision::Commit => {
                self.commit(slot).or_else(|error| self.not_confirmed(slot, error, now))
            }
            Decision::GiveUp(why) => self.give_up(slot, &why),
        };
        Some(result.unwrap_or_else(|error| format!("slot {slot}: {error}")))
    }

    /// Tries again later; a slot on trial only as long as that lasts.
    fn not_confirmed(&mut self, slot: Slot, error: Error, now: Instant) -> Result<String, Error> {
        self.confirm_at = Some(now + CONFIRM_AGAIN);
        let is_over = |trial: &Trial| now.saturating_duration_since(trial.since) >= trial.within();
        if self.trial.as_ref().is_some_and(is_over) {
            return self.give_up(slot, &format!("cannot be confirmed: {error}"));
        }
        Err(error)
    }

    /// A start that is no trial is good as soon as the node is up.
    fn decide(&self, is_up: bool, now: Instant) -> Decision {
        let Some(trial) = &self.trial else {
            return if is_up { Decision::Commit } else { Decision::Wait };
        };
        let seen = Seen {
            is_up,
            health: Health::read(Path::new(Places::HEALTH)),
            ends: self.node_ends,
            last_end: self.last_end.clone(),
            lasted: now.saturating_duration_since(trial.since),
        };
        decide(&seen, trial.within())
    }

    fn confirm(&mut self, slot: Slot) -> Result<String, Error> {
        match self.confirmed_other {
            Some(_) => loader().stand_in(slot)?,
            None => loader().confirm(slot)?,
        }
        self.confirmed();
        Ok(format!("slot {slot} started healthily"))
    }

    fn commit(&mut self, slot: Slot) -> Result<String, Error> {
        let Some(trial) = &self.trial else { return self.confirm(slot) };
        let update = trial.update.clone();
        loader().confirm(slot)?;
        let journal = Journal::read(&folder())?;
        let reason = format!("{} runs in slot {slot}", update.version);
        finish(journal, &update, Verdict::Committed, reason)?;
        self.trial = None;
        self.settled();
        self.confirmed();
        Ok(format!("slot {slot} started healthily, {} is committed", update.version))
    }

    fn give_up(&mut self, slot: Slot, why: &str) -> Result<String, Error> {
        let Some(trial) = &self.trial else { return Ok(String::new()) };
        let update = trial.update.clone();
        let reason = format!("{} in slot {slot} {why}", update.version);
        // Restart whatever comes: a slot that is not confirmed runs out of starts by itself.
        self.given_up = true;
        let mut journal = Journal::read(&folder())?;
        journal.state = State::FallingBack { update, reason: reason.clone() };
        journal.write(&folder())?;
        loader().reject(slot)?;
        Ok(reason)
    }

    /// Lets the boot loader try the slot that was written, if there is one: the word for the firmware, and what to say.
    pub(crate) fn arm(&mut self) -> Option<(Option<&'static CStr>, String)> {
        let journal = Journal::read(&folder()).ok()?;
        match journal.state {
            State::Staged(_) => arm(journal).map_or_else(|text| Some((None, text)), Some),
            _ => None,
        }
    }

    fn settled(&mut self) {
        if let Some(facts) = &mut self.facts {
            facts.settled = true;
        }
    }

    fn confirmed(&mut self) {
        if let Some(facts) = &mut self.facts {
            facts.confirmed = true;
        }
        self.tell();
    }

    /// Tells the node what PID 1 knows.
    fn tell(&mut self) {
        let Some(facts) = &mut self.facts else { return };
        facts.trial = self.trial.is_some();
        // Without these the node takes no updates and tells no notices, and nothing else depends on them.
        let _ = std::fs::create_dir_all(NOTICES);
        let _ = facts.write(Path::new(Places::FACTS));
    }
}

fn folder() -> std::path::PathBuf {
    Path::new(DATA).join(FOLDER)
}

fn loader() -> Box<dyn Loader> {
    <dyn Loader>::of(&BootPartition::mounted(BOOT.into()))
}

fn facts(machine: &Machine) -> Option<BootFacts> {
    let line = machine.command_line.as_ref()?;
    let device = |slot| boot_disk::partition(line.disk, layout::root(slot)).ok();
    Some(BootFacts {
        slot: line.slot,
        confirmed: false,
        disk: line.disk,
        root_a: device(Slot::A)?,
        root_b: device(Slot::B)?,
        settled: false,
        trial: false,
    })
}

/// Keeps the datastore aside and lets the boot loader try the slot. When that fails the update has failed.
fn arm(mut journal: Journal) -> Result<(Option<&'static CStr>, String), String> {
    let State::Staged(update) = journal.state.clone() else { return Err(String::new()) };
    let armed = ota::keep(Path::new(DATA), &folder()).and_then(|()| loader().try_slot(update.to));
    let text = format!("slot {} with {}", update.to, update.version);
    let written = match armed {
        Ok(word) => {
            let to = update.to;
            journal.state = State::Trying { update, starts: 0 };
            let written = journal.write(&folder()).map(|()| word);
            if written.is_err() {
                // Nobody would know why that slot runs. What matters is the first error.
                let _ = loader().reject(to);
            }
            written
        }
        Err(error) => {
            let reason = format!("the restart into the new slot could not be prepared: {error}");
            // What matters is the first error.
            let _ = finish(journal, &update, Verdict::Failed, reason);
            Err(error)
        }
    };
    match written {
        Ok(word) => Ok((word, format!("{text} is tried next"))),
        Err(error) => Err(format!("{text} cannot be tried: {error}")),
    }
}

/// Gives up the slot on trial that runs, as far as that can be noted: it runs out of starts by itself.
fn leave(running: Slot, mut journal: Journal, reason: String) {
    if let Some(update) = journal.state.update().cloned() {
        journal.state = State::FallingBack { update, reason };
        let _ = journal.write(&folder());
    }
    let _ = loader().reject(running);
}

/// Tells the cluster. A node that hears nothing of it runs all the same.
fn warn(condition: &str, status: &str, reason: &str, text: &str) {
    let _ = notices::add(AUTHOR, condition, status, reason, text);
}

/// Ends an update: the journal first, then what was kept for it.
fn finish(
    mut journal: Journal,
    update: &Update,
    verdict: Verdict,
    reason: String,
) -> Result<(), ota::Error> {
    journal.state = State::Idle;
    let (source, version) = (update.source.clone(), update.version.to_string());
    journal.last = Some(Outcome { verdict, source, version, reason });
    journal.write(&folder())?;
    ota::forget(&folder())
}

/// Ends the machine this early: nothing but mounts has to be left.
fn restart(machine: &mut Machine, word: Option<&CStr>) {
    for failure in machine.at_length(DATASTORE_LIMIT, crate::mounts::teardown) {
        machine.console.say("init", &format!("unmount {failure}"));
    }
    machine.console.say("init", "restart");
    let result = word.map_or_else(sys::machine::restart, sys::machine::restart_with);
    machine.console.say("init", &format!("restart failed: {result:?}"));
}
