//! Which files are due: those never seen, those written since, and those that failed, after a growing while.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::Backoff;

use crate::folder::File;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(120);

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Worth another try by itself.
    Failed,
    /// Wrong as it is: only another content helps.
    Wrong,
}

struct Known {
    file: File,
    backoff: Backoff,
    /// When it is tried again.
    again: Option<Instant>,
}

/// All files and what became of them.
#[derive(Default)]
pub(crate) struct LoopState {
    known: BTreeMap<PathBuf, Known>,
}

impl LoopState {
    /// The files to work on now. Files that are gone are forgotten, so that they count as new when they come back.
    pub(crate) fn due(&mut self, files: &[File], now: Instant) -> Vec<File> {
        self.known.retain(|path, _| files.iter().any(|file| file.path == *path));
        let is_due = |file: &&File| match self.known.get(&file.path) {
            Some(known) if known.file == **file => known.again.is_some_and(|again| again <= now),
            _ => true,
        };
        files.iter().filter(is_due).cloned().collect()
    }

    pub(crate) fn ended(&mut self, file: File, outcome: Outcome, now: Instant) {
        let before = self.known.remove(&file.path).filter(|known| known.file == file);
        let mut backoff =
            before.map_or(Backoff::new(RETRY_FIRST, RETRY_MAX), |known| known.backoff);
        let again = (outcome == Outcome::Failed).then(|| now + backoff.failed());
        self.known.insert(file.path.clone(), Known { file, backoff, again });
    }

    /// When the next file is due without any change.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.again).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Stamp;

    fn file(name: &str, len: u64) -> File {
        let stamp = Stamp { modified: None, len };
        File { path: name.into(), addon: name.into(), stamp, is_disabled: false }
    }

    #[test]
    fn files_are_due_when_new_changed_or_failed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = LoopState::default();
        let files = [file("good", 1), file("late", 1), file("wrong", 1)];
        assert_eq!(state.due(&files, at(0)), files);
        for (file, outcome) in files.iter().zip([Outcome::Done, Outcome::Failed, Outcome::Wrong]) {
            state.ended(file.clone(), outcome, at(0));
        }
        assert_eq!(state.due(&files, at(0)), []);
        assert_eq!(state.next(), Some(at(1)));
        assert_eq!(state.due(&files, at(1)), [file("late", 1)]);
        state.ended(file("late", 1), Outcome::Failed, at(1));
        assert_eq!(state.next(), Some(at(3)), "it waits longer each time");
        let changed = [file("good", 2), file("wrong", 1)];
        assert_eq!(state.due(&changed, at(1)), [file("good", 2)]);
        assert_eq!(state.due(&files, at(1)), [file("late", 1)], "gone and back");
    }
}
