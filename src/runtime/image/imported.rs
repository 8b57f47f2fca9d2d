//! Which archives were imported already, so that a node that starts again does not read, and unpack to its disk, what it
//! knows; and so that an old archive does not take its tag back from a newer image.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hasher};
use super::error::Error;
use super::store::Image;

/// Read from each end of an archive to tell it from another of the same size and time.
const SAMPLE_BYTES: u64 = 64 * 1024;
/// Longest note read back.
const NOTE_BYTES_MAX: u64 = 1024 * 1024;

/// The notes of a store, one file per archive path.
pub(super) struct Imported {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    path: PathBuf,
    fingerprint: Digest,
    pub(super) images: Vec<Digest>,
    /// Tags the archive brought; each means some image since, perhaps a newer one.
    pub(super) references: Vec<String>,
}

impl Imported {
    /// Opens the directory; notes of archives that are gone go.
    pub(super) fn open(directory: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(Error::io("create directory", &directory))?;
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let path = entry.map_err(Error::io("list", &directory))?.path();
            if !read(&path).is_some_and(|note| note.path.exists()) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(Self { directory })
    }

    /// What the archive at `path` brought, if it is the one that was imported from there.
    pub(super) fn find(&self, path: &Path, fingerprint: &Digest) -> Option<Note> {
        read(&self.note_path(path))
            .filter(|note| note.path == path && note.fingerprint == *fingerprint)
    }

    pub(super) fn remember(
        &self,
        path: &Path,
        fingerprint: Digest,
        images: &[Image],
    ) -> Result<(), Error> {
        let ids = images.iter().map(|image| Digest::parse(&image.id)).collect::<Result<_, _>>()?;
        let references = images.iter().flat_map(|image| image.references.iter().cloned()).collect();
        let note = Note { path: path.to_owned(), fingerprint, images: ids, references };
        let at = self.note_path(path);
        let bytes =
            serde_json::to_vec(&note).map_err(|error| Error::invalid("import note", error))?;
        // Not synced: a lost note costs one more import.
        sys::replace_file(&at, &bytes, 0o600).map_err(Error::io("write", &at))
    }

    fn note_path(&self, path: &Path) -> PathBuf {
        self.directory
            .join(format!("{}.json", Digest::of(path.as_os_str().as_encoded_bytes()).hex()))
    }
}

/// Size, time and both ends of a file.
pub(super) fn fingerprint(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut hasher = Hasher::new();
    hasher.update(&metadata.len().to_le_bytes());
    hasher.update(&metadata.mtime().to_le_bytes());
    hasher.update(&metadata.mtime_nsec().to_le_bytes());
    let mut sample = Vec::new();
    (&mut file).take(SAMPLE_BYTES).read_to_end(&mut sample)?;
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(SAMPLE_BYTES)))?;
    (&mut file).take(SAMPLE_BYTES).read_to_end(&mut sample)?;
    hasher.update(&sample);
    Ok(hasher.finish())
}

fn read(path: &Path) -> Option<Note> {
    if fs::metadata(path).ok()?.len() > NOTE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
