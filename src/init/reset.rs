//! The request for a factory reset on the boot partition, and how far it has come.
//!
//! The request is replaced by a note before anything is wiped, and the note is taken away afterwards. So a loss of power at
//! any point only makes the next start go on, and a boot partition that cannot be written means no reset instead of one
//! at every start: the note of a start must be read back before that start may wipe.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::phases::BOOT;
use crate::{Error, mounts};

/// Asks for the data partition to be made anew; other systems like to add an ending.
const REQUESTS: [&str; 2] = ["factory-reset", "factory-reset.txt"];
/// Says that it has begun: the number of the attempt, or [`DONE`].
const NOTE: &str = "factory-reset.begun";
const DONE: &str = "done";

/// What lies on the boot partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    request: Option<PathBuf>,
    /// What the note says.
    note: Option<String>,
}

impl Found {
    pub(crate) fn on(boot: &Path) -> Found {
        let entries = fs::read_dir(boot).into_iter().flatten().flatten();
        // A folder cannot be taken away as a file can, and nobody has asked for a reset by one.
        let files = entries.map(|entry| entry.path()).filter(|path| path.is_file());
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            REQUESTS.contains(&name.as_str())
        };
        let note = fs::read_to_string(boot.join(NOTE)).ok();
        Found { request: { files }.find(named), note }
    }

    /// Whether the data partition is to be made anew.
    pub(crate) fn is_wanted(&self) -> bool {
        self.request.is_some() || self.note.as_ref().is_some_and(|note| note.trim() != DONE)
    }

    /// Whether something is left of a reset that is over.
    pub(crate) fn is_left_over(&self) -> bool {
        !self.is_wanted() && self.note.is_some()
    }

    /// Notes that a reset begins. Only when this succeeds, it may.
    pub(crate) fn begin(&self, boot: &Path) -> io::Result<()> {
        let attempts = self.note.as_ref().and_then(|note| note.trim().parse::<u32>().ok());
        let text = attempts.unwrap_or_default().saturating_add(1).to_string();
        write(&boot.join(NOTE), &text)?;
        if let Some(request) = &self.request {
            fs::remove_file(request)?;
        }
        sys::files::sync_dir(boot)
    }
}

/// Notes that the reset is done, then takes the note away: should that fail, the next start knows.
pub(crate) fn finish(boot: &Path) -> io::Result<()> {
    let note = boot.join(NOTE);
    write(&note, DONE)?;
    fs::remove_file(&note)?;
    sys::files::sync_dir(boot)
}

/// Writes in place, waits for the disk and looks whether it is there.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    if fs::read_to_string(path)? == text { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Works on the boot partition, which is writable meanwhile.
pub(crate) fn on_boot(work: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
    let boot = Path::new(BOOT);
    mounts::with_writable_boot(|| work(boot).map_err(Error::file("write on", boot)))
}

/// Asks for a reset at the next start, as an owner does.
pub(crate) fn request() -> Result<(), Error> {
    on_boot(|boot| {
        let [name, ..] = REQUESTS;
        File::create(boot.join(name))?.sync_all()?;
        sys::files::sync_dir(boot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_survives_a_cut_at_every_step_and_is_made_once() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("boot");
        // What lies there at the start; whether the partition is to be made anew; whether only something is left over.
        for (files, wanted, left_over) in [
            (&[][..], false, false),
            (&[("copepod.yaml", "")], false, false),
            (&[("FACTORY-RESET", "")], true, false),
            (&[("factory-reset.txt", "")], true, false),
            (&[("reset", "")], false, false),
            // Cut while the note was written, after it, after the request went, while the note of the end was written.
            (&[("factory-reset", ""), ("factory-reset.begun", "")], true, false),
            (&[("factory-reset", ""), ("factory-reset.begun", "1")], true, false),
            (&[("factory-reset.begun", "1")], true, false),
            (&[("factory-reset.begun", "")], true, false),
            (&[("factory-reset.begun", "done")], false, true),
            // Asked for again although the end of the last one is still noted.
            (&[("factory-reset", ""), ("factory-reset.begun", "done")], true, false),
        ] {
            fs::create_dir_all(&dir).unwrap();
            for (name, text) in files {
                fs::write(dir.join(name), text).unwrap();
            }
            let found = Found::on(&dir);
            assert_eq!((found.is_wanted(), found.is_left_over()), (wanted, left_over), "{files:?}");
            if wanted {
                found.begin(&dir).unwrap();
                let found = Found::on(&dir);
                assert!(found.is_wanted() && found.request.is_none(), "{files:?}: {found:?}");
            }
            if wanted || left_over {
                finish(&dir).unwrap();
                assert_eq!(Found::on(&dir), Found::default(), "{files:?}");
            }
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir_all(dir.join("factory-reset")).unwrap();
        assert!(!Found::on(&dir).is_wanted(), "a folder");
        // What cannot be noted must not begin.
        fs::create_dir_all(dir.join(NOTE)).unwrap();
        fs::write(dir.join("factory-reset.txt"), "").unwrap();
        let found = Found::on(&dir);
        assert!(found.is_wanted() && found.begin(&dir).is_err());
        assert!(Found::on(&dir).request.is_some());
    }
}
