//! A watch: which changes of a range a reader has not seen yet.

use crate::{Error, Event, Revision};

/// The changes of a range, in order. Ends when dropped.
pub struct Watch {}

impl Watch {
    /// Waits for the next changes. Never empty; safe to cancel. After an error the watch is finished: list again.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        todo!()
    }

    /// Up to this revision, every change of the range was returned by `next`.
    pub fn progress(&self) -> Revision {
        todo!()
    }
}
