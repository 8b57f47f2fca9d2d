//! The head of a bundle: magic, lengths, manifest, signature. The parts follow at the offsets the manifest gives.
//!
//! Nothing of the manifest is looked at before its signature has been found good.

use std::io::{self, Read};

use crate::error::{Error, Refusal};
use crate::keys::{Keys, SIGNATURE_MAX};
use crate::manifest::{MANIFEST_MAX, Manifest};
use crate::source::Source;

/// First bytes of a bundle; the last one before the line feed changes with the head's layout.
const MAGIC: &[u8; 16] = b"copepod-bundle1\n";
/// Magic, then the lengths of manifest and signature as 32-bit little-endian numbers.
const PREFIX_LEN: u64 = 24;

/// A bundle whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub manifest: Manifest,
    /// Where the parts begin.
    pub(crate) payload_at: u64,
}

impl Bundle {
    /// Reads and verifies the head.
    pub fn open(source: &dyn Source, keys: &Keys) -> Result<Bundle, Error> {
        let mut prefix = [0; 24];
        let mut reader = source.read(0..PREFIX_LEN).map_err(Error::Source)?;
        fill(&mut *reader, &mut prefix)?;
        let (manifest_len, signature_len) = lengths(&prefix)?;
        let payload_at = PREFIX_LEN + (manifest_len + signature_len) as u64;
        let mut reader = source.read(PREFIX_LEN..payload_at).map_err(Error::Source)?;
        let mut manifest = vec![0; manifest_len];
        fill(&mut *reader, &mut manifest)?;
        let mut signature = vec![0; signature_len];
        fill(&mut *reader, &mut signature)?;
        keys.verify(&manifest, &signature)?;
        let bundle = Bundle { manifest: Manifest::parse(&manifest)?, payload_at };
        match source.length() {
            Some(found) if found < bundle.length() => {
                Err(Refusal::Truncated { found, need: bundle.length() }.into())
            }
            _ => Ok(bundle),
        }
    }

    /// Bytes of the whole bundle.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.payload_at.saturating_add(self.manifest.payload())
    }
}

/// The head of a bundle with this manifest and signature; the parts are to follow.
#[must_use]
pub fn encode_head(manifest: &[u8], signature: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    [MAGIC.as_slice(), &length(manifest), &length(signature), manifest, signature].concat()
}

fn lengths(prefix: &[u8; 24]) -> Result<(usize, usize), Refusal> {
    let wrong = |reason: &str| Refusal::NotABundle(reason.to_owned());
    let rest = prefix.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin as one"))?;
    let mut numbers = rest.chunks_exact(4).map(|bytes| {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    });
    let (manifest, signature) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if manifest > MANIFEST_MAX || signature > SIGNATURE_MAX {
        return Err(wrong("its head is too long"));
    }
    Ok((manifest, signature))
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<(), Error> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Refusal::NotABundle("it ends within its head".to_owned()).into()
        }
        _ => Error::Source(error),
    })
}
