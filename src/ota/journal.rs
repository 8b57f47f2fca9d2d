//! The state of updates on the data partition: two checksummed copies that are written over in place.
//!
//! They have their room from the beginning of an update on, so that its end can be noted on a full disk.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Sha256, hex};
use crate::error::Error;
use crate::machine::State;

/// Read in this order, written in the other one: a journal that a power cut has torn has a copy that is whole.
const FILES: [&str; 2] = ["journal.json", "journal.copy.json"];
/// Files are as long as a multiple of this, padded with spaces.
const LENGTH_UNIT: usize = 64 * 1024;
/// By how much the text may grow until the end of the update.
const GROWTH_MAX: usize = 8 * 1024;
/// The last member of the object: the SHA-256 of the text without it.
const SUM: &str = ",\"sum\":\"";
const SUM_END: &str = "\"}";

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
        let mut first = None;
        for name in FILES {
            match read_copy(&folder.join(name)) {
                Ok(Some(journal)) => return Ok(journal),
                Ok(None) => {}
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or_else(|| Ok(Journal::default()), Err)
    }

    /// Writes the journal; when this returns, a power cut does not lose it.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let [journal, copy] = FILES.map(|name| folder.join(name));
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let text = serde_json::to_string(self)
            .map_err(|source| Error::Format { path: journal.clone(), source })?;
        let text = sealed(&text);
        // One that cannot be written has to last until the journal is torn, too.
        let _ = write_copy(&copy, &text);
        write_copy(&journal, &text)
    }

    /// Ends an update that is being written, for `reason`.
    pub fn give_up(mut self, folder: &Path, verdict: Verdict, reason: String) -> Result<(), Error> {
        let State::Writing(update) = self.state else { return Ok(()) };
        let (source, version) = (update.source, update.version.to_string());
        self.state = State::Idle;
        self.last = Some(Outcome { verdict, source, version, reason });
        self.write(folder)
    }
}

fn read_copy(path: &Path) -> Result<Option<Journal>, Error> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::file("read", path))?,
    };
    let text = bytes.trim_ascii_end();
    if !is_whole(text) {
        let torn = io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong");
        return Err(Error::file("read", path)(torn));
    }
    serde_json::from_slice(text)
        .map(Some)
        .map_err(|source| Error::Format { path: path.to_owned(), source })
}

/// In place where there is room already.
fn write_copy(path: &Path, text: &str) -> Result<(), Error> {
    let there = fs::metadata(path).map_or(0, |data| usize::try_from(data.len()).unwrap_or(0));
    let is_there = there >= text.len() && there >= LENGTH_UNIT;
    let length = match is_there {
        true => there,
        false => (text.len() + GROWTH_MAX).next_multiple_of(LENGTH_UNIT),
    };
    let mut padded = text.as_bytes().to_vec();
    padded.resize(length, b' ');
    if !is_there {
        return sys::atomic_write(path, &padded, 0o600).map_err(Error::file("write", path));
    }
    let file = fs::OpenOptions::new().write(true).open(path);
    let file = file.map_err(Error::file("open", path))?;
    file.write_all_at(&padded, 0).map_err(Error::file("write", path))?;
    file.sync_data().map_err(Error::file("sync", path))
}

fn sealed(text: &str) -> String {
    let open = text.strip_suffix('}').unwrap_or(text);
    format!("{open}{SUM}{}{SUM_END}", hex(&Sha256::of(text.as_bytes())))
}

/// One without a checksum is of a version that replaced the file as a whole.
fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    match text.strip_suffix(SUM_END).and_then(|text| text.rsplit_once(SUM)) {
        Some((open, sum)) => hex(&Sha256::of(format!("{open}}}").as_bytes())) == sum,
        None => true,
    }
}
