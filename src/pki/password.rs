//! Passwords of nodes: how they are kept so that reading them back does not help.

use crate::{Error, constant_time_eq, hex};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as B64;
use ring::pbkdf2;
use std::num::NonZeroU32;

/// The form of the text: PBKDF2 with HMAC-SHA-256.
const VERSION: &str = "$2";
const ITERATIONS: u32 = 100_000;
/// A kept hash that asks for more work than this is not one of ours.
const ITERATIONS_MAX: u32 = 1_000_000;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The text to keep of a password, `$2:<salt>:<iterations>:<hash>`. It takes a good part of a second on a small board.
pub fn hash_password(password: &str) -> Result<String, Error> {
    let salt = crate::random_hex(SALT_BYTES)?;
    let hash = derive(password, &salt, ITERATIONS)
        .ok_or(Error::Malformed { what: "iterations".into(), why: "they are zero".into() })?;
    Ok(format!("{VERSION}:{salt}:{ITERATIONS}:{}", B64.encode(hash)))
}

/// Whether the password is the one of the kept text; as slow as making the text.
pub fn password_matches(password: &str, kept: &str) -> bool {
    let parts: Vec<&str> = kept.trim().split(':').collect();
    let [VERSION, salt, iterations, hash] = parts.as_slice() else { return false };
    let (Ok(iterations), Ok(hash)) = (iterations.parse::<u32>(), B64.decode(hash)) else {
        return false;
    };
    iterations <= ITERATIONS_MAX
        && derive(password, salt, iterations).is_some_and(|own| constant_time_eq(&own, &hash))
}

fn derive(password: &str, salt: &str, iterations: u32) -> Option<[u8; HASH_BYTES]> {
    let mut hash = [0u8; HASH_BYTES];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        NonZeroU32::new(iterations)?,
        salt.as_bytes(),
        password.as_bytes(),
        &mut hash,
    );
    Some(hash)
}

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}
