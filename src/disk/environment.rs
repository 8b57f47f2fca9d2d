//! U-Boot's environment format with checksum: CRC-32 (little endian), `name=value` entries ended by NUL, padding.

use crate::Error;

const CHECKSUM_LEN: usize = 4;

/// Writes the entries into an image of exactly `size` bytes.
pub fn encode(entries: &[(&str, &str)], size: usize) -> Result<Vec<u8>, Error> {
    let mut data = Vec::with_capacity(size);
    for (name, value) in entries {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::EnvironmentEntry(format!("{name}={value}")));
        }
        data.extend_from_slice(name.as_bytes());
        data.push(b'=');
        data.extend_from_slice(value.as_bytes());
        data.push(0);
    }
    data.push(0);
    let need = CHECKSUM_LEN + data.len();
    if need > size {
        return Err(Error::EnvironmentTooLarge { need, size });
    }
    data.resize(size - CHECKSUM_LEN, 0);
    let mut image = crc32(&data).to_le_bytes().to_vec();
    image.extend_from_slice(&data);
    Ok(image)
}

/// Reads all entries; a wrong checksum or a malformed entry is an error.
pub fn decode(image: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let Some((head, data)) = image.split_first_chunk::<CHECKSUM_LEN>() else {
        return Err(Error::EnvironmentTooShort(image.len()));
    };
    let (stored, computed) = (u32::from_le_bytes(*head), crc32(data));
    if stored != computed {
        return Err(Error::EnvironmentChecksum { stored, computed });
    }
    data.split(|&byte| byte == 0)
        .take_while(|entry| !entry.is_empty())
        .map(|entry| {
            let text = String::from_utf8_lossy(entry);
            let (name, value) =
                text.split_once('=').ok_or_else(|| Error::EnvironmentEntry(text.to_string()))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The usual reflected CRC-32 (polynomial 0xedb88320), bit by bit: the inputs are a few kilobytes.
#[must_use]
pub fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !data.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
