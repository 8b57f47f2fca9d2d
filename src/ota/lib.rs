//! Updates of the appliance: what a bundle is, who may make one, when it is refused, how it gets into the other slot,
//! and what becomes of the slot that is tried.
//!
//! Decisions are pure: [`State`] is the machine from "being written" to "committed" or "fell back", [`judge`] says which
//! bundles are refused. Input and output are files and devices named by [`Places`], a [`Source`] of bytes and two small
//! [`Loader`]s. This crate knows no Kubernetes and no network: where the bytes come from and whether the node is healthy
//! is the caller's business.
//!
//! Start with [`State`] (`machine.rs`), then [`Bundle`] (`bundle.rs`) and [`install`](crate::install::install).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod blocks;
mod board;
mod boot_partition;
mod bundle;
mod datastore;
mod digest;
mod error;
mod fetch;
mod health;
mod install;
mod journal;
mod judge;
mod keys;
mod loader;
mod machine;
mod manifest;
mod places;
mod slot_files;
mod source;
#[cfg(test)]
mod tests;

pub use blocks::{BLOCK_LEN, INDEX, fill, index_of};
pub use board::{BootFacts, Release};
pub use boot_partition::BootPartition;
pub use bundle::{Bundle, encode_head};
pub use datastore::{clear_put_back_mark, forget, keep, put_back, was_put_back};
pub use digest::{Sha256, hex};
pub use error::{Error, Refusal};
pub use health::Health;
pub use install::{Progress, Request, check, install};
pub use journal::{Journal, Outcome, Verdict};
pub use judge::{Facts, judge};
pub use keys::Keys;
pub use loader::{Firmware, Loader, Tryboot, Uboot};
pub use machine::{Before, BootStep, State, Update};
pub use manifest::{Compression, FORMAT, Manifest, Part, ROOT};
pub use places::Places;
pub use source::{FileSource, Source};
