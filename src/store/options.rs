//! How a store is opened, with the default of every bound.

use std::path::PathBuf;

/// Longest key.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Longest value.
pub(crate) const VALUE_BYTES_MAX: usize = 4 << 20;
/// Writes that may wait for the writer thread; more wait outside.
pub(crate) const WRITE_QUEUE_MAX: usize = 1024;
/// Writes that share one transaction.
pub(crate) const BATCH_WRITES_MAX: usize = 512;
/// Bytes of values that share one transaction (a single larger value still goes through).
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Watches at a time.
pub(crate) const WATCHES_MAX: usize = 16_384;
/// Events that one call of `Watch::next` returns.
pub(crate) const WATCH_EVENTS_MAX: usize = 256;

/// Whether a key outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk before the write is answered.
    Durable,
    /// Only in memory, gone with the process.
    Memory,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; its folder is made if missing. `None` keeps everything in memory.
    pub path: Option<PathBuf>,
    /// The class of a key. It must always give the same answer for the same key.
    pub durability: fn(&str) -> Durability,
    /// Changes kept for watches and for lists at an older revision.
    pub history_events_max: usize,
    /// Bytes of keys and values that those changes may hold.
    pub history_bytes_max: usize,
    /// Bytes of durable values kept in memory; beyond that they are read back from the file.
    pub cache_bytes_max: usize,
    /// Bytes of keys and values of memory-only entries; beyond that writes fail.
    pub memory_bytes_max: usize,
    /// Size of the database file; beyond that writes fail.
    pub disk_bytes_max: u64,
    /// Revisions left out at the start: for a file that is older than what was told by a later one.
    pub skip_revisions: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            path: None,
            durability: |_| Durability::Durable,
            history_events_max: 8192,
            history_bytes_max: 8 << 20,
            cache_bytes_max: 16 << 20,
            memory_bytes_max: 16 << 20,
            disk_bytes_max: 1 << 30,
            skip_revisions: 0,
        }
    }
}
