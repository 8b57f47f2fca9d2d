//! The model that judges what a child process said about its store: a list of changes by revision, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::Revision;

/// What a key holds: the revision of the write, and the identity of the value.
type Held = (Revision, String);

/// A range, and what a list said it holds.
type Listed = (String, BTreeMap<String, Held>);

/// Knows what was true when the last child ended.
#[derive(Default)]
pub(super) struct Judge {
    /// The highest revision that any child ever saw given to a write.
    given: Revision,
    /// The highest revision that any child was ever shown as that of the store.
    shown: Revision,
    held: BTreeMap<String, Held>,
    /// Writes that were not answered: for each key the values it may have got ("-" for none).
    unanswered: BTreeMap<String, BTreeSet<String>>,
    writes: usize,
    events: usize,
    pages: usize,
}

/// What one child said.
#[derive(Default)]
struct Run {
    opened: Revision,
    found: BTreeMap<String, Held>,
    ready: bool,
    closed: bool,
    changes: BTreeMap<Revision, Change>,
    tries: BTreeMap<String, (String, String)>,
    last_of_task: BTreeMap<String, Revision>,
    answered: BTreeSet<Revision>,
    watches: BTreeMap<u64, Watched>,
    pages: BTreeMap<Revision, Vec<Listed>>,
}

#[derive(Clone, PartialEq, Debug)]
struct Change {
    key: String,
    /// "-" for a deletion.
    id: String,
}

struct Watched {
    range: String,
    after: Revision,
    /// Each change seen, with the revision of what it replaced (0 for nothing).
    seen: BTreeMap<Revision, Revision>,
    reached: Revision,
}

impl Judge {
    /// Hears one child after its end.
    pub(super) fn hear(&mut self, journal: &[String], clean: bool) -> Result<(), String> {
        let mut run = Run::default();
        for line in journal {
            run.note(line).map_err(|wrong| format!("{wrong} in line {line:?}"))?;
        }
        if clean && !run.closed {
            return Err("the child did not close its store".to_owned());
        }
        if run.opened == 0 {
            return Ok(());
        }
        self.judge_start(&run)?;
        if !run.ready {
            // Killed while it listed what it found: the next child tells.
            self.shown = run.opened;
            return Ok(());
        }
        if let Some((first, _)) =
            run.changes.first_key_value().filter(|(first, _)| **first <= run.opened)
        {
            return Err(format!(
                "revision {first} was given again, the store opened at {}",
                run.opened
            ));
        }
        run.watches.iter().try_for_each(|(number, watch)| watch.judge(*number, &run.changes))?;
        let held = run.replay()?;
        self.events += run.watches.values().map(|watch| watch.seen.len()).sum::<usize>();
        self.pages += run.pages.values().map(Vec::len).sum::<usize>();
        self.writes += run.answered.len();
        self.remember(run, held);
        Ok(())
    }

    pub(super) fn summary(&self) -> String {
        let Judge { writes, events, pages, given, .. } = self;
        format!(
            "{writes} acknowledged writes, {events} events and {pages} lists agree, last revision {given}"
        )
    }

    /// Nothing that was acknowledged or seen may be missing, and nothing else may be there.
    fn judge_start(&self, run: &Run) -> Result<(), String> {
        let Judge { given, shown, .. } = self;
        if run.opened <= *given || run.opened < *shown {
            let opened = run.opened;
            return Err(format!("opened at {opened}, but {given} was given and {shown} shown"));
        }
        let keys: BTreeSet<&String> = run.found.keys().chain(self.held.keys()).collect();
        for key in keys {
            if key.starts_with("/memory/") {
                match run.found.get(key) {
                    Some(_) => return Err(format!("memory key {key} outlived the process")),
                    None => continue,
                }
            }
            let (before, after) = (self.held.get(key), run.found.get(key));
            if before == after || (after.is_none() && !run.ready) {
                continue;
            }
            let id = after.map_or("-", |(_, id)| id);
            let possible = self.unanswered.get(key).is_some_and(|ids| ids.contains(id));
            let newer = after.is_none_or(|(revision, _)| {
                *revision > before.map_or(0, |(revision, _)| *revision)
            });
            if !possible || !newer {
                return Err(format!("{key} was {before:?} and came back as {after:?}"));
            }
        }
        Ok(())
    }

    fn remember(&mut self, run: Run, held: BTreeMap<String, Held>) {
        if let Some((last, _)) = run.changes.last_key_value() {
            self.given = *last;
        }
        let reached = run.watches.values().map(|watch| watch.reached);
        let listed = run.pages.last_key_value().map(|(revision, _)| *revision);
        self.shown = reached.chain(listed).fold(run.opened, Revision::max);
        self.held = held;
        self.unanswered.clear();
        for (key, id) in run.tries.into_values() {
            self.unanswered.entry(key).or_default().insert(id);
        }
    }
}

impl Run {
    fn note(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["open", revision] => self.opened = parse(revision)?,
            ["found", key, modified, id] => {
                self.found.insert(key.to_owned(), (parse(modified)?, id.to_owned()));
            }
            ["ready"] => self.ready = true,
            ["closed"] => self.closed = true,
            ["try", task, key, id] => {
                self.tries.insert(task.to_owned(), (key.to_owned(), id.to_owned()));
            }
            ["no", task] => drop(self.tries.remove(task)),
            ["done", task, revision] => self.acknowledge(task, parse(revision)?)?,
            ["watch", number, range, after] => {
                let (range, after) = (range.to_owned(), parse(after)?);
                let watch = Watched { range, after, seen: BTreeMap::new(), reached: after };
                self.watches.insert(parse(number)?, watch);
            }
            ["saw", number, revision, key, id, previous] => {
                let revision = parse(revision)?;
                self.learn(revision, Change { key: key.to_owned(), id: id.to_owned() })?;
                self.watch(number)?.see(revision, parse(previous)?)?;
            }
            ["at", number, revision] => {
                let watch = self.watch(number)?;
                watch.reached = watch.reached.max(parse(revision)?);
            }
            ["page", revision, range, ref listed @ ..] => {
                let listed =
                    listed.iter().map(|entry| listed_entry(entry)).collect::<Result<_, _>>()?;
                self.pages.entry(parse(revision)?).or_default().push((range.to_owned(), listed));
            }
            _ => return Err("the child complains".to_owned()),
        }
        Ok(())
    }

    fn acknowledge(&mut self, task: &str, revision: Revision) -> Result<(), String> {
        let (key, id) = self.tries.remove(task).ok_or("an answer to nothing")?;
        let last = self.last_of_task.insert(task.to_owned(), revision).unwrap_or(0);
        if last >= revision || !self.answered.insert(revision) {
            return Err("a revision was given twice or went back".to_owned());
        }
        self.learn(revision, Change { key, id })
    }

    /// Every witness of a revision must tell the same.
    fn learn(&mut self, revision: Revision, change: Change) -> Result<(), String> {
        match self.changes.get(&revision) {
            Some(known) if *known != change => Err(format!("known is {known:?}")),
            Some(_) => Ok(()),
            None => {
                self.changes.insert(revision, change);
                Ok(())
            }
        }
    }

    fn watch(&mut self, number: &str) -> Result<&mut Watched, String> {
        self.watches.get_mut(&parse(number)?).ok_or_else(|| "an unknown watch".to_owned())
    }

    /// Goes through the changes from what was found, and compares what was listed and what was told as replaced, as far
    /// as the watch over everything (number 0) reached: up to there every change is known. Returns what is held last.
    fn replay(&self) -> Result<BTreeMap<String, Held>, String> {
        let complete = self.watches.get(&0).map_or(self.opened, |watch| watch.reached);
        let mut held = self.found.clone();
        let mut pages = self.pages.range(..=complete).peekable();
        for (revision, change) in &self.changes {
            while let Some((at, listed)) = pages.next_if(|(at, _)| **at < *revision) {
                judge_pages(*at, listed, &held)?;
            }
            let replaced = held.get(&change.key).map_or(0, |(modified, _)| *modified);
            for watch in self.watches.values().filter(|_| *revision <= complete) {
                if watch.seen.get(revision).is_some_and(|told| *told != replaced) {
                    return Err(format!(
                        "revision {revision} replaced {replaced}, not {:?}",
                        watch.seen[revision]
                    ));
                }
            }
            if change.id == "-" {
                held.remove(&change.key);
            } else {
                held.insert(change.key.clone(), (*revision, change.id.clone()));
            }
        }
        for (at, listed) in pages {
            judge_pages(*at, listed, &held)?;
        }
        Ok(held)
    }
}

impl Watched {
    fn see(&mut self, revision: Revision, previous: Revision) -> Result<(), String> {
        let last = self.seen.last_key_value().map_or(self.after, |(revision, _)| *revision);
        if revision <= last {
            return Err(format!("a watch went from {last} to {revision}"));
        }
        self.seen.insert(revision, previous);
        self.reached = self.reached.max(revision);
        Ok(())
    }

    /// A watch must have seen exactly the changes of its range, up to where it says it is.
    fn judge(&self, number: u64, changes: &BTreeMap<Revision, Change>) -> Result<(), String> {
        for (revision, change) in changes.range(self.after + 1..self.reached + 1) {
            let seen = self.seen.contains_key(revision);
            if seen != covers(&self.range, &change.key) {
                let Watched { range, after, reached, .. } = self;
                let verb = if seen { "saw" } else { "missed" };
                return Err(format!(
                    "watch {number} of {range} from {after} to {reached} {verb} {revision} {change:?}"
                ));
            }
        }
        Ok(())
    }
}

fn judge_pages(
    at: Revision,
    pages: &[Listed],
    held: &BTreeMap<String, Held>,
) -> Result<(), String> {
    for (range, listed) in pages {
        let there: BTreeMap<_, _> = held.iter().filter(|(key, _)| covers(range, key)).collect();
        let listed: BTreeMap<_, _> = listed.iter().collect();
        if there != listed {
            return Err(format!("at {at}, {range} held {there:?}, the list says {listed:?}"));
        }
    }
    Ok(())
}

fn covers(range: &str, key: &str) -> bool {
    if range.ends_with('/') { key.starts_with(range) } else { key == range }
}

fn listed_entry(entry: &str) -> Result<(String, Held), String> {
    match entry.split('=').collect::<Vec<_>>()[..] {
        [key, modified, id] => Ok((key.to_owned(), (parse(modified)?, id.to_owned()))),
        _ => Err(format!("no entry: {entry:?}")),
    }
}

fn parse(number: &str) -> Result<u64, String> {
    number.parse().map_err(|_| format!("no number: {number:?}"))
}
