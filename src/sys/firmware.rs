//! The Raspberry Pi's firmware, asked through the mailbox device that Raspberry Pi's own kernels have.
//!
//! A request is a list of 32-bit words: its length in bytes, a status, one tag (number, bytes of its value, a status, the
//! value), a zero.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

const DEVICE: &str = "/dev/vcio";
const WORDS: usize = 7;
const GET_REBOOT_FLAGS: u32 = 0x0003_0064;
const SET_REBOOT_FLAGS: u32 = 0x0003_8064;
/// Set in the status of a tag that the firmware knows.
const ANSWERED: u32 = 0x8000_0000;

nix::ioctl_readwrite_bad!(
    mailbox_property,
    nix::request_code_readwrite!(100, 0, size_of::<usize>()),
    [u32; WORDS]
);

/// The flags the firmware has for the next start.
pub fn reboot_flags() -> io::Result<u32> {
    ask(Path::new(DEVICE), GET_REBOOT_FLAGS, 0)
}

/// Sets them; 1 lets the firmware read `tryboot.txt` instead of `config.txt` once.
pub fn set_reboot_flags(flags: u32) -> io::Result<()> {
    ask(Path::new(DEVICE), SET_REBOOT_FLAGS, flags).map(drop)
}

pub(crate) fn ask(device: &Path, tag: u32, value: u32) -> io::Result<u32> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", device.display()));
    let file = File::options().read(true).write(true).open(device).map_err(named)?;
    let mut words = request(tag, value);
    // SAFETY: the ioctl reads and writes as many bytes as the first word says, which is the length of the array.
    unsafe { mailbox_property(file.as_raw_fd(), &raw mut words) }
        .map_err(|error| named(error.into()))?;
    answer(&words).map_err(named)
}

pub(crate) fn request(tag: u32, value: u32) -> [u32; WORDS] {
    const LENGTH: u32 = (WORDS * 4) as u32;
    [LENGTH, 0, tag, 4, 0, value, 0]
}

/// The value, if the firmware knows the tag.
pub(crate) fn answer(words: &[u32; WORDS]) -> io::Result<u32> {
    let [_, _, tag, _, status, value, _] = words;
    if status & ANSWERED != 0 {
        return Ok(*value);
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the firmware does not know {tag:#010x}"),
    ))
}
