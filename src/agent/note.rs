//! When a pod is written to the node's record: at once if what has changed decides a start, else now and then.

use std::time::Duration;

use crate::record::Cause;

/// Changes of objects and annotations are recorded at most this often.
const EVERY: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(60);

/// What of one pod is on disk.
#[derive(Default)]
pub(crate) struct Note {
    /// There is a record, of this agent or of an earlier one.
    pub(crate) exists: bool,
    /// What the last record was written for.
    written: Option<Cause>,
    writing: Option<Cause>,
    failed: bool,
    not_before: Option<Duration>,
    /// How often the pod's objects have changed.
    pub(crate) objects: u64,
}

impl Note {
    pub(crate) fn new(exists: bool) -> Note {
        Note { exists, ..Note::default() }
    }

    /// Whether the record has to be written now; then `done` must follow.
    pub(crate) fn due(&mut self, cause: Cause, now: Duration) -> bool {
        if self.writing.is_some() || self.written.as_ref().is_some_and(|w| w.holds(&cause)) {
            return false;
        }
        let presses = self.written.as_ref().is_none_or(|w| w.presses(&cause));
        if self.not_before.is_some_and(|at| at > now) && (self.failed || !presses) {
            return false;
        }
        self.writing = Some(cause);
        true
    }

    pub(crate) fn done(&mut self, written: bool, now: Duration) {
        let cause = self.writing.take();
        self.failed = !written;
        self.not_before = Some(now + if written { EVERY } else { RETRY });
        if written {
            self.written = cause;
            self.exists = true;
        }
    }

    pub(crate) fn busy(&self) -> bool {
        self.writing.is_some()
    }

    /// When to ask again although nothing happens.
    pub(crate) fn wake(&self, now: Duration) -> Option<Duration> {
        self.not_before.filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Pod, PodStatus};

    use super::*;

    fn cause(phase: &str, objects: u64) -> Cause {
        let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
        Cause::new(&Arc::new(Pod::default()), &status, objects)
    }

    #[test]
    fn what_presses_is_written_at_once_and_the_rest_in_time() {
        let at = Duration::from_secs;
        let mut note = Note::default();
        assert!(note.due(cause("Pending", 0), at(1)));
        assert!(!note.due(cause("Running", 0), at(1)), "one write at a time");
        note.done(true, at(1));
        assert!(!note.due(cause("Pending", 0), at(2)), "nothing has changed");
        assert!(note.due(cause("Running", 0), at(2)));
        note.done(true, at(2));
        assert!(!note.due(cause("Running", 1), at(3)));
        assert_eq!(note.wake(at(3)), Some(at(32)));
        assert!(note.due(cause("Running", 1), at(32)));
        note.done(false, at(32));
        assert!(!note.due(cause("Failed", 1), at(33)), "a full disk is not asked all the time");
        assert!(note.due(cause("Failed", 1), at(92)));
    }
}
