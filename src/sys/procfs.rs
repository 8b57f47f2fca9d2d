//! Small readers of `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

fn malformed(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path}: unexpected content"))
}

/// Identifies this boot; changes with every start of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Time since the kernel started, suspend included.
pub fn uptime() -> io::Result<Duration> {
    let path = "/proc/uptime";
    let text = fs::read_to_string(path)?;
    let seconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<f64>().ok())
        .ok_or_else(|| malformed(path))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| malformed(path))
}

/// A process's fields of `/proc/<pid>/stat` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// One letter: `R`, `S`, `Z`, ...
    pub state: char,
    pub parent: i32,
    /// Clock ticks after boot; with the pid it names a process for the life of this kernel.
    pub start_time: u64,
}

/// Reads what names a process. `NotFound` when there is none.
pub fn process_stat(pid: i32) -> io::Result<ProcessStat> {
    let path = format!("/proc/{pid}/stat");
    parse_stat(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))
}

pub(crate) fn parse_stat(text: &str) -> Option<ProcessStat> {
    // The command may contain spaces and parentheses: fields are counted after the last ')'.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // state is field 3 and parent field 4 of the file; start time is field 22.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(ProcessStat { state, parent, start_time })
}

/// Total memory of the machine in bytes.
pub fn memory_total() -> io::Result<u64> {
    memory_field("MemTotal:")
}

/// Memory available for new work without swapping, in bytes.
pub fn memory_available() -> io::Result<u64> {
    memory_field("MemAvailable:")
}

fn memory_field(name: &str) -> io::Result<u64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path)?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes.saturating_mul(1024))
        .ok_or_else(|| malformed(path))
}
