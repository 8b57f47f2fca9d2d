//! Lines on /dev/console, never waiting for a slow terminal: what does not fit is dropped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

const PATH: &str = "/dev/console";
/// Longest line shown; the rest is in the service's log file.
const LINE_MAX: usize = 400;

/// The console of PID 1.
#[derive(Debug)]
pub(crate) struct Console {
    device: Option<File>,
}

impl Console {
    pub(crate) fn open() -> Console {
        let flags = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).bits();
        Console { device: OpenOptions::new().write(true).custom_flags(flags).open(PATH).ok() }
    }

    /// Shows one line with the time since the start and who says it.
    pub(crate) fn say(&mut self, who: &str, text: &str) {
        let Some(device) = &mut self.device else { return };
        let uptime = sys::procfs::uptime().unwrap_or_default().as_secs_f32();
        let clean: String = text
            .chars()
            .filter(|char| !char.is_control() || *char == '\t')
            .take(LINE_MAX)
            .collect();
        // A full or vanished console must not hold up PID 1.
        let _ = device.write_all(format!("[{uptime:9.3}] {who}: {clean}\r\n").as_bytes());
    }
}

/// A line of stage 1, which lives too shortly to keep a console.
pub(crate) fn early(text: &str) {
    Console::open().say("stage1", text);
}
