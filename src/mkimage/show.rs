//! What the tool tells the person in front of it.

use std::time::{Duration, Instant};

/// One step of a build, with the time it took when it is dropped.
pub(crate) struct Step {
    began: Instant,
    result: String,
}

pub(crate) fn step(text: &str) -> Step {
    println!("==> {text}");
    Step { began: Instant::now(), result: String::new() }
}

impl Step {
    pub(crate) fn done(mut self, result: impl Into<String>) {
        self.result = result.into();
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        let seconds = seconds(self.began.elapsed());
        if !self.result.is_empty() {
            println!("    {} ({seconds})", self.result);
        }
    }
}

/// A warning nobody should miss.
pub(crate) fn warn(lines: &[&str]) {
    eprintln!("!!! {}", "-".repeat(76));
    for line in lines {
        eprintln!("!!! {line}");
    }
    eprintln!("!!! {}", "-".repeat(76));
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}

pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
