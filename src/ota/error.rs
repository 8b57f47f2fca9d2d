//! Why an update is refused, and what can go wrong with one that was not.

use std::io;
use std::path::{Path, PathBuf};

/// A reason not to begin: nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is no bundle: {0}")]
    NotABundle(String),
    #[error("the bundle's signature is not valid for any key this image trusts: {0}")]
    Signature(String),
    #[error("this image trusts no key, so it takes no updates: {0} holds none")]
    NoKeys(PathBuf),
    #[error("the bundle's manifest: {0}")]
    Manifest(String),
    #[error("the bundle is for board {wanted}, this is {here}")]
    Board { wanted: String, here: String },
    #[error("the bundle has version {offered}, which runs already")]
    Same { offered: String },
    #[error(
        "the bundle's version {offered} is older than {running}, which runs; a downgrade has to be asked for"
    )]
    Downgrade { offered: String, running: String },
    #[error(
        "the bundle can be installed from version {minimum} on, {running} runs; install one in between first"
    )]
    TooOld { minimum: String, running: String },
    #[error("the bundle's root of {need} bytes does not fit into slot {slot} of {room} bytes")]
    SlotTooSmall { slot: &'static str, need: u64, room: u64 },
    #[error(
        "the bundle's boot files of {need} bytes do not fit into the boot partition, where {room} bytes are free for slot {slot}"
    )]
    BootTooSmall { slot: &'static str, need: u64, room: u64 },
    #[error("the copy of the datastore needs {need} bytes of the data partition, {room} are free")]
    NoSpace { need: u64, room: u64 },
    #[error("the source has {found} bytes, the bundle {need}")]
    Truncated { found: u64, need: u64 },
    #[error("slot {0} has not been confirmed since the start of the machine; ask again when it is")]
    Unconfirmed(&'static str),
    #[error("an update to {0} is on trial; ask again when it is committed or has fallen back")]
    OnTrial(String),
    #[error("an update to {0} waits for the restart of the machine")]
    Waiting(String),
    #[error(
        "this board's firmware cannot be told to try a slot, so it takes no updates: {0}; only Raspberry Pi's own kernels have \
         this device"
    )]
    NoTrials(String),
    #[error("an update to {0} is being written")]
    Writing(String),
}

/// What ended an update.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("reading the bundle: {0}")]
    Source(io::Error),
    #[error(
        "part {part} of the bundle is damaged: its hash is {found}, the manifest says {wanted}"
    )]
    Damaged { part: String, wanted: String, found: String },
    #[error(
        "slot {slot} reads back differently from what was written to it ({part}): the storage is failing"
    )]
    ReadBack { slot: &'static str, part: String },
    #[error("telling the firmware to try a slot: {0}")]
    Firmware(io::Error),
    #[error("what works before the update cannot be noted, so nothing is tried: {0}")]
    Before(String),
    #[error("stopped; it goes on when the node is up again")]
    Stopped,
    #[error("{path}: {source}")]
    Format { path: PathBuf, source: serde_json::Error },
    #[error("{path}: {source}")]
    SlotState { path: PathBuf, source: disk::Error },
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { operation, path, source }
    }
}
