//! Device-mapper: create one read-only device with one target, through /dev/mapper/control.
//!
//! Only what a verified root needs; the kernel's structures are laid out by hand (`struct dm_ioctl` is 312 bytes and
//! `struct dm_target_spec` 40 bytes on every architecture), so no C header is involved.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

const CONTROL: &str = "/dev/mapper/control";
const HEADER_LEN: usize = 312;
const TARGET_LEN: usize = 40;
const BUFFER_LEN: usize = 4096;
const NAME_MAX: usize = 127;
const NAME_OFFSET: usize = 48;
const DEV_OFFSET: usize = 40;
const FLAG_READONLY: u32 = 1;
const VERSION: [u32; 3] = [4, 0, 0];

#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Command {
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
}

/// Creates the read-only device `name` of `sectors` sectors with one target and returns its node.
///
/// `kind` and `parameters` are the target's name and its table text, as in a `dmsetup` table line.
/// A device that could not be completed is removed again.
pub fn create_readonly(
    name: &str,
    kind: &str,
    sectors: u64,
    parameters: &str,
) -> io::Result<PathBuf> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    let mut buffer = request(name, &[])?;
    call(&control, Command::Create, &mut buffer)?;
    let minor = minor_of(&buffer);
    let loaded = load(&control, name, kind, sectors, parameters);
    if loaded.is_err() {
        // What matters is the first error.
        let _ =
            request(name, &[]).and_then(|mut buffer| call(&control, Command::Remove, &mut buffer));
    }
    loaded?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn load(control: &File, name: &str, kind: &str, sectors: u64, parameters: &str) -> io::Result<()> {
    let mut buffer = request(name, &target(kind, sectors, parameters)?)?;
    put_u32(&mut buffer, 20, 1);
    call(control, Command::Load, &mut buffer)?;
    // A suspend request without the suspend flag makes the loaded table live.
    call(control, Command::Resume, &mut request(name, &[])?)
}

/// The request header followed by `payload`, in a buffer the kernel can answer into.
fn request(name: &str, payload: &[u8]) -> io::Result<Vec<u8>> {
    if name.is_empty() || name.len() > NAME_MAX || HEADER_LEN + payload.len() > BUFFER_LEN {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut buffer = vec![0; BUFFER_LEN];
    for (index, part) in VERSION.into_iter().enumerate() {
        put_u32(&mut buffer, index * 4, part);
    }
    put_u32(&mut buffer, 12, BUFFER_LEN as u32);
    put_u32(&mut buffer, 16, HEADER_LEN as u32);
    put_u32(&mut buffer, 28, FLAG_READONLY);
    buffer[NAME_OFFSET..NAME_OFFSET + name.len()].copy_from_slice(name.as_bytes());
    buffer[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
    Ok(buffer)
}

/// One `dm_target_spec` with its parameter text, padded to eight bytes.
fn target(kind: &str, sectors: u64, parameters: &str) -> io::Result<Vec<u8>> {
    if kind.len() > 15 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let len = (TARGET_LEN + parameters.len() + 1).next_multiple_of(8);
    let mut spec = vec![0; len];
    spec[8..16].copy_from_slice(&sectors.to_ne_bytes());
    put_u32(&mut spec, 20, len as u32);
    spec[24..24 + kind.len()].copy_from_slice(kind.as_bytes());
    spec[TARGET_LEN..TARGET_LEN + parameters.len()].copy_from_slice(parameters.as_bytes());
    Ok(spec)
}

fn put_u32(buffer: &mut [u8], offset: usize, value: u32) {
    buffer[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

/// The minor number out of the kernel's 32-bit encoding (8 low bits, 12 bits of major, then the rest).
fn minor_of(buffer: &[u8]) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&buffer[DEV_OFFSET..DEV_OFFSET + 8]);
    let dev = u64::from_ne_bytes(raw);
    (dev & 0xff) | ((dev >> 12) & 0xfff00)
}

fn call(control: &File, command: Command, buffer: &mut [u8]) -> io::Result<()> {
    let number = (3u32 << 30) | ((HEADER_LEN as u32) << 16) | (0xfd << 8) | command as u32;
    // SAFETY: the descriptor is open, and the buffer is writable, BUFFER_LEN long as its data_size field says.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), number as _, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_padded_and_says_its_length() {
        let spec = target("verity", 80, "1 a b").unwrap();
        assert_eq!(spec.len(), 48);
        assert_eq!(spec[8..16], 80u64.to_ne_bytes());
        assert_eq!(spec[20..24], 48u32.to_ne_bytes());
        assert_eq!(&spec[24..31], b"verity\0");
        assert_eq!(&spec[40..46], b"1 a b\0");
    }

    #[test]
    fn a_minor_number_is_taken_out_of_the_device_number() {
        let mut buffer = request("root", &[]).unwrap();
        buffer[40..48].copy_from_slice(&((253u64 << 8) | 7 | (3 << 20)).to_ne_bytes());
        assert_eq!(minor_of(&buffer), 7 | (3 << 8));
    }

    #[test]
    fn too_long_names_and_tables_are_refused() {
        assert!(request(&"x".repeat(128), &[]).is_err());
        assert!(request("root", &vec![0; BUFFER_LEN]).is_err());
        assert!(target("a-much-too-long-name", 1, "").is_err());
    }
}
