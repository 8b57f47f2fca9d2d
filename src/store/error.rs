//! Everything that can go wrong in the store.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Entry, Revision};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The key is not in the state that the write expected. A deletion of a key that does not exist answers with
    /// `current: None`, whatever it expected.
    #[error("write conflicts with the stored state: {}", describe(.current))]
    Conflict { current: Option<Entry> },
    /// The revision is older than the change log: list again. Everything after `oldest` can be had.
    #[error("revision is compacted, the oldest available is {oldest}")]
    Compacted { oldest: Revision },
    /// The revision was not given out by this store yet.
    #[error("revision {requested} is in the future, the store is at {current}")]
    Future { requested: Revision, current: Revision },
    /// The watch fell behind the change log: list again.
    #[error("watch fell behind the change log")]
    Lagged,
    #[error("invalid key {key:?}: {reason}")]
    InvalidKey { key: String, reason: &'static str },
    #[error("value of {key} has {size} bytes, the limit is {limit}")]
    TooLarge { key: Arc<str>, size: usize, limit: usize },
    #[error("stamp offset {offset} is outside of the value of {key} ({size} bytes)")]
    InvalidStamp { key: Arc<str>, offset: usize, size: usize },
    /// The size cap of the database, the disk, or the bytes for memory-only keys are used up. Deleting helps.
    #[error("no space to write to {place}: {detail}")]
    Full { place: Arc<str>, detail: Arc<str> },
    #[error("cannot open database {}: {detail}", .path.display())]
    Open { path: PathBuf, detail: Arc<str> },
    #[error("database {} is in use by another process", .path.display())]
    InUse { path: PathBuf },
    #[error("database {} is corrupt: {detail}", .path.display())]
    Corrupt { path: PathBuf, detail: Arc<str> },
    #[error("cannot read database {}: {detail}", .path.display())]
    Read { path: PathBuf, detail: Arc<str> },
    #[error("cannot write database {}: {detail}", .path.display())]
    Write { path: PathBuf, detail: Arc<str> },
    #[error("too many watches, the limit is {limit}")]
    TooManyWatches { limit: usize },
    #[error("store is closed")]
    Closed,
}

fn describe(current: &Option<Entry>) -> String {
    match current {
        Some(entry) => format!("{} was last written at revision {}", entry.key, entry.modified),
        None => "the key does not exist".to_owned(),
    }
}
