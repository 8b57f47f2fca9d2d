//! How far a long step has come: a line that changes on a terminal, a line for each tenth elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::show::{mib, seconds};

const SHOW_EVERY: Duration = Duration::from_millis(200);
const TENTHS: u64 = 10;

pub(crate) struct Progress {
    doing: String,
    total: u64,
    began: Instant,
    shown: Option<Instant>,
    tenths: u64,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(doing: &str, total: u64) -> Progress {
        let terminal = std::io::stdout().is_terminal();
        let doing = doing.to_owned();
        Progress { doing, total, began: Instant::now(), shown: None, tenths: 0, terminal }
    }

    /// `done` of the total's bytes are done.
    pub(crate) fn show(&mut self, done: u64) {
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= SHOW_EVERY);
        let tenths = done.saturating_mul(TENTHS).checked_div(self.total).unwrap_or(TENTHS);
        if self.terminal && due {
            print!("\r\x1b[K    {}", self.line(done));
            let _ = std::io::stdout().flush();
            self.shown = Some(Instant::now());
        } else if !self.terminal && tenths > self.tenths && tenths < TENTHS {
            println!("    {}", self.line(done));
        }
        self.tenths = tenths;
    }

    pub(crate) fn end(self) {
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let time = seconds(self.began.elapsed());
        println!("{start}    {}, {time}", self.line(self.total));
    }

    fn line(&self, done: u64) -> String {
        let percent = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let rate = rate(done, self.began.elapsed());
        format!("{} {percent} % of {}, {rate}", self.doing, mib(self.total))
    }
}

fn rate(bytes: u64, time: Duration) -> String {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", mib(bytes.saturating_mul(1000) / milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_no_time_to_have_passed() {
        assert_eq!(rate(0, Duration::ZERO), "0.0 MiB/s");
        assert_eq!(rate(3 << 20, Duration::from_millis(1500)), "2.0 MiB/s");
    }
}
