//! Taking the machine down: what asks for it, and in which order it happens.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerOff,
    Restart,
}

impl Ending {
    /// What a signal to PID 1 asks for; Ctrl-Alt-Del arrives as SIGINT.
    pub(crate) fn of_signal(signal: Signal) -> Option<Ending> {
        match signal {
            Signal::SIGTERM | Signal::SIGPWR | Signal::SIGUSR2 => Some(Ending::PowerOff),
            Signal::SIGINT | Signal::SIGUSR1 => Some(Ending::Restart),
            _ => None,
        }
    }
}

const INPUT_DIR: &str = "/dev/input";
/// Input devices looked at; boards have one or two keys.
const INPUTS_MAX: usize = 16;
const EVENT_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: u32 = 1;
/// A time of two machine words, then type and code (16 bits each) and value (32 bits).
pub(crate) const EVENT_LEN: usize = 2 * size_of::<usize>() + 8;

/// The input devices a power key may sit on.
pub(crate) fn key_devices() -> Vec<File> {
    let Ok(entries) = fs::read_dir(INPUT_DIR) else { return Vec::new() };
    let events =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("event"));
    let open =
        |path| OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok();
    events.take(INPUTS_MAX).filter_map(|entry| open(entry.path())).collect()
}

/// Whether the events say that the power key went down.
pub(crate) fn has_power_key(events: &[u8]) -> bool {
    events.chunks_exact(EVENT_LEN).any(|event| {
        let tail = event.last_chunk::<8>().copied().unwrap_or_default();
        let [k0, k1, c0, c1, v0, v1, v2, v3] = tail;
        u16::from_ne_bytes([k0, k1]) == EVENT_KEY
            && u16::from_ne_bytes([c0, c1]) == KEY_POWER
            && u32::from_ne_bytes([v0, v1, v2, v3]) == PRESSED
    })
}
