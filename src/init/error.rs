//! What can go wrong while the machine comes up.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("mount {kind} on {target}: {source}")]
    Mount { kind: &'static str, target: PathBuf, source: io::Error },
    #[error("kernel command line has no valid {0}")]
    CommandLine(&'static str),
    #[error("no partition {number} on a disk with identifier {disk:08x}")]
    NoPartition { disk: u32, number: usize },
    #[error("device-mapper: {0}")]
    DeviceMapper(io::Error),
    #[error("{path} is larger than {max} bytes and is not read")]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{0}")]
    Disk(#[from] disk::Error),
    #[error("{0}")]
    Upgrade(#[from] ota::Error),
    #[error("{operation}: {source}")]
    Call { operation: &'static str, source: io::Error },
    #[error("{0} of the things above failed")]
    Several(usize),
    #[error("clock: {0}")]
    Clock(String),
    #[error("network: {0}")]
    Network(String),
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { operation, path, source }
    }

    pub(crate) fn call<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::Call { operation, source: source.into() }
    }
}
