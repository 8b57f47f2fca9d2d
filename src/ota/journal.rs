//! The state of updates on the data partition: one file, replaced as a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::machine::State;

const FILE: &str = "journal.json";

/// What is known of updates: the one under way and how the last one ended.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct Journal {
    pub state: State,
    pub last: Option<Outcome>,
}

/// How an update ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub verdict: Verdict,
    pub source: String,
    /// The bundle's version; empty when it was refused before that was known.
    pub version: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// The new version runs and stays.
    Committed,
    /// It was tried and the old one came back.
    FellBack,
    /// Nothing was written.
    Refused,
    /// Writing it failed; nothing was tried.
    Failed,
}

impl Verdict {
    /// The word for conditions and events.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Committed => "Committed",
            Verdict::FellBack => "FellBack",
            Verdict::Refused => "Refused",
            Verdict::Failed => "Failed",
        }
    }
}

impl Journal {
    /// Reads the journal of a folder; one that is not there says that nothing ever happened.
    pub fn read(folder: &Path) -> Result<Journal, Error> {
        let path = file(folder);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| Error::Format { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Journal::default()),
            Err(error) => Err(Error::file("read", &path)(error)),
        }
    }

    /// Writes the journal; when this returns, a power cut does not lose it.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = file(folder);
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let bytes = serde_json::to_vec(self)
            .map_err(|source| Error::Format { path: path.clone(), source })?;
        sys::atomic_write(&path, &bytes, 0o600).map_err(Error::file("write", &path))
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
