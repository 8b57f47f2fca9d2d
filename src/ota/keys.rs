//! Who may make bundles: the public keys in the image, in minisign's format.
//!
//! A bundle may be signed by any of them, which is how a key is replaced: an image signed with the old key brings the
//! new one along, and when all boards run it, an image signed with the new key leaves the old one out.

use std::fs;
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use crate::error::Refusal;

/// Files looked at, and bytes read of each.
const KEYS_MAX: usize = 16;
const KEY_BYTES_MAX: u64 = 4096;
/// Bytes of an encoded signature.
pub(crate) const SIGNATURE_MAX: usize = 4096;

/// The keys an image trusts.
pub struct Keys {
    folder: PathBuf,
    keys: Vec<PublicKey>,
    /// Files that hold no key.
    unreadable: Vec<String>,
}

impl Keys {
    /// Reads every `*.pub` of the folder.
    #[must_use]
    pub fn read(folder: &Path) -> Keys {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
        files.sort();
        let mut keys = Keys { folder: folder.to_owned(), keys: Vec::new(), unreadable: Vec::new() };
        for path in files.into_iter().take(KEYS_MAX) {
            match read(&path) {
                Ok(key) => keys.keys.push(key),
                Err(reason) => keys.unreadable.push(format!("{}: {reason}", path.display())),
            }
        }
        keys
    }

    /// What is wrong with the folder's files, for the log.
    #[must_use]
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Checks that one of the keys made this signature of `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        if self.keys.is_empty() {
            return Err(Refusal::NoKeys(self.folder.clone()));
        }
        let wrong = |error: &dyn std::fmt::Display| Refusal::Signature(error.to_string());
        let text = std::str::from_utf8(signature).map_err(|error| wrong(&error))?;
        let signature = Signature::decode(text).map_err(|error| wrong(&error))?;
        let mut last = None;
        for key in &self.keys {
            match key.verify(message, &signature, false) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(Refusal::NoKeys(self.folder.clone()), |error| wrong(&error)))
    }
}

fn read(path: &Path) -> Result<PublicKey, String> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    PublicKey::decode(text.trim()).map_err(|error| error.to_string())
}
