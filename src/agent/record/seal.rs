//! The form of a sealed file: `MAGIC nonce(12) ciphertext tag(16)`, ChaCha20-Poly1305 under the node's key, bound to its name.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

pub(super) const KEY_BYTES: usize = 32;
/// Names the format and its version.
const MAGIC: &[u8; 8] = b"cpdrec01";

/// Why a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is not a record of this version")]
    Foreign,
    #[error("it is damaged or was sealed with another key")]
    Broken,
    #[error("it is larger than a record may be")]
    TooLarge,
    #[error("its content is not what was expected")]
    Content,
}

/// The system has no random numbers, or the content is larger than the cipher takes.
#[derive(Debug, thiserror::Error)]
#[error("content cannot be sealed")]
pub(crate) struct Unsealable;

pub(super) struct Key(LessSafeKey);

/// A new key.
pub(super) fn fresh() -> Result<[u8; KEY_BYTES], Unsealable> {
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Unsealable)?;
    Ok(bytes)
}

impl Key {
    pub(super) fn new(bytes: &[u8; KEY_BYTES]) -> Result<Key, Unsealable> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| Unsealable)?;
        Ok(Key(LessSafeKey::new(key)))
    }

    pub(super) fn seal(&self, name: &str, content: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Unsealable)?;
        let mut sealed = content.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound(name)),
                &mut sealed,
            )
            .map_err(|_| Unsealable)?;
        Ok([MAGIC.as_slice(), &nonce, &sealed].concat())
    }

    pub(super) fn open(&self, name: &str, file: &[u8]) -> Result<Vec<u8>, Damage> {
        let rest = file.strip_prefix(MAGIC).ok_or(Damage::Foreign)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Damage::Broken)?;
        let mut content = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self
            .0
            .open_in_place(nonce, Aad::from(bound(name)), &mut content)
            .map_err(|_| Damage::Broken)?
            .len();
        content.truncate(plain);
        Ok(content)
    }
}

/// A file is only good under its own name.
fn bound(name: &str) -> Vec<u8> {
    [MAGIC.as_slice(), name.as_bytes()].concat()
}
