//! Where layers lie, and who may touch which: one lock per layer, held while it is made or removed, kept while a pull
//! counts on it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::digest::Digest;
use super::error::Error;
use super::unpack::{self, Limits, UnpackError, Unpacked};

/// Mode of an image's root directory unless the image says otherwise.
const ROOT_MODE: u32 = 0o755;

/// A claim on a layer: as long as it lives the layer is not collected.
pub(super) struct Slot {
    pub(super) lock: tokio::sync::Mutex<()>,
}

/// The unpacked layers of a store.
pub(super) struct Layers {
    directory: PathBuf,
    temporary: PathBuf,
    limits: Limits,
    sequence: AtomicU64,
    slots: Mutex<HashMap<Digest, Weak<Slot>>>,
}

impl Layers {
    pub(super) fn new(directory: PathBuf, temporary: PathBuf, limits: Limits) -> Self {
        Self {
            directory,
            temporary,
            limits,
            sequence: AtomicU64::new(0),
            slots: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join(diff_id.hex())
    }

    pub(super) fn contains(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// Claims a layer, whether it is there already or not.
    pub(super) fn claim(&self, diff_id: &Digest) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(diff_id).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot { lock: tokio::sync::Mutex::new(()) });
        slots.insert(diff_id.clone(), Arc::downgrade(&slot));
        slot
    }

    /// A name for something unfinished.
    pub(super) fn temporary(&self, hint: &str) -> PathBuf {
        self.temporary.join(format!("{hint}-{}", self.sequence.fetch_add(1, Ordering::Relaxed)))
    }

    /// Unpacks an archive and makes it the layer `diff_id` if its digests are right. The caller holds the layer's lock.
    pub(super) fn add(
        &self,
        source: impl io::Read,
        diff_id: &Digest,
        blob: Option<(&Digest, u64)>,
    ) -> Result<(), Error> {
        let target = self.temporary("layer");
        fs::create_dir(&target).map_err(Error::io("create directory", &target))?;
        // A layer without an entry for its root must not get the mode of our umask.
        fs::set_permissions(&target, PermissionsExt::from_mode(ROOT_MODE))
            .map_err(Error::io("set mode of", &target))?;
        let done = unpack::unpack(source, &target, self.limits)
            .map_err(|source| layer_error(diff_id, source))
            .and_then(|unpacked| check(&unpacked, diff_id, blob))
            .and_then(|()| self.publish(&target, diff_id));
        if done.is_err() {
            remove_tree(&target);
        }
        done
    }

    fn publish(&self, from: &Path, diff_id: &Digest) -> Result<(), Error> {
        let to = self.path(diff_id);
        if let Err(error) = fs::rename(from, &to) {
            // A pull that was given up and begun again may have been faster; equal names have equal content.
            if !self.contains(diff_id) {
                return Err(Error::io("rename layer to", &to)(error));
            }
            remove_tree(from);
        }
        sys::files::sync_dir(&self.directory).map_err(Error::io("sync", &self.directory))
    }

    /// Moves every layer that is neither wanted nor claimed out of the way; the returned directories can be deleted.
    pub(super) fn sweep(&self, wanted: impl Fn(&Digest) -> bool) -> Result<Vec<PathBuf>, Error> {
        let mut swept = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(Error::io("list", &self.directory))? {
            let entry = entry.map_err(Error::io("list", &self.directory))?;
            let Some(diff_id) = entry
                .file_name()
                .to_str()
                .and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok())
            else {
                continue;
            };
            if wanted(&diff_id) {
                continue;
            }
            let slot = self.claim(&diff_id);
            // Somebody else's claim, or a layer being made.
            if Arc::strong_count(&slot) > 1 {
                continue;
            }
            let Ok(_guard) = slot.lock.try_lock() else { continue };
            let away = self.temporary("removed");
            fs::rename(entry.path(), &away).map_err(Error::io("rename layer", entry.path()))?;
            swept.push(away);
        }
        Ok(swept)
    }
}

fn layer_error(diff_id: &Digest, source: UnpackError) -> Error {
    Error::Layer { layer: diff_id.to_string(), source: Arc::new(source) }
}

fn check(unpacked: &Unpacked, diff_id: &Digest, blob: Option<(&Digest, u64)>) -> Result<(), Error> {
    let mismatch = |what: &str, expected: &Digest, actual: &Digest| {
        Err(Error::Mismatch {
            what: what.to_owned(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        })
    };
    match blob {
        Some((blob, _)) if *blob != unpacked.blob => {
            return mismatch("layer blob", blob, &unpacked.blob);
        }
        Some((blob, size)) if size != unpacked.blob_bytes => {
            let reason = format!("it has {} bytes instead of {size}", unpacked.blob_bytes);
            return Err(Error::invalid(format!("layer blob {blob}"), reason));
        }
        _ => {}
    }
    if *diff_id == unpacked.diff_id {
        Ok(())
    } else {
        mismatch("unpacked layer", diff_id, &unpacked.diff_id)
    }
}

/// Deletes what is out of use already; what cannot be deleted is left to the next start.
pub(super) fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "failed to delete a directory that is out of use");
    }
}
