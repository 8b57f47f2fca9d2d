//! The change log: the last changes, in memory, bounded by events and by bytes.

use std::collections::VecDeque;

use crate::{Error, Event, Options, Revision};

pub(crate) struct History {
    /// Ordered by revision, which may have gaps where writes failed.
    events: VecDeque<Event>,
    bytes: usize,
    /// Every change after this revision is in `events`.
    floor: Revision,
    /// The revision of the newest change.
    last: Revision,
    events_max: usize,
    bytes_max: usize,
}

impl History {
    pub(crate) fn new(start: Revision, options: &Options) -> History {
        History {
            events: VecDeque::new(),
            bytes: 0,
            floor: start,
            last: start,
            events_max: options.history_events_max,
            bytes_max: options.history_bytes_max,
        }
    }

    pub(crate) fn last(&self) -> Revision {
        self.last
    }

    /// Whether the change at `revision` was dropped from the log.
    pub(crate) fn has_dropped(&self, revision: Revision) -> bool {
        revision <= self.floor
    }

    /// Whether everything that happened after `revision` is still known.
    pub(crate) fn check(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.last {
            return Err(Error::Future { requested: revision, current: self.last });
        }
        if revision < self.floor {
            return Err(Error::Compacted { oldest: self.floor });
        }
        Ok(())
    }

    /// The changes after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl Iterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.entry.modified <= revision);
        self.events.range(start..)
    }

    /// Adds the newest change and drops the oldest ones over the bounds. The newest stays whatever its size, or its
    /// watchers could never see it.
    pub(crate) fn push(&mut self, event: Event) {
        self.last = event.entry.modified;
        self.bytes += size_of_event(&event);
        self.events.push_back(event);
        while self.events.len() > 1
            && (self.events.len() > self.events_max || self.bytes > self.bytes_max)
        {
            if let Some(dropped) = self.events.pop_front() {
                self.bytes -= size_of_event(&dropped);
                self.floor = dropped.entry.modified;
            }
        }
    }
}

/// Counts a previous value even where an older event shares it: the older one goes first.
fn size_of_event(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |previous| previous.value.len());
    size_of::<Event>() + event.entry.key.len() + event.entry.value.len() + previous
}
