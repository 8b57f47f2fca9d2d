//! The files of the record. Blocking; called from the blocking pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::content::{NodeRecord, PodRecord};
use super::seal::{self, Damage, KEY_BYTES, Key};
use crate::paths::Paths;
use crate::volumes::place;

/// Largest file; a pod that needs more is not recorded.
const FILE_BYTES_MAX: usize = 8 << 20;
/// Most pods that are recorded, and the most they may take on the disk together.
const PODS_MAX: usize = 512;
const TOTAL_BYTES_MAX: u64 = 128 << 20;
const NAME_BYTES_MAX: usize = 128;
const NODE: &str = "node";

/// The record of one node.
pub(crate) struct Store {
    folder: PathBuf,
    key: Key,
    known: Mutex<BTreeMap<String, Entry>>,
}

/// What a file holds, so that it is not written again for nothing.
#[derive(Clone, Copy)]
struct Entry {
    essence: [u8; 32],
    bytes: u64,
}

/// The uids of the pods that the agent with this data folder has recorded.
pub fn recorded_pods(data_dir: &Path) -> BTreeSet<String> {
    names(&Paths::new(data_dir).record().join("pods")).into_iter().take(PODS_MAX).collect()
}

/// What was found at start.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) node: NodeRecord,
    pub(crate) pods: BTreeMap<String, PodRecord>,
}

impl Store {
    /// Opens the record, or begins an empty one. A key that cannot be read is replaced: what it sealed is lost then.
    pub(crate) fn open(folder: &Path) -> io::Result<Store> {
        place::make_directory(folder, 0o700)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        place::make_directory(&folder.join("pods"), 0o700)?;
        remove_unfinished(folder);
        remove_unfinished(&folder.join("pods"));
        let key = Key::new(&key(&folder.join("key"))?).map_err(io::Error::other)?;
        Ok(Store { folder: folder.to_owned(), key, known: Mutex::default() })
    }

    /// Reads everything that can be read.
    pub(crate) fn load(&self) -> Loaded {
        let mut loaded = Loaded::default();
        match self.read(&self.folder.join(NODE), NODE) {
            Ok(Some(node)) => loaded.node = node,
            Ok(None) => {}
            Err(error) => left_out(&self.folder.join(NODE), &error),
        }
        for name in names(&self.folder.join("pods")).into_iter().take(PODS_MAX) {
            let path = self.pod(&name);
            match self.read::<PodRecord>(&path, &name) {
                Ok(Some(record)) if record.uid() == name => {
                    self.remember(&name, &record, &path);
                    loaded.pods.insert(name, record);
                }
                Ok(None) => {}
                Ok(Some(_)) => left_out(&path, &Damage::Content),
                Err(error) => left_out(&path, &error),
            }
        }
        loaded
    }

    /// Writes the pod's file if it says something new; whether it was written.
    pub(crate) fn save(&self, record: &PodRecord) -> io::Result<bool> {
        let uid = record.uid();
        check_name(uid)?;
        let essence = hash(&record.essence()?);
        if self.lock().get(uid).is_some_and(|known| known.essence == essence) {
            return Ok(false);
        }
        let sealed = self.sealed(uid, record)?;
        let bytes = sealed.len() as u64;
        {
            let known = self.lock();
            let others = known.iter().filter(|(name, _)| *name != uid);
            let total: u64 = others.clone().map(|(_, entry)| entry.bytes).sum();
            if others.count() >= PODS_MAX || total + bytes > TOTAL_BYTES_MAX {
                return Err(refused(format!(
                    "the record is full: at most {PODS_MAX} pods and {TOTAL_BYTES_MAX} bytes"
                )));
            }
        }
        sys::atomic_write(&self.pod(uid), &sealed, 0o600)?;
        self.lock().insert(uid.to_owned(), Entry { essence, bytes });
        Ok(true)
    }

    /// Takes a pod out; one that is not there is fine.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        check_name(uid)?;
        self.lock().remove(uid);
        match fs::remove_file(self.pod(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes out all pods but these, also those whose files could not be read.
    pub(crate) fn retain(&self, uids: &BTreeSet<String>) {
        for name in names(&self.folder.join("pods")).into_iter().filter(|n| !uids.contains(n)) {
            if let Err(error) = self.remove(&name) {
                tracing::warn!(path = %self.pod(&name).display(), %error, "old record not removed");
            }
        }
    }

    pub(crate) fn save_node(&self, record: &NodeRecord) -> io::Result<()> {
        let sealed = self.sealed(NODE, record)?;
        sys::atomic_write(&self.folder.join(NODE), &sealed, 0o600)
    }

    fn sealed(&self, name: &str, record: &impl Serialize) -> io::Result<Vec<u8>> {
        let sealed = self.key.seal(name, &serde_json::to_vec(record)?).map_err(io::Error::other)?;
        if sealed.len() > FILE_BYTES_MAX {
            let bytes = sealed.len();
            return Err(refused(format!("it needs {bytes} bytes, more than {FILE_BYTES_MAX}")));
        }
        Ok(sealed)
    }

    /// `None` if there is no such file.
    fn read<T: DeserializeOwned>(&self, path: &Path, name: &str) -> Result<Option<T>, Damage> {
        let mut bytes = Vec::new();
        match fs::File::open(path) {
            Ok(file) => {
                let read = file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
                read.map_err(|_| Damage::Broken)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) => return Err(Damage::Broken),
        }
        if bytes.len() > FILE_BYTES_MAX {
            return Err(Damage::TooLarge);
        }
        let content = self.key.open(name, &bytes)?;
        serde_json::from_slice(&content).map(Some).map_err(|_| Damage::Content)
    }

    fn remember(&self, name: &str, record: &PodRecord, path: &Path) {
        let Ok(essence) = record.essence() else { return };
        let bytes = fs::metadata(path).map_or(0, |m| m.len());
        self.lock().insert(name.to_owned(), Entry { essence: hash(&essence), bytes });
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.folder.join("pods").join(uid)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    match fs::read(path) {
        Ok(bytes) => match bytes.as_slice().try_into() {
            Ok(key) => return Ok(key),
            Err(_) => left_out(path, &Damage::Broken),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key = seal::fresh().map_err(io::Error::other)?;
    sys::atomic_write(path, &key, 0o600)?;
    Ok(key)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Uids become names of files.
fn check_name(uid: &str) -> io::Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if uid.is_empty() || uid.len() > NAME_BYTES_MAX || !uid.bytes().all(plain) {
        return Err(refused(format!("uid {uid:?} cannot name a file")));
    }
    Ok(())
}

fn left_out(path: &Path, error: &Damage) {
    tracing::error!(path = %path.display(), %error, "record left out");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| check_name(name).is_ok());
    names.sort();
    names
}

/// Files that a power cut kept from getting their names.
fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.')
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "unfinished file not removed");
        }
    }
}
