//! The values that go in and out of the store.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Counts writes, over all keys and over restarts; 0 is before the first write.
pub type Revision = u64;

/// A key with its current value. Cloning is cheap: key and value are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision of the write that made the key exist.
    pub created: Revision,
    /// Revision of the last write to the key.
    pub modified: Revision,
}

/// Values may be secret, so only their length is shown.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("created", &self.created)
            .field("modified", &self.modified)
            .finish()
    }
}

/// A value to be written.
#[derive(Clone)]
pub struct NewValue {
    pub bytes: Bytes,
    /// Offset in `bytes` at which the decimal revision of this write is inserted, so that a value can carry its own
    /// revision.
    pub stamp: Option<usize>,
}

impl From<Bytes> for NewValue {
    fn from(bytes: Bytes) -> Self {
        NewValue { bytes, stamp: None }
    }
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Modified(Revision),
}

/// Which part of a range to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Start behind this key (the full key of the last entry of the page before).
    pub after: Option<String>,
    /// At most so many entries; 0 is no limit.
    pub limit: usize,
    /// The state as it was at this revision, as far back as the change log reaches.
    pub at: Option<Revision>,
}

/// A part of a range, ordered by key.
#[derive(Clone, Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The revision at which all of the page was true.
    pub revision: Revision,
    /// How many entries of the range come after this page.
    pub remaining: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key. `entry.modified` is the revision of the change.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
    /// The entry written. For a deletion: the key, the revision it was created at, no value, and the revision of the
    /// deletion.
    pub entry: Entry,
    /// What the key held before; `None` if this change created it.
    pub previous: Option<Entry>,
}
