//! What a process uses, as the kernel accounts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks of /proc/PID/stat per second; the same on all of Linux' architectures that matter here.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Proportional set size in bytes.
    pub(crate) pss: u64,
    /// Bytes sent to storage since the process started.
    pub(crate) written: u64,
    pub(crate) cpu: Duration,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| path)
        };
        let pss = field(&read("smaps_rollup")?, "Pss:").context("Pss")? * 1024;
        let written = field(&read("io")?, "write_bytes:").context("write_bytes")?;
        let stat = read("stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|t| t.parse::<u64>().ok())
            .sum();
        Ok(Usage { pss, written, cpu: Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND) })
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
