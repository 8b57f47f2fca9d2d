//! What lies on a board's disk, as pure readers and writers: partition table, slot state, slot description.
//!
//! The image tool on the host and PID 1 on the board use the same code, so they cannot disagree.
//! This crate does no input or output, knows no clock, and never sees a file name.
//! Start with [`layout`] (what is where), then [`state`] (which slot the boot loader takes).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod environment;
pub mod layout;
pub mod mbr;
pub mod slot;
pub mod state;

/// What can be wrong with bytes or text read from a disk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("environment of {need} bytes does not fit into {size}")]
    EnvironmentTooLarge { need: usize, size: usize },
    #[error("environment is only {0} bytes long")]
    EnvironmentTooShort(usize),
    #[error("environment has a bad checksum: stored {stored:08x}, computed {computed:08x}")]
    EnvironmentChecksum { stored: u32, computed: u32 },
    #[error("environment entry {0:?} is not name=value")]
    EnvironmentEntry(String),
    #[error("slot state lacks {0}")]
    StateMissing(&'static str),
    #[error("slot state {name} has the value {value:?}")]
    StateValue { name: &'static str, value: String },
    #[error("no partition table: {0}")]
    PartitionTable(&'static str),
    #[error("partition {number}: {reason}")]
    Partition { number: usize, reason: &'static str },
    #[error("verity description {text:?}: {reason}")]
    Verity { text: String, reason: &'static str },
    #[error("unknown slot {0:?}")]
    Slot(String),
}

#[cfg(test)]
mod tests;
