//! SHA-256, by ring.

use std::fmt::Write;
use std::io::{self, Read};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

/// Bytes read at a time when a whole file or device is hashed.
const READ_LEN: usize = 256 * 1024;

/// The hash of what was added so far.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }
}

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    #[must_use]
    pub fn finish(self) -> [u8; SHA256_OUTPUT_LEN] {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        for (target, source) in bytes.iter_mut().zip(self.0.finish().as_ref()) {
            *target = *source;
        }
        bytes
    }

    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
        let mut hash = Sha256::default();
        hash.update(bytes);
        hash.finish()
    }

    /// The hash of everything the reader has, and how much that was.
    pub fn of_reader(mut reader: impl Read) -> io::Result<([u8; SHA256_OUTPUT_LEN], u64)> {
        let mut hash = Sha256::default();
        let mut buffer = vec![0; READ_LEN];
        let mut length = 0;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok((hash.finish(), length)),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(buffer.get(..read).unwrap_or_default());
            length += read as u64;
        }
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
